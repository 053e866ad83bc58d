"""When to look at the shelves again: at once when there is word of new work, and by itself in a rhythm."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

from coordinator.steps import guarded
from store.notices import Bell, Ear

QUICK_S = 0.2  # after work was drawn, and where no word comes from other processes
SLOW_S = 1.0
APART_S = 0.05
RECONNECT_S = (0.1, 0.5, 2.0, 5.0)


class Lookout:
    """Keeps a picture of the shelves fresh. Other processes' words come by an `Ear`, once it listens."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self._soon: asyncio.TimerHandle | None = None
        self._ear: Ear | None = None

    def ring(self) -> None:
        """Asks for a look now; looks are APART_S apart."""
        self._rung.set()

    def soon(self) -> None:
        """Asks for a look within QUICK_S."""
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(QUICK_S, self.ring)

    @property
    def hears(self) -> bool:
        """Whether word of other processes comes."""
        return self._ear is not None and self._ear.hears

    async def keep(self, look: Callable[[], Awaitable[object]]) -> None:
        """Looks again and again, until cancelled."""
        while True:
            await asyncio.sleep(APART_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._rung.wait(), SLOW_S if self.hears else QUICK_S)
            self._rung.clear()
            if self._soon is not None:
                self._soon.cancel()
                self._soon = None
            await guarded("shelves", look)

    async def listen(self, database_url: str, bell: Bell) -> None:
        """Listens for word of other processes, and connects again whenever the connection is lost."""
        ear, failures = Ear(database_url, bell, self.ring), 0
        self._ear = ear
        while True:
            began = asyncio.get_running_loop().time()
            await guarded("listen", ear.listen)
            if asyncio.get_running_loop().time() - began > RECONNECT_S[-1]:
                failures = 0
            pause = RECONNECT_S[min(failures, len(RECONNECT_S) - 1)]
            failures += 1
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 (jitter, no secret)
