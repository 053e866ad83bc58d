"""`chorus bench engine`: how fast real coordinator processes serve real clients over TLS."""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from chorus.bench import ground
from chorus.bench.ground import Case, Ground
from chorus.bench.load import Plan
from chorus.bench.meter import Meter, figures, memory_mb
from chorus.processes import Child, python
from chorus.up import Running, coordinator
from coordinator.keys import keys_of
from coordinator.settings import Settings
from store import bulk
from store.database import Database

Figures = dict[str, float]

GROWTH = (10_000, 1_000_000, 10_000_000)


@dataclass(frozen=True, slots=True)
class Size:
    """How many seconds a case is measured, how many units wait for it, and whether growth is measured."""

    seconds: float
    units: int
    growth: bool


QUICK = Size(5.0, 60_000, growth=False)
FULL = Size(20.0, 400_000, growth=True)


def _batches(size: Size) -> list[Case]:
    return [
        Case("batch_1", 1, 500, size.units, size.seconds),
        Case("batch_32", 32, 32, size.units, size.seconds),
        Case("batch_128", 128, 16, size.units, size.seconds),
        Case("batch_128_default", 128, 16, size.units, size.seconds, cross_check="default"),
    ]


def _growth() -> list[Case]:
    """The same work with more and more units behind it, and harder work.

    On many shelves a unit waits longer for its second answer: the harder cases run until that evens out.
    """
    plain = [Case(f"waiting_{units}", 128, 16, units, 600.0, results=16_384) for units in GROWTH]
    return [
        *plain,
        Case("many_shelves", 128, 16, 1_000_000, 600.0, results=131_072, campaigns=20, perspectives=8),
        Case("dominant_volunteer", 128, 16, 1_000_000, 600.0, results=65_536, answered=100_000),
    ]


async def bench(size: Size, folder: Path) -> dict[str, Any]:
    """Measures every case on a database of its own in `folder`; gives the figures by case."""
    found: dict[str, Any] = {}
    async with _server(folder, "chorus.serve") as bed:
        for case in _batches(size):
            found[case.name] = await bed.measure(case)
        found["rss_mb"] = memory_mb(bed.running)
        snapshot = Case("snapshot", 128, 16, size.units, size.seconds, old_snapshot=True)
        found["snapshot"] = _against(await bed.measure(snapshot), found["batch_128"])
        if size.growth:
            found["growth"] = await _grow(bed)
        found["sql_accepted"] = await bed.accepted()
    async with _server(folder, "chorus.bench.unchecked") as bed:
        ceiling = await bed.measure(Case("ceiling", 128, 16, size.units, size.seconds))
    found["ceiling_units_per_s"] = ceiling["accepted_units_per_s"]
    reached = found["batch_128"]["accepted_units_per_s"]
    found["ratio_to_ceiling"] = round(reached / max(ceiling["accepted_units_per_s"], 1), 3)
    return found


async def _grow(bed: "_Bed") -> dict[str, Figures]:
    grown: dict[str, Figures] = {}
    first: Figures | None = None
    for case in _growth():
        measured = await bed.measure(case)
        first = first or measured
        grown[case.name] = _against(measured, first)
    return grown


def _against(measured: Figures, plain: Figures) -> Figures:
    """A case's figures, and its rate as a share of the plain case's of the same run."""
    share = measured["accepted_units_per_s"] / max(plain["accepted_units_per_s"], 1)
    return {**measured, "ratio": round(share, 3)}


@dataclass(frozen=True, slots=True)
class _Bed:
    """A coordinator that is up, and the bench's own door to its database."""

    running: Running
    db: Database
    folder: Path

    async def measure(self, case: Case) -> Figures:
        """Lays the case's ground, lets its clients loose, and tidies up."""
        print(f"measuring {case.name}: {case.hosts} hosts × {case.batch} …", file=sys.stderr, flush=True)
        laid = await ground.lay(case, self.db)
        async with contextlib.AsyncExitStack() as held:
            load = await held.enter_async_context(self._load(case, laid))
            if case.old_snapshot:
                await held.enter_async_context(bulk.old_snapshot(self.db))
            before = await Meter.read(self.running, self.db, laid.campaigns)
            seen = await load
            after = await Meter.read(self.running, self.db, laid.campaigns)
        await ground.clear(self.db)
        measured = figures(before, after, seen, seen["seconds"])
        stored = after.counts["results"] - before.counts["results"]
        if stored != seen["results"]:
            raise AssertionError(f"{seen['results']} results were acknowledged, {stored} are in the database")
        return measured

    @contextlib.asynccontextmanager
    async def _load(self, case: Case, laid: Ground) -> AsyncIterator[asyncio.Task[dict[str, Any]]]:
        plan = Plan(
            address=self.running.settings.work_address,
            ca=keys_of(self.running.settings).ca_der.hex(),
            hosts=laid.hosts,
            batch=case.batch,
            seconds=case.seconds,
            results=case.results,
        )
        file = self.folder / f"{case.name}.json"
        file.write_text(plan.model_dump_json(), "utf-8")
        child = Child("load", python("-m", "chorus.bench.load", str(file)), {}, file.with_suffix(".log"))
        await child.start()
        try:
            yield asyncio.create_task(asyncio.to_thread(child.converse, b"go\n"))
        finally:
            await child.stop()

    async def accepted(self) -> int:
        """Units accepted in the whole database."""
        return await self.db.transaction("accepted", bulk.accepted)


@contextlib.asynccontextmanager
async def _server(folder: Path, module: str) -> AsyncIterator[_Bed]:
    settings = Settings(data=folder / module.rpartition(".")[2], port=0, images_port=0, metrics_port=0)
    async with coordinator(settings, server=module) as running:
        db = Database.connect(running.settings.database_url or "", pool_size=2)
        try:
            yield _Bed(running, db, folder)
        finally:
            await db.close()


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="chorus-bench-") as name:
        Path(name).chmod(0o711)  # the database may run as another user
        yield Path(name)


SHOWN = {
    "accepted_units_per_s": "accepted\nunits/s",
    "results_per_s": "results\n/s",
    "cpu_us_per_result": "CPU µs\n/result",
    "server_cpu_us_per_result": "server",
    "database_cpu_us_per_result": "database",
    "commits_per_s": "commits\n/s",
    "calls_per_s": "calls\n/s",
    "lease_p50_ms": "lease ms\np50",
    "lease_p99_ms": "lease ms\np99",
    "return_p99_ms": "return ms\np99",
    "ratio": "ratio",
}


def table(found: dict[str, Any]) -> Table:
    """The figures by case; a ratio is to the plain case of the same run."""
    shown = Table(title=f"Work engine, {os.cpu_count()} cores", title_justify="left")
    shown.add_column("case", no_wrap=True)
    for heading in SHOWN.values():
        shown.add_column(heading, justify="right", no_wrap=True)
    batches = {name: case for name, case in found.items() if name.startswith("batch_")}
    ceiling = {"accepted_units_per_s": found["ceiling_units_per_s"], "ratio": found["ratio_to_ceiling"]}
    cases = {**batches, "snapshot": found["snapshot"], **found.get("growth", {}), "ceiling": ceiling}
    for name, case in cases.items():
        shown.add_row(name, *(f"{case[figure]:,}" if figure in case else "" for figure in SHOWN))
    return shown


def run(*, quick: bool, keep: Path | None) -> None:
    """Runs the bench and prints its tables and, as the last line, JSON."""
    with _folder(keep) as folder:
        found = asyncio.run(bench(QUICK if quick else FULL, folder))
    Console(width=max(130, Console().width)).print(table(found))
    print(json.dumps(found))
