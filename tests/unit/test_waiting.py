"""The waiting room: who tries next, that one unit does not wake thousands, and that nobody is forgotten."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from coordinator.scheduler import Ability
from coordinator.waiting import TRIES, VAIN_TRIES, Waiter, WaitingRoom
from protos.tier import Tier

LONG = 1e9
LARGE, SMALL = Ability(Tier.G80), Ability(Tier.CPU)


class Crowd:
    """A room with callers in it that note their turns; work is a number of units that anybody may take."""

    def __init__(self) -> None:
        self.promised: set[Ability] = {LARGE, SMALL}
        self.room = WaitingRoom(lambda ability: ability in self.promised)
        self.work = 0
        self.closed_to: set[int] = set()
        self.turns: list[str] = []
        self.served: list[str] = []
        self.calls: dict[str, asyncio.Task[bool]] = {}

    async def call(self, name: str, ability: Ability = LARGE, user: int | None = None) -> None:
        """A new caller, who waits when this returns."""
        user_id = len(self.calls) if user is None else user
        self.calls[name] = asyncio.create_task(self._wait(name, ability, user_id))
        await settle()

    async def stir(self, work: int) -> None:
        """A new picture with so much work."""
        self.work = work
        self.room.stir()
        await settle()

    async def _wait(self, name: str, ability: Ability, user_id: int) -> bool:
        waiter = Waiter(ability, user_id, LONG, self.room.pictures)
        while await self.room.turn(waiter):
            self.turns.append(name)
            waiter.seen = self.room.pictures
            await asyncio.sleep(0)
            got = self.work > 0 and user_id not in self.closed_to
            self.work -= got
            if self.work == 0:
                self.promised.clear()
            self.room.tried(waiter, got=got)
            if got:
                self.served.append(name)
                return True
        return False


async def settle() -> None:
    """Lets every task run until all wait."""
    for _ in range(400):
        await asyncio.sleep(0)


@asynccontextmanager
async def crowd(count: int = 0, ability: Ability = LARGE) -> AsyncIterator[Crowd]:
    made = Crowd()
    for number in range(count):
        await made.call(f"{number}", ability)
    yield made
    made.room.close()
    await asyncio.gather(*made.calls.values(), return_exceptions=True)


async def test_one_unit_goes_to_the_one_who_waited_longest_and_wakes_a_few():
    async with crowd(20) as made:
        await made.stir(1)
        assert made.served == ["0"]
        assert len(made.turns) <= TRIES + 2


async def test_much_work_wakes_as_many_as_there_is_work_for_in_their_order():
    async with crowd(20) as made:
        await made.stir(15)
        assert made.served == [str(number) for number in range(15)]
        assert len(made.turns) <= 15 + TRIES + 2


async def test_who_came_late_to_a_unit_keeps_its_place():
    async with crowd(6) as made:
        await made.stir(1)
        made.promised = {LARGE}
        await made.stir(1)
        assert made.served == ["0", "1"]


async def test_only_the_able_are_woken():
    async with crowd(5, SMALL) as made:
        await made.call("large")
        made.promised = {LARGE}
        await made.stir(1)
        assert (made.turns, made.served) == (["large"], ["large"])


async def test_nothing_promised_wakes_nobody():
    async with crowd(5) as made:
        made.promised.clear()
        await made.stir(0)
        assert made.turns == []


async def test_work_that_is_closed_to_those_in_front_finds_the_one_behind_them():
    async with crowd(40) as made:
        made.closed_to = set(range(39))
        await made.stir(1)
        assert made.served == ["39"]
        assert len(made.turns) == 40


async def test_a_user_tries_once_a_picture_with_however_many_hosts():
    async with crowd() as made:
        for number in range(200):
            await made.call(f"{number}", user=7)
        await made.call("other", user=8)
        made.closed_to = {7}
        await made.stir(1)
        assert made.served == ["other"]
        assert len(made.turns) <= TRIES + 1


async def test_work_that_is_closed_to_all_wakes_a_bounded_number():
    async with crowd(VAIN_TRIES * 2) as made:
        made.closed_to = set(range(VAIN_TRIES * 2))
        await made.stir(1)
        assert len(made.turns) <= VAIN_TRIES + TRIES
        await settle()
        assert len(made.turns) <= VAIN_TRIES + TRIES


async def test_a_picture_that_comes_during_a_try_is_not_missed():
    async with crowd() as made:
        waiter = Waiter(LARGE, 1, LONG, made.room.pictures)
        made.room.stir()
        assert await asyncio.wait_for(made.room.turn(waiter), 1)


async def test_a_call_that_hangs_up_leaves_at_once():
    async with crowd(3) as made:
        made.calls["0"].cancel()
        await settle()
        assert len(made.room) == 2
        await made.stir(1)
        assert made.served == ["1"]


async def test_a_call_that_hangs_up_at_its_turn_passes_it_on():
    async with crowd(TRIES + 1) as made:
        made.work = 1
        made.room.stir()
        for number in range(TRIES):
            made.calls[f"{number}"].cancel()
        await settle()
        assert made.served == [str(TRIES)]
        assert len(made.room) == 0


async def test_every_wait_ends_by_itself():
    room = WaitingRoom(lambda _: True)
    soon = asyncio.get_running_loop().time() + 0.001
    assert not await asyncio.wait_for(room.turn(Waiter(LARGE, 1, soon, room.pictures)), 1)
    assert not room


async def test_closing_ends_every_wait_and_those_that_would_begin():
    async with crowd(3) as made:
        made.room.close()
        assert await asyncio.gather(*made.calls.values()) == [False] * 3
        assert not await made.room.turn(Waiter(LARGE, 1, LONG, 0))
