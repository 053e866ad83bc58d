"""The long poll: a lease that waits for work where there is none."""

import asyncio
from collections import Counter
from collections.abc import Sequence

from coordinator.combining import Combiner
from coordinator.identity import Caller
from coordinator.leasing import Leased, Leasing, capped
from coordinator.lookout import Lookout
from coordinator.scheduler import Ability, Scheduler
from coordinator.waiting import Waiter, WaitingRoom

LOOKS_SHARED = 1000
CALLS_OF_A_HOST = 2  # that wait at once; more are answered at once


class LongPoll:
    """The lease command for calls that may wait; nobody looks into the database for one of them alone."""

    def __init__(self, leasing: Leasing, scheduler: Scheduler) -> None:
        self._leasing = leasing
        self._scheduler = scheduler
        self._room = WaitingRoom(self._promises)
        self._looks = Combiner("look", self._look, at_once=1, capacity=LOOKS_SHARED)
        self._waiting_of: Counter[int] = Counter()
        self.lookout = Lookout()

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return len(self._room)

    async def look(self) -> None:
        """Takes a new picture of the shelves and lets calls try that wait."""
        await self._looks(None)
        self._room.stir()

    def work_is_near(self) -> None:
        """Takes note that this process has changed the shelves."""
        if self._room:
            self.lookout.ring()
        else:
            self.lookout.soon()

    def end(self) -> None:
        """Answers all calls that wait, and from now on those that would."""
        self._room.close()

    async def __call__(self, caller: Caller, ability: Ability, want: int, wait_s: float) -> Leased:
        """Leases as `Leasing` does; where there is nothing, waits for work, `wait_s` seconds at most."""
        if self._waiting_of[caller.host_id] >= CALLS_OF_A_HOST:
            wait_s = 0.0
        until = asyncio.get_running_loop().time() + wait_s
        waiter = Waiter(capped(caller, ability), caller.user_id, until, self._room.pictures)
        leased = await self._leasing(caller, ability, want)
        if leased.units or not wait_s:
            return leased
        if self._promises(waiter.ability):
            self.lookout.ring()  # the picture is behind
        self._waiting_of[caller.host_id] += 1
        try:
            while not leased.units and await self._room.turn(waiter):
                leased = await self._try(waiter, caller, ability, want)
        finally:
            self._waiting_of[caller.host_id] -= 1
            if not self._waiting_of[caller.host_id]:
                del self._waiting_of[caller.host_id]
        if leased.units or self._promises(waiter.ability):
            return leased
        return Leased([], 0, self._scheduler.picture.why_nothing(waiter.ability))

    async def _try(self, waiter: Waiter, caller: Caller, ability: Ability, want: int) -> Leased:
        waiter.seen = self._room.pictures
        leased = Leased([], 0)
        try:
            leased = await self._leasing(caller, ability, want)
            if not leased.units:
                await self._looks(None)
        finally:
            self._room.tried(waiter, got=bool(leased.units))
        return leased

    def _promises(self, ability: Ability) -> bool:
        return bool(self._scheduler.picture.fitting(ability).groups)

    async def _look(self, asked: Sequence[None]) -> Sequence[None]:
        await self._leasing.look_at_shelves()
        return asked
