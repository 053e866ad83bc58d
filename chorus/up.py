"""`chorus up`: database, coordinator and upkeep in one command, each in its own process, kept running."""

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog

from chorus import metric_files
from chorus.operator import database_folder
from chorus.processes import RESTART_S, Child, keep_running, python
from coordinator import logs
from coordinator.clock import now
from coordinator.errors import OperatorError
from coordinator.identity import Identity
from coordinator.keys import Keys, keys_of
from coordinator.settings import Settings
from protos.invite import Invite
from protos.tier import Tier
from store.database import Database
from store.embedded import EmbeddedError, EmbeddedPostgres
from store.migrate import upgrade

ADDRESS = "address.json"

PORT_PATIENCE_S = 8.0  # a work server may finish its calls for 5 s

log = structlog.get_logger("up")


@dataclass(frozen=True, slots=True)
class Running:
    """A coordinator that is up; `settings` has the ports and database that it really uses."""

    settings: Settings
    children: dict[str, Child]
    database: EmbeddedPostgres | None
    watchers: list[asyncio.Task[None]]

    async def broken(self) -> None:
        """Waits until something fails that cannot be started again, and raises what it said."""
        await asyncio.gather(*self.watchers)


@contextlib.asynccontextmanager
async def coordinator(
    settings: Settings, workers: int = 1, server: str = "chorus.serve"
) -> AsyncIterator[Running]:
    """A whole coordinator for as long as the context lasts. Processes that die are started again.

    `server` is the module that is run for each of its processes.

    Raises OperatorError("already_up") where another one runs on the same data folder.
    """
    with contextlib.ExitStack() as held:
        patience_s = PORT_PATIENCE_S if held.enter_context(_only_one(settings.data)) else 0.0
        settings = settings.model_copy(
            update={
                "port": settings.port or _free_port(settings.host),
                "images_port": settings.images_port or _free_port(settings.host),
                "metrics_port": settings.metrics_port or _free_port(settings.metrics_host),
            }
        )
        await _await_port(settings.host, settings.port, "--port", patience_s)
        await _await_port(settings.host, settings.images_port, "--images-port", patience_s)
        await _await_port(settings.metrics_host, settings.metrics_port, "--metrics-port", patience_s)
        database = None
        if settings.database_url is None:
            database = EmbeddedPostgres(database_folder(settings))
            held.callback(database.stop)
            url = await _start(database)
            settings = settings.model_copy(update={"database_url": url})
        await _prepare(settings)
        metric_files.forget(settings.metrics_folder)
        children = _children(settings, workers, server)
        try:
            await asyncio.gather(*(child.start() for child in children.values()))
            watchers = [asyncio.create_task(keep_running(child)) for child in children.values()]
            if database is not None:
                watchers.append(asyncio.create_task(_keep_database(database)))
            try:
                _write_address(settings)
                yield Running(settings, children, database, watchers)
            finally:
                (settings.data / ADDRESS).unlink(missing_ok=True)
                for watcher in watchers:
                    watcher.cancel()
                await asyncio.gather(*watchers, return_exceptions=True)
        finally:
            await asyncio.gather(*(child.stop() for child in children.values()))


async def _start(database: EmbeddedPostgres) -> str:
    """Starts the database and gives its URL; when cancelled, only once it can be stopped again."""
    starting = asyncio.ensure_future(asyncio.to_thread(database.start))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await starting
        raise


async def _prepare(settings: Settings) -> None:
    if settings.database_url is None:
        raise AssertionError("the database's URL is known by now")
    db = Database.connect(settings.database_url, pool_size=1)
    try:
        await db.check_server()
    finally:
        await db.close()
    await asyncio.to_thread(upgrade, settings.database_url)
    keys_of(settings)


def _children(settings: Settings, workers: int, server: str) -> dict[str, Child]:
    environment = {
        f"CHORUS_{name.upper()}": str(value)
        for name, value in settings.model_dump().items()
        if value is not None
    }
    environment["CHORUS_DATA"] = str(settings.data.resolve())
    roles = [f"work-{number}" for number in range(1, workers + 1)] + ["images", "upkeep"]
    logs = settings.data / "logs"
    return {
        role: Child(role, python("-m", server, role.split("-")[0]), environment, logs / f"{role}.log")
        for role in roles
    }


async def _keep_database(database: EmbeddedPostgres) -> None:
    """Starts the embedded database again when it dies; the servers reconnect by themselves.

    It may die again while it recovers. Raises EmbeddedError where it did not come up many times in a row.
    """
    while True:
        await asyncio.to_thread(database.wait)
        log.warning("database_ended", restarting=True)
        await asyncio.to_thread(database.stop)
        for pause in (*RESTART_S, None):
            try:
                await _start(database)
                break
            except EmbeddedError as error:
                log.error("database_does_not_start", error=str(error))
                if pause is None:
                    raise
                await asyncio.sleep(pause)


@contextlib.contextmanager
def _only_one(data: Path) -> Iterator[bool]:
    """Keeps others away; gives whether the last one was killed, so that its servers may still be ending."""
    if not data.exists():
        data.mkdir(parents=True)
        data.chmod(0o711)  # the database's user has to pass where we are root, whatever the umask
    with (data / "up.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.EACCES}:
                raise
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise OperatorError(
                "already_up", f"A coordinator is up on {data.resolve()} already (process {holder})."
            ) from error
        file.seek(0)
        was_killed = file.read() != ""
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield was_killed
        finally:
            file.truncate(0)


def _write_address(settings: Settings) -> None:
    """Leaves word, for `chorus admin invite`, of where this coordinator is reached."""
    known = {name: getattr(settings, name) for name in ("host", "public_host", "port", "images_port")}
    (settings.data / ADDRESS).write_text(json.dumps(known), "utf-8")


def as_reached(settings: Settings, **given: object) -> Settings:
    """The settings, with the address of the coordinator that is up here where none is given."""
    try:
        known = json.loads((settings.data / ADDRESS).read_text("utf-8"))
    except (OSError, ValueError):
        return settings
    return settings.model_copy(
        update={name: value for name, value in known.items() if given.get(name) is None}
    )


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


async def _await_port(host: str, port: int, flag: str, patience_s: float) -> None:
    """Waits until a port is free. Raises OperatorError where it stays taken, or cannot be had at all."""
    end_by = asyncio.get_running_loop().time() + patience_s
    while True:
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise OperatorError(
                    "address_unusable", f"Nothing can listen on {host}, port {port}: {error}"
                ) from error
            if asyncio.get_running_loop().time() >= end_by:
                raise OperatorError(
                    "port_in_use", f"Port {port} of {host} is in use: choose another one with {flag}."
                ) from error
            await asyncio.sleep(0.1)
        else:
            return


async def make_invite(
    settings: Settings, db: Database, keys: Keys, *, user: str | None, tier: Tier, uses: int, days: float
) -> str:
    """An invite's line for volunteers."""
    token = await Identity(db, keys, now).invite(user, tier, uses, timedelta(days=days))
    return Invite((settings.work_address,), token, keys.ca_der).encode()


async def up(settings: Settings, workers: int) -> None:
    """Runs a coordinator until SIGINT or SIGTERM, and says where it listens and how to join."""
    logs.configure(settings.log_level, for_people=True)
    stop = asyncio.Event()
    for wanted in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(wanted, stop.set)
    async with coordinator(settings, workers) as running:
        await _welcome(running)
        stopping, broken = asyncio.create_task(stop.wait()), asyncio.create_task(running.broken())
        await asyncio.wait((stopping, broken), return_when=asyncio.FIRST_COMPLETED)
        print("Stopping …", flush=True)
        stopping.cancel()
        if broken.done():
            broken.result()
        broken.cancel()
    print("Stopped. Nothing that was acknowledged is lost.")


async def _welcome(running: Running) -> None:
    settings = running.settings
    db = Database.connect(settings.database_url or "", pool_size=1)
    try:
        invite = await make_invite(
            settings, db, keys_of(settings), user=None, tier=Tier.G80, uses=10, days=1.0
        )
    finally:
        await db.close()
    where = "embedded" if running.database is not None else "your own, by --database-url"
    print(
        f"Chorus is up.\n"
        f"  work      {settings.work_address} (gRPC over TLS)\n"
        f"  images    {settings.images_base}\n"
        f"  database  {where}\n"
        f"  metrics   http://{settings.metrics_host}:{settings.metrics_port}/metrics\n"
        f"  data      {settings.data.resolve()} (logs in logs/)\n\n"
        f"A volunteer joins with this line (10 hosts, one day; more by `chorus admin invite`):\n\n"
        f"  chorus volunteer join {invite}\n\n"
        f"Ctrl-C stops.",
        flush=True,
    )
