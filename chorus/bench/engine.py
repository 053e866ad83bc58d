"""`chorus bench engine`: how fast real coordinator processes serve real clients over TLS."""

import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console
from rich.table import Table

from chorus.processes import Child, python
from chorus.up import Running, coordinator
from coordinator import campaigns as campaign_commands
from coordinator.clock import now
from coordinator.keys import keys_of
from coordinator.policy import CampaignFile, PerspectiveUse, Policy, builtin
from coordinator.settings import Settings
from protos import signing
from protos.tier import Tier
from store import bulk, hosts
from store.database import Database, Transaction


@dataclass(frozen=True, slots=True)
class Case:
    """`hosts` clients that each return and lease `batch` units at a time."""

    name: str
    batch: int
    hosts: int


CASES = (Case("batch_1", 1, 500), Case("batch_32", 32, 32), Case("batch_128", 128, 16))


@dataclass(frozen=True, slots=True)
class Size:
    """How long each case is measured, and how many units wait at its start."""

    seconds: float
    units: int
    workers: int


async def bench(size: Size) -> dict[str, Any]:
    """Measures every case; gives the figures by case."""
    with tempfile.TemporaryDirectory(prefix="chorus-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        settings = Settings(data=folder / "data", port=0, images_port=0, metrics_port=0)
        async with coordinator(settings, size.workers) as running:
            db = Database.connect(running.settings.database_url or "", pool_size=2)
            try:
                figures = {}
                for case in CASES:
                    print(f"measuring {case.name}: {case.hosts} hosts × {case.batch} …", file=sys.stderr)
                    figures[case.name] = await _measure(case, size, running, db, folder)
                return {**figures, "rss_mb": _memory_mb(running)}
            finally:
                await db.close()


async def _measure(case: Case, size: Size, running: Running, db: Database, folder: Path) -> dict[str, float]:
    campaign_id = await _fill(case, size, db)
    plan = {
        "address": running.settings.work_address,
        "ca": keys_of(running.settings).ca_der.hex(),
        "hosts": await _hosts(case, db),
        "batch": case.batch,
        "seconds": size.seconds,
    }
    plan_file = folder / f"{case.name}.json"
    plan_file.write_text(json.dumps(plan), "utf-8")
    async with _load(plan_file) as load:
        before = _Meter.read(running, await _counts(db, campaign_id))
        began = asyncio.get_running_loop().time()
        seen = await load
        seconds = asyncio.get_running_loop().time() - began
        after = _Meter.read(running, await _counts(db, campaign_id))
    await _close(db, campaign_id)
    return _figures(before, after, seen, seconds)


@contextlib.asynccontextmanager
async def _load(plan: Path) -> AsyncIterator[asyncio.Task[dict[str, Any]]]:
    child = Child("load", python("-m", "chorus.bench.load", str(plan)), {}, plan.with_suffix(".log"))
    await child.start()
    try:
        yield asyncio.create_task(asyncio.to_thread(child.converse, b"go\n"))
    finally:
        await child.stop()


@dataclass(frozen=True, slots=True)
class _Meter:
    """CPU seconds of the servers and the database, and the database's counts, at one moment."""

    server_cpu_s: float
    database_cpu_s: float
    counts: dict[str, int]

    @staticmethod
    def read(running: Running, counts: dict[str, int]) -> "_Meter":
        servers = [psutil.Process(child.pid) for child in running.children.values()]
        postmaster = psutil.Process(running.database.pid) if running.database else None
        backends = [postmaster, *postmaster.children()] if postmaster else []
        return _Meter(_cpu(servers), _cpu(backends), counts)


def _cpu(processes: Sequence[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _memory_mb(running: Running) -> float:
    used = [psutil.Process(child.pid).memory_info().rss for child in running.children.values()]
    return round(sum(used) / 1e6, 1)


async def _counts(db: Database, campaign_id: int) -> dict[str, int]:
    return await db.transaction("bench", lambda tx: bulk.counts(tx, campaign_id))


def _figures(before: _Meter, after: _Meter, seen: dict[str, Any], seconds: float) -> dict[str, float]:
    accepted = after.counts["accepted"] - before.counts["accepted"]
    results = after.counts["results"] - before.counts["results"]
    server = after.server_cpu_s - before.server_cpu_s
    database = after.database_cpu_s - before.database_cpu_s
    return {
        "accepted_units_per_s": round(accepted / seconds, 1),
        "results_per_s": round(results / seconds, 1),
        "cpu_us_per_result": round((server + database) / max(results, 1) * 1e6, 1),
        "server_cpu_us_per_result": round(server / max(results, 1) * 1e6, 1),
        "database_cpu_us_per_result": round(database / max(results, 1) * 1e6, 1),
        "commits_per_s": round((after.counts["commits"] - before.counts["commits"]) / seconds, 1),
        "calls_per_s": round(seen["calls"] / seconds, 1),
        "lease_p50_ms": _percentile(seen["lease_s"], 50),
        "lease_p99_ms": _percentile(seen["lease_s"], 99),
        "return_p50_ms": _percentile(seen["return_s"], 50),
        "return_p99_ms": _percentile(seen["return_s"], 99),
        "sql_accepted": accepted,
        "refused": seen["refused"],
    }


def _percentile(seconds: Sequence[float], share: int) -> float:
    if len(seconds) < 2:
        return round(1000 * sum(seconds), 2)
    return round(1000 * statistics.quantiles(seconds, n=100)[share - 1], 2)


async def _fill(case: Case, size: Size, db: Database) -> int:
    """A campaign with `size.units` units that wait; no images behind them are read."""
    policy = Policy(replication=2, max_voices=3, lease_s=600, spot_check=1)
    name = case.name.replace("_", "-")
    written = CampaignFile(
        name=name, perspectives=(PerspectiveUse(perspective="photo_caption"),), policy=policy
    )
    uses = [(use, builtin(use.perspective)) for use in written.perspectives]
    campaign_id = await campaign_commands.create(db, written, uses, now())
    await db.transaction("fill", lambda tx: bulk.fill(tx, campaign_id, size.units, now()))
    return campaign_id


async def _hosts(case: Case, db: Database) -> list[tuple[int, str]]:
    """One host per user, with a key that the load process is given."""

    async def body(tx: Transaction) -> list[tuple[int, str]]:
        made = []
        for number in range(case.hosts):
            key = Ed25519PrivateKey.generate()
            user_id = await hosts.ensure_user(tx, f"{case.name}-{number}", "volunteer", now())
            host_id = await hosts.add_host(tx, user_id, "bench", signing.public_bytes(key), Tier.G80, now())
            made.append((host_id, key.private_bytes_raw().hex()))
        return made

    return await db.transaction("hosts", body)


async def _close(db: Database, campaign_id: int) -> None:
    await db.transaction("close", lambda tx: bulk.empty_shelves(tx, campaign_id))


def table(figures: dict[str, Any]) -> Table:
    """The figures by case."""
    shown = Table(title="Work engine", title_justify="left")
    shown.add_column("figure")
    cases = [case.name for case in CASES]
    for name in cases:
        shown.add_column(name, justify="right")
    for figure in figures[cases[0]]:
        shown.add_row(figure, *(f"{figures[name][figure]:,}" for name in cases))
    return shown


def run(*, quick: bool) -> None:
    """Runs the bench and prints its table and, as the last line, JSON."""
    size = Size(seconds=5.0, units=120_000, workers=1) if quick else Size(20.0, 400_000, 1)
    figures = asyncio.run(bench(size))
    Console().print(table(figures))
    print(json.dumps(figures))
