"""Health over gRPC (grpc.health.v1), for load balancers."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coordinator.health import Readiness

SERVICES = ("", "chorus.v1.Coordinator")


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
