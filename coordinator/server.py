"""Wires one work server: gRPC over TLS, and the pictures that it keeps fresh."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
from grpc_health.v1 import health_pb2_grpc

from coordinator import pulse
from coordinator.campaigns import Campaigns
from coordinator.clock import now
from coordinator.facts import UnitFacts
from coordinator.grpc_health import HealthService
from coordinator.health import Readiness
from coordinator.identity import Identity
from coordinator.images import ImageUrls
from coordinator.keys import Keys, keys_of
from coordinator.leasing import Leasing
from coordinator.long_poll import LongPoll
from coordinator.messages import Messages
from coordinator.pace import Paces
from coordinator.returns import Returns
from coordinator.rpc import CoordinatorService, register
from coordinator.scheduler import Scheduler
from coordinator.settings import Settings
from coordinator.steps import again
from coordinator.throttle import Throttle
from coordinator.trust import Trust
from coordinator.work import Work
from store.database import Database

STOP_GRACE_S = 5.0
DATABASE_PATIENCE_S = 20.0
MAX_MESSAGE = 8 * 1024 * 1024


@contextlib.asynccontextmanager
async def work_server(settings: Settings, database_url: str) -> AsyncIterator[int]:
    """Serves work while the context lasts; gives the port."""
    keys = keys_of(settings)
    db = Database.connect(database_url, pool_size=settings.pool)
    await db.await_server(DATABASE_PATIENCE_S)
    service, leasing, trust = _service(settings, db, keys)
    long_poll = service.long_poll
    db.bell.tapped(long_poll.work_is_near)

    async def beat() -> None:
        await pulse.beat(db, now())

    async def read_campaigns() -> None:
        await service.campaigns.refresh()
        long_poll.lookout.ring()  # the picture has them in it

    readiness = Readiness()
    # Name: how often (s) it is done, how long (s) it holds, and what.
    steps: dict[str, tuple[float, float, Callable[[], Awaitable[object]]]] = {
        "pulse": (3.0, 10.0, beat),
        "campaigns": (1.0, 5.0, read_campaigns),
        "identity": (1.0, 5.0, service.identity.refresh),
        "trust": (2.0, 10.0, trust.refresh),
        "paces": (2.0, 60.0, service.paces.refresh),
        "messages": (3.0, 60.0, service.messages.refresh),
        "throttle": (1.0, 30.0, service.throttle.refresh),
    }
    pictures = {
        name: (every_s, readiness.watched(name, holds_s, step))
        for name, (every_s, holds_s, step) in steps.items()
    }
    look = readiness.watched("shelves", 5.0, long_poll.look)
    for refresh in (*(refresh for _, refresh in pictures.values()), look):
        await refresh()
    server = _grpc_server()
    register(service, server)
    health_pb2_grpc.add_HealthServicer_to_server(HealthService(readiness), server)
    port = server.add_secure_port(f"{settings.host}:{settings.port}", _credentials(keys))
    await server.start()
    async with asyncio.TaskGroup() as tasks:
        rhythms = [again(every_s, name, refresh) for name, (every_s, refresh) in pictures.items()]
        rhythms += [long_poll.lookout.keep(look), long_poll.lookout.listen(database_url, db.bell)]
        refreshing = [tasks.create_task(rhythm) for rhythm in rhythms]
        try:
            yield port
        finally:
            readiness.drain()
            await asyncio.sleep(settings.drain_s)
            long_poll.end()
            with contextlib.suppress(TimeoutError):  # a half-dead connection may outlast the grace
                await asyncio.wait_for(server.stop(STOP_GRACE_S), 2 * STOP_GRACE_S)
            await leasing.close()
            for task in refreshing:
                task.cancel()
    await db.close()


def _service(settings: Settings, db: Database, keys: Keys) -> tuple[CoordinatorService, Leasing, Trust]:
    rng = random.Random()  # noqa: S311 (order of work, no secret)
    campaigns, scheduler, facts = Campaigns(db, rng), Scheduler(rng), UnitFacts(db)
    trust, paces, work = Trust(db, rng, now), Paces(db, facts, now), Work(db, campaigns, now)
    leasing = Leasing(db, campaigns, scheduler, facts, trust, paces, now, work.release)
    service = CoordinatorService(
        db=db,
        identity=Identity(db, keys, now),
        campaigns=campaigns,
        scheduler=scheduler,
        long_poll=LongPoll(leasing, scheduler),
        work=work,
        returns=Returns(db, campaigns, facts, trust, paces, now),
        messages=Messages(db, now),
        throttle=Throttle(db, now),
        paces=paces,
        keys=keys,
        urls=ImageUrls(settings.images_base, keys),
    )
    return service, leasing, trust


def _grpc_server() -> grpc.aio.Server:
    return grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE),
            ("grpc.so_reuseport", 1),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.tsi.max_frame_size", 4096),  # of the buffers of a connection, which wait with it
        ]
    )


def _credentials(keys: Keys) -> grpc.ServerCredentials:
    pair = (keys.private_key.read_bytes(), keys.certificate.read_bytes())
    return grpc.ssl_server_credentials([pair])
