"""Health: whether a process should be sent work; over HTTP (/healthz, /readyz)."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from coordinator import metrics

LOOK_S = 0.2  # how soon a watcher is told of a change

# What a work server does again and again: how often (s), and how long ago (s) it may be while it is ready.
PICTURES = {
    "pulse": (3.0, 10.0),
    "campaigns": (1.0, 5.0),
    "identity": (1.0, 5.0),
    "trust": (1.0, 10.0),
    "shelves": (0.2, 2.0),
}

Faults = Callable[[], Awaitable[list[str]]]
"""Why not to send work here; empty where nothing is wrong."""


class Readiness:
    """What a process says of itself. It is ready while each of its pictures of the database was read within
    its limit (in seconds), the last reading did not fail, and it is not about to stop."""

    def __init__(self, pictures: Mapping[str, float], clock: Callable[[], float] = time.time) -> None:
        self._limits = dict(pictures)
        self._clock = clock
        self._read: dict[str, float] = {}
        self._failed: set[str] = set()
        self._stopping = asyncio.Event()

    def watched(self, picture: str, step: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[None]]:
        """The step that reads a picture, with a note of how it went."""

        async def look() -> None:
            try:
                await step()
            except Exception:
                self._failed.add(picture)
                raise
            self._failed.discard(picture)
            self._read[picture] = self._clock()
            metrics.PICTURES.labels(picture).set(self._read[picture])

        return look

    def drain(self) -> None:
        """Says from now on that no more work should be sent."""
        self._stopping.set()

    async def changed(self) -> None:
        """Waits until it may have changed."""
        try:
            await asyncio.wait_for(self._stopping.wait(), LOOK_S)
        except TimeoutError:
            return

    @property
    def draining(self) -> bool:
        """Whether the process is about to stop."""
        return self._stopping.is_set()

    async def faults(self) -> list[str]:
        """What is wrong."""
        now = self._clock()
        old = [
            f"picture_stale: {name} was not read for {limit:g} s"
            for name, limit in self._limits.items()
            if name in self._failed or now - self._read.get(name, 0.0) > limit
        ]
        return ["stopping", *old] if self.draining else old


def health_routes(faults: Faults) -> list[Route]:
    """/healthz says that the process answers, /readyz 503 and in words why it should not be sent work."""

    async def alive(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(_request: Request) -> Response:
        found = await faults()
        return PlainTextResponse("".join(f"{fault}\n" for fault in found) or "ready\n", 503 if found else 200)

    return [Route("/healthz", alive), Route("/readyz", ready)]
