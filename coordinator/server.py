"""Wires one coordinator process: the gRPC server over TLS, and the pictures that it keeps fresh."""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime

import grpc
import structlog
import uvicorn
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from coordinator.campaigns import Campaigns
from coordinator.facts import UnitFacts
from coordinator.identity import Identity
from coordinator.images import ImageUrls, image_app
from coordinator.keys import Keys, open_keys
from coordinator.objects import Objects
from coordinator.returns import Returns
from coordinator.rpc import CoordinatorService
from coordinator.scheduler import Scheduler
from coordinator.settings import Settings
from coordinator.upkeep import Job, jobs
from coordinator.work import Work
from protos import work_pb2_grpc
from store.database import Database

SHELVES_EVERY_S = 0.2
CAMPAIGNS_EVERY_S = 1.0
STOP_GRACE_S = 5.0
MAX_MESSAGE = 8 * 1024 * 1024

log = structlog.get_logger("coordinator")


def now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.now(UTC)


def keys_of(settings: Settings) -> Keys:
    """The coordinator's keys, with a certificate for the names under which it is reached."""
    return open_keys(settings.keys_folder, [settings.reached_at], now())


@contextlib.asynccontextmanager
async def work_server(settings: Settings, database_url: str) -> AsyncIterator[int]:
    """Serves work while the context lasts; gives the port."""
    keys, rng = keys_of(settings), random.Random()  # noqa: S311 (order of work, no secret)
    db = Database.connect(database_url, pool_size=settings.pool)
    campaigns, scheduler = Campaigns(db, rng), Scheduler(rng)
    facts = UnitFacts(db)
    work = Work(db, campaigns, scheduler, facts, now)
    identity = Identity(db, keys, now)
    service = CoordinatorService(
        db=db,
        identity=identity,
        campaigns=campaigns,
        scheduler=scheduler,
        work=work,
        returns=Returns(db, campaigns, facts, now),
        keys=keys,
        urls=ImageUrls(settings.images_base, keys),
    )
    for refresh in (campaigns.refresh, identity.refresh, work.look_at_shelves):
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
            tasks.create_task(_again(SHELVES_EVERY_S, "shelves", work.look_at_shelves)),
            tasks.create_task(_again(CAMPAIGNS_EVERY_S, "campaigns", campaigns.refresh)),
            tasks.create_task(_again(CAMPAIGNS_EVERY_S, "identity", identity.refresh)),
        ]
        try:
            yield port
        finally:
            with contextlib.suppress(TimeoutError):  # a half-dead connection may outlast the grace
                await asyncio.wait_for(server.stop(STOP_GRACE_S), 2 * STOP_GRACE_S)
            for task in pictures:
                task.cancel()
    await db.close()


@contextlib.asynccontextmanager
async def image_server(settings: Settings) -> AsyncIterator[None]:
    """Serves images while the context lasts."""
    keys = keys_of(settings)
    app = image_app(ImageUrls(settings.images_base, keys), Objects(settings.objects_folder))
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.images_port,
        ssl_certfile=keys.certificate,
        ssl_keyfile=keys.private_key,
        log_config=None,
        access_log=False,
        lifespan="off",
    )
    server = _ImageServer(config)
    serving = asyncio.create_task(server.serve())
    await server.listening.wait()
    try:
        yield
    finally:
        server.should_exit = True
        await serving


class _ImageServer(uvicorn.Server):
    """uvicorn that leaves the signals to its process and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@contextlib.asynccontextmanager
async def upkeep(database_url: str) -> AsyncIterator[list[Job]]:
    """Runs every upkeep job in its rhythm while the context lasts."""
    db = Database.connect(database_url, pool_size=2)
    rng = random.Random()  # noqa: S311 (order of work, no secret)
    campaigns = Campaigns(db, rng)
    work = Work(db, campaigns, Scheduler(rng), UnitFacts(db), now)
    listed = jobs(db, work, now)
    scheduler = AsyncIOScheduler(timezone=UTC)
    for job in listed:
        scheduler.add_job(
            _guarded, "interval", (job.name, job.run), seconds=job.every_s, max_instances=1, coalesce=True
        )
    scheduler.start()
    try:
        yield listed
    finally:
        scheduler.shutdown(wait=False)
        await db.close()


def _credentials(keys: Keys) -> grpc.ServerCredentials:
    pair = (keys.private_key.read_bytes(), keys.certificate.read_bytes())
    return grpc.ssl_server_credentials([pair])


async def _again(every_s: float, name: str, step: Callable[[], Awaitable[object]]) -> None:
    while True:
        await asyncio.sleep(every_s)
        await _guarded(name, step)


async def _guarded(name: str, step: Callable[[], Awaitable[object]]) -> None:
    """A step that fails is told to the log and tried again in its rhythm."""
    try:
        await step()
    except Exception as error:  # noqa: BLE001 (one failed step must not end the server)
        log.warning("step_failed", step=name, error=str(error).splitlines()[0] if str(error) else repr(error))
