"""Readiness: not ready while a picture is stale, failed or never read, and from the start of a drain on."""

import asyncio

import pytest
from grpc_health.v1 import health_pb2
from starlette.applications import Starlette
from starlette.testclient import TestClient

from coordinator.grpc_health import HealthService
from coordinator.health import Readiness, health_routes

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Process:
    """A process with one picture that may be old for two seconds, and a clock that the test moves."""

    def __init__(self) -> None:
        self.time, self.fails = 100.0, False
        self.readiness = Readiness(lambda: self.time)
        self.look = self.readiness.watched("shelves", 2.0, self._step)

    async def _step(self) -> None:
        if self.fails:
            raise OSError("gone")

    async def is_ready(self) -> bool:
        return await self.readiness.faults() == []


@pytest.fixture
def process() -> Process:
    return Process()


async def test_a_process_is_ready_once_it_has_read_and_until_its_picture_is_old(process: Process):
    assert not await process.is_ready()
    await process.look()
    assert await process.is_ready()
    process.time += 2.1
    assert not await process.is_ready()
    await process.look()
    assert await process.is_ready()


async def test_a_reading_that_fails_counts_at_once_and_one_that_succeeds_mends_it(process: Process):
    await process.look()
    process.fails = True
    with pytest.raises(OSError, match="gone"):
        await process.look()
    assert [fault.split(":")[0] for fault in await process.readiness.faults()] == ["picture_stale"]
    process.fails = False
    await process.look()
    assert await process.is_ready()


async def test_a_draining_process_is_never_ready_again(process: Process):
    await process.look()
    process.readiness.drain()
    await process.look()
    assert await process.readiness.faults() == ["stopping"]


async def test_grpc_says_the_same_to_who_asks_and_to_who_watches(process: Process):
    await process.look()
    service = HealthService(process.readiness)
    request = health_pb2.HealthCheckRequest(service="chorus.v1.Coordinator")
    assert (await service.Check(request, None)).status == SERVING
    watch = service.Watch(request, None)
    assert (await anext(watch)).status == SERVING
    following = asyncio.create_task(anext(watch))
    process.readiness.drain()
    assert (await following).status == NOT_SERVING
    with pytest.raises(StopAsyncIteration):  # so that no watcher keeps the server from stopping
        await anext(watch)
    assert (await service.Check(request, None)).status == NOT_SERVING


async def test_a_watcher_of_an_unknown_service_is_told_so(process: Process):
    watch = HealthService(process.readiness).Watch(health_pb2.HealthCheckRequest(service="other"), None)
    assert (await anext(watch)).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def test_http_says_why_not():
    faults: list[str] = []

    async def found() -> list[str]:
        return faults

    client = TestClient(Starlette(routes=health_routes(found)))
    assert (client.get("/readyz").status_code, client.get("/readyz").text) == (200, "ready\n")
    faults.append("database_unreachable: x")
    assert (client.get("/readyz").status_code, client.get("/readyz").text) == (
        503,
        "database_unreachable: x\n",
    )
    assert client.get("/healthz").status_code == 200
