"""Wires one work server: gRPC over TLS, and the pictures that it keeps fresh."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import grpc

from coordinator import pulse
from coordinator.campaigns import Campaigns
from coordinator.clock import now
from coordinator.facts import UnitFacts
from coordinator.identity import Identity
from coordinator.images import ImageUrls
from coordinator.keys import Keys, keys_of
from coordinator.leasing import Leasing
from coordinator.returns import Returns
from coordinator.rpc import CoordinatorService
from coordinator.scheduler import Scheduler
from coordinator.settings import Settings
from coordinator.steps import again
from coordinator.trust import Trust
from coordinator.work import Work
from protos import work_pb2_grpc
from store.database import Database

SHELVES_EVERY_S = 0.2
CAMPAIGNS_EVERY_S = 1.0
PULSE_EVERY_S = 3.0
TRUST_EVERY_S = 1.0
STOP_GRACE_S = 5.0
MAX_MESSAGE = 8 * 1024 * 1024


@contextlib.asynccontextmanager
async def work_server(settings: Settings, database_url: str) -> AsyncIterator[int]:
    """Serves work while the context lasts; gives the port."""
    keys, rng = keys_of(settings), random.Random()  # noqa: S311 (order of work, no secret)
    db = Database.connect(database_url, pool_size=settings.pool)
    campaigns, scheduler = Campaigns(db, rng), Scheduler(rng)
    facts = UnitFacts(db)
    trust = Trust(db, rng, now)
    leasing = Leasing(db, campaigns, scheduler, facts, trust, now)
    identity = Identity(db, keys, now)
    service = CoordinatorService(
        db=db,
        identity=identity,
        campaigns=campaigns,
        scheduler=scheduler,
        leasing=leasing,
        work=Work(db, campaigns, now),
        returns=Returns(db, campaigns, facts, trust, now),
        keys=keys,
        urls=ImageUrls(settings.images_base, keys),
    )

    async def beat() -> None:
        await pulse.beat(db, now())

    for refresh in (beat, campaigns.refresh, identity.refresh, trust.refresh, leasing.look_at_shelves):
        await refresh()
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE),
            ("grpc.so_reuseport", 1),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ]
    )
    work_pb2_grpc.add_CoordinatorServicer_to_server(service, server)  # type: ignore[no-untyped-call]  # generated
    port = server.add_secure_port(f"{settings.host}:{settings.port}", _credentials(keys))
    await server.start()
    async with asyncio.TaskGroup() as tasks:
        pictures = [
            tasks.create_task(again(SHELVES_EVERY_S, "shelves", leasing.look_at_shelves)),
            tasks.create_task(again(PULSE_EVERY_S, "pulse", beat)),
            tasks.create_task(again(CAMPAIGNS_EVERY_S, "campaigns", campaigns.refresh)),
            tasks.create_task(again(CAMPAIGNS_EVERY_S, "identity", identity.refresh)),
            tasks.create_task(again(TRUST_EVERY_S, "trust", trust.refresh)),
        ]
        try:
            yield port
        finally:
            with contextlib.suppress(TimeoutError):  # a half-dead connection may outlast the grace
                await asyncio.wait_for(server.stop(STOP_GRACE_S), 2 * STOP_GRACE_S)
            for task in pictures:
                task.cancel()
    await db.close()


def _credentials(keys: Keys) -> grpc.ServerCredentials:
    pair = (keys.private_key.read_bytes(), keys.certificate.read_bytes())
    return grpc.ssl_server_credentials([pair])
