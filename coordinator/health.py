"""Health: whether a process should be sent work; for gRPC (grpc.health.v1) and HTTP (/healthz, /readyz)."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from coordinator import metrics

SERVICES = ("", "chorus.v1.Coordinator")
LOOK_S = 0.2  # how soon a watcher is told of a change

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


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # grpc_health ships no types
    """grpc.health.v1 for load balancers; anyone may ask."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    async def Check(  # noqa: N802 - the generated base class names it
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        """The status now."""
        if request.service not in SERVICES:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return await self._status(request.service)

    async def Watch(  # noqa: N802 - as above
        self, request: health_pb2.HealthCheckRequest, _context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The status whenever it changes, until the server drains."""
        last = None
        while True:
            ends = self._readiness.draining
            response = await self._status(request.service)
            if response != last:
                yield response
            if ends:
                return
            last = response
            await self._readiness.changed()

    async def _status(self, service: str) -> health_pb2.HealthCheckResponse:
        response = health_pb2.HealthCheckResponse
        if service not in SERVICES:
            return response(status=response.SERVICE_UNKNOWN)
        faults = await self._readiness.faults()
        return response(status=response.NOT_SERVING if faults else response.SERVING)


def health_routes(faults: Faults) -> list[Route]:
    """/healthz says that the process answers, /readyz 503 and in words why it should not be sent work."""

    async def alive(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(_request: Request) -> Response:
        found = await faults()
        return PlainTextResponse("".join(f"{fault}\n" for fault in found) or "ready\n", 503 if found else 200)

    return [Route("/healthz", alive), Route("/readyz", ready)]
