"""Calls that wait for work: a few try at a time, those that have waited longest first."""

import asyncio
from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from coordinator.scheduler import Ability

TRIES = 4  # begun by a new picture of the shelves
VAIN_TRIES = 64  # after one picture; one unit can be closed to 32 users at most


@dataclass(slots=True, eq=False)
class Waiter:
    """A call that waits, until a time of the event loop; `seen` is the picture of its last try."""

    ability: Ability
    user_id: int
    until: float
    seen: int
    number: int = field(default_factory=count().__next__)
    turn: "asyncio.Future[bool] | None" = None


class WaitingRoom:
    """Lets calls try for work in turn, so that one new unit does not wake thousands.

    A new picture of the shelves begins a few tries. Whoever gets work lets two more try, whoever gets none
    one more, while the picture promises something for them: so a chain grows with the work, and ends with it.
    """

    def __init__(self, promises: Callable[[Ability], bool]) -> None:
        self._promises = promises
        self._queues: dict[Ability, list[Waiter]] = {}
        self._vain: set[tuple[Ability, int]] = set()
        self._vain_left = VAIN_TRIES
        self._trying = 0
        self._closed = False
        self.pictures = 0

    def __len__(self) -> int:
        """How many calls wait."""
        return sum(map(len, self._queues.values()))

    def stir(self) -> None:
        """Begins tries, because there may be new work; those that tried in vain may try again."""
        self.pictures += 1
        self._vain.clear()
        self._vain_left = VAIN_TRIES
        self._wake(TRIES - self._trying)

    async def turn(self, waiter: Waiter) -> bool:
        """Waits for the caller's turn to try; false when its time is over.

        After a try it calls `tried`, and then this again to wait on, in its old place.
        """
        loop = asyncio.get_running_loop()
        if self._closed or waiter.until <= loop.time():
            return False
        turn: asyncio.Future[bool] = loop.create_future()
        waiter.turn = turn
        timer = loop.call_at(waiter.until, _time_over, turn)
        self._enter(waiter)
        if waiter.seen != self.pictures:
            self._wake(1)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():  # it was its turn: it is another's now
                self._trying -= 1
                self._wake(1)
            raise
        finally:
            timer.cancel()
            self._leave(waiter)

    def tried(self, waiter: Waiter, *, got: bool) -> None:
        """Ends a caller's try, and lets others try."""
        self._trying -= 1
        if got:
            self._wake(2)
            return
        self._vain.add((waiter.ability, waiter.user_id))
        self._vain_left -= 1
        if self._vain_left > 0:
            self._wake(1)

    def close(self) -> None:
        """Ends the waiting of all, for good."""
        self._closed = True
        for queue in self._queues.values():
            for waiter in queue:
                if waiter.turn is not None and not waiter.turn.done():
                    waiter.turn.set_result(False)

    def _wake(self, tries: int) -> None:
        for _ in range(tries):
            first = self._first()
            if first is None or first.turn is None:
                return
            self._leave(first)
            self._trying += 1
            first.turn.set_result(True)

    def _first(self) -> Waiter | None:
        """The one that has waited longest of those for whom there may be work."""
        firsts = []
        for ability, queue in self._queues.items():
            if self._promises(ability):
                firsts.append(next((one for one in queue if self._may_try(one)), None))
        return min((one for one in firsts if one is not None), key=_number, default=None)

    def _may_try(self, waiter: Waiter) -> bool:
        over = waiter.turn is None or waiter.turn.done()
        return not over and (waiter.ability, waiter.user_id) not in self._vain

    def _enter(self, waiter: Waiter) -> None:
        insort(self._queues.setdefault(waiter.ability, []), waiter, key=_number)

    def _leave(self, waiter: Waiter) -> None:
        queue = self._queues.get(waiter.ability, [])
        place = bisect_left(queue, waiter.number, key=_number)
        if queue[place : place + 1] == [waiter]:
            del queue[place]
            if not queue:
                del self._queues[waiter.ability]


def _number(waiter: Waiter) -> int:
    return waiter.number


def _time_over(turn: "asyncio.Future[bool]") -> None:
    if not turn.done():
        turn.set_result(False)
