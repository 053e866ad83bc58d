"""`chorus bench idle`: what clients cost that only wait for work, and how soon new work reaches one."""

import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from chorus.bench import ground
from chorus.bench.ground import Case, Ground
from chorus.bench.meter import percentile_ms
from chorus.bench.pollers import Plan
from chorus.processes import Child, python
from chorus.up import Running, coordinator
from coordinator.clock import now
from coordinator.keys import keys_of
from coordinator.settings import Settings
from store import bulk
from store.database import Database, Transaction

PROCESSES = 2
WAIT_MS = 120_000  # the longest that is granted
SETTLE_S = 3.0
APART_S = 0.25


@dataclass(frozen=True, slots=True)
class Size:
    """How many clients wait, for how long they are watched, and how many units are submitted one by one."""

    clients: int
    idle_s: float
    units: int


FULL, QUICK = Size(5000, 20.0, 60), Size(500, 5.0, 20)


async def bench(size: Size, folder: Path) -> dict[str, float]:
    """Measures one work server; gives the figures."""
    settings = Settings(data=folder / "idle", port=0, images_port=0, metrics_port=0)
    async with coordinator(settings) as running:
        db = Database.connect(running.settings.database_url or "", pool_size=2)
        try:
            return await _measure(size, running, db, folder)
        finally:
            await db.close()


async def _measure(size: Size, running: Running, db: Database, folder: Path) -> dict[str, float]:
    laid = await ground.lay(Case("idle", batch=1, hosts=size.clients, units=0, seconds=0), db)
    server = psutil.Process(running.children["work-1"].pid)
    await asyncio.sleep(SETTLE_S)
    before = server.memory_info().rss
    async with _pollers(running, laid, folder) as pollers:
        print(f"opening {size.clients} connections …", file=sys.stderr, flush=True)
        await _say(pollers)
        await asyncio.sleep(SETTLE_S)
        rss = server.memory_info().rss - before
        cpu = await _cpu_share(server, size.idle_s)
        submitted = [await _submit(db, laid.campaigns[0], number) for number in range(size.units)]
        await asyncio.sleep(SETTLE_S)
        receipts = [receipt for told in await _say(pollers) for receipt in told["received"]]
    delays = _delays(submitted, receipts)
    return {
        "clients": size.clients,
        "rss_kb_per_client": round(rss / 1024 / size.clients, 1),
        "cpu_share_of_core": round(cpu, 4),
        "wake_p50_ms": percentile_ms(delays, 50),
        "wake_p95_ms": percentile_ms(delays, 95),
    }


@contextlib.asynccontextmanager
async def _pollers(running: Running, laid: Ground, folder: Path) -> AsyncIterator[list[Child]]:
    children = []
    for number in range(PROCESSES):
        plan = Plan(
            address=running.settings.work_address,
            ca=keys_of(running.settings).ca_der.hex(),
            hosts=laid.hosts[number::PROCESSES],
            wait_ms=WAIT_MS,
        )
        file = folder / f"pollers-{number}.json"
        file.write_text(plan.model_dump_json(), "utf-8")
        command = python("-m", "chorus.bench.pollers", str(file))
        children.append(Child(f"pollers-{number}", command, {}, file.with_suffix(".log")))
    try:
        await asyncio.gather(*(child.start() for child in children))
        yield children
    finally:
        await asyncio.gather(*(child.stop() for child in children))


async def _say(pollers: list[Child]) -> list[dict[str, list[tuple[int, float]]]]:
    return list(await asyncio.gather(*(asyncio.to_thread(child.converse, b"go\n") for child in pollers)))


async def _cpu_share(server: psutil.Process, seconds: float) -> float:
    began, first = asyncio.get_running_loop().time(), server.cpu_times()
    await asyncio.sleep(seconds)
    last = server.cpu_times()
    used = last.user + last.system - first.user - first.system
    return used / (asyncio.get_running_loop().time() - began)


async def _submit(db: Database, campaign_id: int, number: int) -> float:
    """Births one unit; gives when it was committed, by the machine's monotonic clock (s)."""

    async def body(tx: Transaction) -> None:
        await bulk.fill(tx, campaign_id, 1, number, 1, now())
        tx.tell_everyone()

    await db.transaction("submit", body)
    committed = asyncio.get_running_loop().time()
    await asyncio.sleep(APART_S)
    return committed


def _delays(submitted: list[float], receipts: list[tuple[int, float]]) -> list[float]:
    """From each unit's commit to the first client that has it: units are born in the order of their ids."""
    first: dict[int, float] = {}
    for unit_id, at in receipts:
        first[unit_id] = min(at, first.get(unit_id, at))
    if len(first) != len(submitted):
        raise AssertionError(f"{len(submitted)} units were submitted, {len(first)} arrived")
    return [at - committed for (_, at), committed in zip(sorted(first.items()), submitted, strict=True)]


def run(*, quick: bool) -> None:
    """Runs the bench and prints, as its last line, JSON."""
    with tempfile.TemporaryDirectory(prefix="chorus-bench-") as name:
        Path(name).chmod(0o711)  # the database may run as another user
        print(json.dumps(asyncio.run(bench(QUICK if quick else FULL, Path(name)))))
