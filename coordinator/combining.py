"""Group commit: calls that come while others are being committed share the next transaction."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from coordinator import metrics

LINGER_S = 0.04  # by which calls in company may be held up to share a transaction

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[T, R]):
    item: T
    weight: int
    done: "asyncio.Future[R]"


class Combiner(Generic[T, R]):
    """Runs `together` on one or many items at a time, at most `at_once` runs at a time.

    An item alone is run at once where nothing runs. Those that come meanwhile wait and then run together, up
    to `capacity` in weight; beside another run they start once they weigh a quarter of that. Where a run of
    several fails, each is run again alone, so that one call's fault is its own. While calls come in company,
    a run waits until `linger_s` after the last one's begin, so that more of them share it. `name` is theirs
    on the metrics page.
    """

    def __init__(
        self,
        name: str,
        together: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        *,
        at_once: int,
        capacity: int,
        linger_s: float = 0.0,
    ) -> None:
        self._size = metrics.GROUPS.labels(name)
        self._together = together
        self._free = at_once
        self._capacity = capacity
        self._linger_s = linger_s
        self._began, self._company = 0.0, 0
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: list[_Waiting[T, R]] = []
        self._runs: set[asyncio.Task[None]] = set()

    async def __call__(self, item: T, weight: int = 1) -> R:
        """Waits for the item's turn and gives its outcome, or raises its error."""
        waiting: _Waiting[T, R] = _Waiting(item, weight, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._start()
        return await waiting.done

    def _start(self) -> None:
        while self._free and self._waiting:
            if self._weight() < self._capacity // 4 and (self._runs or self._lingers()):
                return
            self._free -= 1
            batch = self._take()
            self._began, self._company = asyncio.get_running_loop().time(), len(batch)
            run = asyncio.create_task(self._run(batch))
            self._runs.add(run)
            run.add_done_callback(self._ended)

    def _lingers(self) -> bool:
        """Whether the next run is to wait for more calls; begins it when they have had their time."""
        loop = asyncio.get_running_loop()
        left = self._began + self._linger_s - loop.time()
        if left <= 0 or self._company + len(self._waiting) <= 2:
            return False
        if self._timer is None:
            self._timer = loop.call_later(left, self._time_is_up)
        return True

    def _time_is_up(self) -> None:
        self._timer = None
        self._start()

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
