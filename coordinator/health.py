"""Health: whether a process should be sent work; over HTTP (/healthz, /readyz)."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from coordinator import metrics

LOOK_S = 0.2  # how soon a watcher is told of a change

Faults = Callable[[], Awaitable[list[str]]]
"""Why not to send work here; empty where nothing is wrong."""


class Readiness:
    """What a process says of itself. It is ready while each of its pictures of the database is good: read
    without a fault, not too long ago. Once it drains it is never ready again."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._good_until: dict[str, float] = {}
        self._stopping = asyncio.Event()

    def watched(
        self, picture: str, holds_s: float, step: Callable[[], Awaitable[object]]
    ) -> Callable[[], Awaitable[None]]:
        """The step that reads a picture, which is then good for `holds_s` seconds."""
        self._note(picture, 0.0)

        async def look() -> None:
            try:
                await step()
            except Exception:
                self._note(picture, 0.0)
                raise
            self._note(picture, self._clock() + holds_s)

        return look

    def _note(self, picture: str, good_until: float) -> None:
        self._good_until[picture] = good_until
        metrics.PICTURES.labels(picture).set(good_until)

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
        stale = [f"picture_stale: {name}" for name, until in self._good_until.items() if until < now]
        return ["stopping", *stale] if self.draining else stale


def health_routes(faults: Faults) -> list[Route]:
    """/healthz says that the process answers, /readyz 503 and in words why it should not be sent work."""

    async def alive(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(_request: Request) -> Response:
        found = await faults()
        return PlainTextResponse("".join(f"{fault}\n" for fault in found) or "ready\n", 503 if found else 200)

    return [Route("/healthz", alive), Route("/readyz", ready)]
