"""The page for machines that watch: /metrics of all processes of this coordinator, /healthz and /readyz."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from coordinator.health import Readiness, health_routes
from coordinator.settings import Settings
from coordinator.steps import again, guarded
from coordinator.web_server import web_server
from protos.tier import Tier
from store import vitals
from store.database import Database
from store.migrations import newest
from store.vitals import Vitals

VITALS_EVERY_S = 10.0
DATABASE_ANSWERS_S = 1.0
LONG_TRANSACTION_S = 30.0

log = structlog.get_logger("monitor")


@contextlib.asynccontextmanager
async def monitor(settings: Settings, database_url: str) -> AsyncIterator[None]:
    """Serves the page while the context lasts."""
    db = Database.connect(database_url, pool_size=2)
    gauges, readiness = VitalGauges(db), Readiness()
    faults = CoordinatorFaults(db, readiness, settings.metrics_folder)
    reading = asyncio.create_task(_read(gauges))
    app = monitor_app(gauges, faults, settings.metrics_folder)
    try:
        async with web_server(app, settings.metrics_host, settings.metrics_port):
            try:
                yield
            finally:
                readiness.drain()
                await asyncio.sleep(settings.drain_s)
    finally:
        reading.cancel()
        await db.close()


async def _read(gauges: "VitalGauges") -> None:
    await guarded("vitals", gauges.read)
    await again(VITALS_EVERY_S, "vitals", gauges.read)


def monitor_app(gauges: "VitalGauges", faults: "CoordinatorFaults", folder: Path) -> Starlette:
    """The HTTP application."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]  # it ships no types there
    registry.register(gauges)

    async def page(_request: Request) -> Response:
        text = await asyncio.to_thread(generate_latest, registry)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/metrics", page), *health_routes(faults)])


class CoordinatorFaults:
    """Why this coordinator should not be sent work: the database, its schema, its work servers' pictures."""

    def __init__(self, db: Database, readiness: Readiness, folder: Path) -> None:
        self._db = db
        self._readiness = readiness
        self._folder = folder
        self._newest = newest()

    async def __call__(self) -> list[str]:
        """What is wrong; answers within about a second, whatever the database does."""
        return [*await self._readiness.faults(), *await self._database(), *self._pictures()]

    async def _database(self) -> list[str]:
        try:
            async with asyncio.timeout(DATABASE_ANSWERS_S):
                at = await self._db.transaction("ready", vitals.revision)
        except Exception as error:  # noqa: BLE001 (whatever it is, the database cannot be used)
            return [f"database_unreachable: {type(error).__name__}"]
        if at != self._newest:
            return [f"schema_not_current: the database is at {at}, this version of Chorus at {self._newest}"]
        return []

    def _pictures(self) -> list[str]:
        """Read from the work servers' own files, so that one that hangs is seen."""
        files = [str(file) for file in self._folder.glob("gauge_all_work-*.db")]
        merged = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]  # as above
        good_until = {
            (sample.labels["pid"], sample.labels["picture"]): sample.value
            for metric in merged
            if metric.name == "chorus_picture_good_until_seconds"
            for sample in metric.samples
        }
        if not good_until:
            return ["no_work_server"]
        now = time.time()
        return [
            f"picture_stale: {name} of {process}"
            for (process, name), until in sorted(good_until.items())
            if until < now
        ]


class VitalGauges(Collector):
    """What is read of the database every ten seconds, and shown as it was then."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._vitals: Vitals | None = None
        self._read_at = 0.0
        self._told: set[tuple[int, str]] = set()

    async def read(self) -> None:
        """Takes a new reading, and tells the log of transactions that are open for long."""
        self._vitals = await self._db.transaction("vitals", vitals.read)
        self._read_at = time.time()
        long = [t for t in self._vitals.transactions if t.age_s > LONG_TRANSACTION_S]
        for transaction in long:
            if (transaction.pid, transaction.started) not in self._told:
                log.warning(
                    "long_transaction",
                    pid=transaction.pid,
                    application=transaction.application,
                    state=transaction.state,
                    age_s=round(transaction.age_s),
                    holds_snapshot=transaction.holds_snapshot,
                )
        self._told = {(transaction.pid, transaction.started) for transaction in long}

    def collect(self) -> Iterator[Metric]:
        """The families of the metrics page."""
        if self._vitals is not None:
            yield from families(self._vitals, self._read_at)

    def describe(self) -> Iterator[Metric]:
        """Names alone, so that registering reads nothing."""
        return families(Vitals([], [], [], [], {}), 0.0)


def families(read: Vitals, read_at: float) -> Iterator[Metric]:
    """A reading, for Prometheus."""
    at = GaugeMetricFamily("chorus_vitals_timestamp_seconds", "When the figures of the database were read.")
    at.add_metric((), read_at)
    waiting = GaugeMetricFamily(
        "chorus_waiting_replicas",
        "Replicas on the shelves, each shelf counted up to 10,000 (fewer where there are over 20 shelves).",
        labels=("campaign", "kind", "tier"),
    )
    for name, kind, tier, count in read.waiting:
        waiting.add_metric((name, kind, Tier(tier).label), count)
    leased = GaugeMetricFamily(
        "chorus_live_leases",
        "Live leases by the tier of their unit; over 20,000 estimated from a sample of the table.",
        labels=("campaign", "tier"),
    )
    for name, tier, leases in read.leased:
        leased.add_metric((name, Tier(tier).label), leases)
    outbox = GaugeMetricFamily(
        "chorus_outbox_rows",
        "Rows that upkeep has yet to move, counted up to 10,000: settled units to book, ledger rows to fold.",
        labels=("outbox",),
    )
    for name, count in read.outboxes.items():
        outbox.add_metric((name,), count)
    yield from (at, waiting, leased, outbox, *_session_families(read), *_table_families(read))


def _session_families(read: Vitals) -> Iterator[Metric]:
    for name, meaning, with_snapshot in (
        ("chorus_oldest_snapshot_seconds", "Age of the oldest transaction that holds a snapshot.", True),
        ("chorus_oldest_transaction_seconds", "Age of the oldest open transaction.", False),
    ):
        yield GaugeMetricFamily(
            name, meaning, value=vitals.oldest(read.transactions, with_snapshot=with_snapshot)
        )


def _table_families(read: Vitals) -> Iterator[Metric]:
    gauges = {
        "rows": "Rows of a hot table, as PostgreSQL estimates them.",
        "dead_rows": "Rows that vacuum has yet to clear, as PostgreSQL estimates them.",
        "bytes": "Size of a hot table with its indexes.",
    }
    for field, meaning in gauges.items():
        family = GaugeMetricFamily(f"chorus_table_{field}", meaning, labels=("table",))
        for table in read.tables:
            family.add_metric((table.name,), getattr(table, field))
        yield family
    counters = {
        "updates": "Updates of a hot table since its statistics were reset.",
        "hot_updates": "Updates that changed no index (heap-only tuples).",
    }
    for field, meaning in counters.items():
        family_ = CounterMetricFamily(f"chorus_table_{field}", meaning, labels=("table",))
        for table in read.tables:
            family_.add_metric((table.name,), getattr(table, field))
        yield family_
