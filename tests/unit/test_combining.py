"""Group commit: calls that come together run together, and one call's fault stays its own."""

import asyncio
from collections.abc import Sequence

import pytest

from coordinator.combining import Combiner


class Slow:
    """Runs what it is given when it is told to, and remembers the groups."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.go = asyncio.Event()

    async def __call__(self, items: Sequence[int]) -> list[int]:
        self.groups.append(list(items))
        await self.go.wait()
        if 13 in items:
            raise ValueError("unlucky")
        return [item * 10 for item in items]


async def _after_a_turn_of_the_loop() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_comes_while_one_runs_goes_together_and_each_gets_its_own_outcome():
    slow = Slow()
    combined: Combiner[int, int] = Combiner("test", slow, at_once=2, capacity=100)
    calls = [asyncio.create_task(combined(1))]
    await _after_a_turn_of_the_loop()
    calls += [asyncio.create_task(combined(number)) for number in (2, 3, 4)]
    await _after_a_turn_of_the_loop()
    assert slow.groups == [[1]]
    slow.go.set()
    assert await asyncio.gather(*calls) == [10, 20, 30, 40]
    assert slow.groups == [[1], [2, 3, 4]]


async def test_another_lane_opens_for_much_work_and_a_group_holds_its_capacity_at_most():
    slow = Slow()
    combined: Combiner[int, int] = Combiner("test", slow, at_once=2, capacity=100)
    calls = [asyncio.create_task(combined(number, 24)) for number in range(1, 8)]
    await _after_a_turn_of_the_loop()
    assert slow.groups == [[1], [2, 3]]  # the second begins as soon as two weigh a quarter of the capacity
    slow.go.set()
    await asyncio.gather(*calls)
    assert slow.groups[2:] == [[4, 5, 6, 7]]


async def test_a_call_that_is_larger_than_the_capacity_runs_all_the_same():
    slow = Slow()
    slow.go.set()
    combined: Combiner[int, int] = Combiner("test", slow, at_once=1, capacity=10)
    assert await combined(1, 500) == 10


async def test_one_calls_fault_is_its_own():
    slow = Slow()
    combined: Combiner[int, int] = Combiner("test", slow, at_once=1, capacity=100)
    first = asyncio.create_task(combined(1))
    await _after_a_turn_of_the_loop()
    others = [asyncio.create_task(combined(number)) for number in (2, 13, 4)]
    await _after_a_turn_of_the_loop()
    slow.go.set()
    assert await first == 10
    assert await others[0] == 20
    with pytest.raises(ValueError, match="unlucky"):
        await others[1]
    assert await others[2] == 40
    assert slow.groups == [[1], [2, 13, 4], [2], [13], [4]]


async def test_calls_in_company_wait_a_little_for_more_and_one_alone_does_not():
    slow = Slow()
    slow.go.set()
    combined: Combiner[int, int] = Combiner("test", slow, at_once=1, capacity=100, linger_s=0.05)
    assert await combined(1) == 10
    assert await combined(2) == 20  # alone: at once
    await asyncio.gather(combined(3), combined(4), combined(5))
    first = asyncio.create_task(combined(6))
    await _after_a_turn_of_the_loop()
    second = asyncio.create_task(combined(7))
    assert await asyncio.gather(first, second) == [60, 70]
    assert slow.groups == [[1], [2], [3], [4, 5], [6, 7]]
