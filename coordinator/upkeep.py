"""Upkeep: small jobs that run beside the coordinators, each safe on any number of machines at once."""

import contextlib
import functools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from coordinator import metrics, pulse, throttle
from coordinator.campaigns import Campaigns
from coordinator.clock import now
from coordinator.credit import HALF_LIVES
from coordinator.housekeeping import pruning, refresh_statistics
from coordinator.settings import Settings
from coordinator.steps import guarded
from coordinator.tail import hasten
from coordinator.work import Work
from store import annotations, ledger
from store.database import Database

BATCH = 1000  # rows that one transaction moves at most
KEEP_PAST_LEASES = timedelta(days=30)
HOST_CAP = 512

log = structlog.get_logger("upkeep")


@dataclass(frozen=True, slots=True)
class Job:
    """A named job; `run_once` does one short step and gives how many rows it moved."""

    name: str
    every_s: float
    run_once: Callable[[], Awaitable[int]]

    async def run(self) -> int:
        """Steps until nothing is left to do; gives how many rows it moved."""
        moved, rows = 0, metrics.UPKEEP_ROWS.labels(self.name)
        with metrics.UPKEEP.labels(self.name).time():
            while step := await self.run_once():
                moved += step
                rows.inc(step)
        metrics.UPKEEP_SUCCESS.labels(self.name).set_to_current_time()
        if moved:
            log.debug("upkeep", job=self.name, moved=moved)
        return moved


def jobs(
    db: Database,
    work: Work,
    clock: Callable[[], datetime],
    keep: timedelta = KEEP_PAST_LEASES,
    host_cap: int = HOST_CAP,
) -> list[Job]:
    """All jobs: expire leases, book settled units, fold the ledger, extend leases after an outage, ask
    others for what slow hosts hold up at a campaign's end, take back what revoked hosts hold, review the
    quotas of hosts (at most `host_cap` units each); prune leases that ended long ago (`keep` after their
    units), and refresh PostgreSQL's statistics.
    """

    async def expire() -> int:
        return await work.expire(BATCH)

    async def book() -> int:
        return await db.transaction(
            "book", lambda tx: annotations.book_settled(tx, BATCH, clock(), HALF_LIVES)
        )

    async def fold() -> int:
        return await db.transaction("fold", lambda tx: ledger.fold(tx, BATCH, HALF_LIVES))

    async def extend() -> int:
        return await pulse.extend(db)

    async def take_back() -> int:
        return await work.take_back(BATCH)

    async def speed_up() -> int:
        await hasten(db, clock)
        return 0  # one look is enough: what is slow now is seen now

    async def review() -> int:
        return await throttle.review(db, host_cap, clock())

    return [
        Job("expire", 1.0, expire),
        Job("book", 0.5, book),
        Job("fold", 1.0, fold),
        Job("extend", 1.0, extend),
        Job("tail", 5.0, speed_up),
        Job("take_back", 2.0, take_back),
        Job("quotas", 5.0, review),
        Job("prune", 600.0, pruning(db, clock, keep)),
        Job("statistics", 60.0, functools.partial(refresh_statistics, db)),
    ]


@contextlib.asynccontextmanager
async def upkeep(settings: Settings, database_url: str) -> AsyncIterator[list[Job]]:
    """Runs every upkeep job in its rhythm while the context lasts."""
    db = Database.connect(database_url, pool_size=2)
    work = Work(db, Campaigns(db, random.Random()), now)  # noqa: S311 (order of work, no secret)
    listed = jobs(db, work, now, timedelta(days=settings.keep_past_leases_days), settings.host_cap)
    scheduler = AsyncIOScheduler(timezone=UTC)
    for job in listed:
        scheduler.add_job(
            guarded, "interval", (job.name, job.run), seconds=job.every_s, max_instances=1, coalesce=True
        )
    scheduler.start()
    try:
        yield listed
    finally:
        scheduler.shutdown(wait=False)
        await db.close()
