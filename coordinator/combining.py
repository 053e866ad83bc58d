"""Group commit: calls that come while others are being committed share the next transaction."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from coordinator import metrics

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[T, R]):
    item: T
    weight: int
    done: "asyncio.Future[R]"


class Combiner(Generic[T, R]):
    """Runs `together` on one or many items at a time, at most `lanes` times at once.

    An item alone is run at once where nothing runs. Those that come meanwhile wait and then run together, up
    to `capacity` in weight; beside another run they start once they weigh a quarter of that. Where a run of
    several fails, each is run again alone, so that one call's fault is its own. `name` is theirs on the
    metrics page.
    """

    def __init__(
        self,
        name: str,
        together: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        *,
        lanes: int,
        capacity: int,
    ) -> None:
        self._size = metrics.GROUPS.labels(name)
        self._together = together
        self._free = lanes
        self._capacity = capacity
        self._waiting: list[_Waiting[T, R]] = []
        self._runs: set[asyncio.Task[None]] = set()

    async def __call__(self, item: T, weight: int = 1) -> R:
        """Waits for the item's turn and gives its outcome, or raises its error."""
        waiting: _Waiting[T, R] = _Waiting(item, weight, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._start()
        return await waiting.done

    def _start(self) -> None:
        while self._free and self._waiting and (not self._runs or self._weight() >= self._capacity // 4):
            self._free -= 1
            run = asyncio.create_task(self._run(self._take()))
            self._runs.add(run)
            run.add_done_callback(self._ended)

    def _weight(self) -> int:
        return sum(waiting.weight for waiting in self._waiting)

    def _take(self) -> list[_Waiting[T, R]]:
        taken, weight = 0, 0
        for waiting in self._waiting:
            weight += waiting.weight
            if taken and weight > self._capacity:
                break
            taken += 1
        batch, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return batch

    def _ended(self, run: asyncio.Task[None]) -> None:
        self._runs.discard(run)
        self._free += 1
        self._start()

    async def _run(self, batch: list[_Waiting[T, R]]) -> None:
        self._size.observe(len(batch))
        try:
            outcomes = await self._together([waiting.item for waiting in batch])
        except Exception as error:  # noqa: BLE001 (whatever it is, it is the callers' to hear)
            if len(batch) == 1:
                _fail(batch[0], error)
                return
            for waiting in batch:
                await self._run([waiting])
            return
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if not waiting.done.done():
                waiting.done.set_result(outcome)


def _fail(waiting: _Waiting[T, R], error: Exception) -> None:
    if not waiting.done.done():
        waiting.done.set_exception(error)
