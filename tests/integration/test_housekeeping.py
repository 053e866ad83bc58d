"""Housekeeping: spent rows go, what is still needed stays, and nothing holds a long transaction."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from support.engine import Engine, answer, batch, caption, key_of
from support.waiting import wait_until

from coordinator import housekeeping, monitor, upkeep
from coordinator.housekeeping import pruning, refresh_statistics
from coordinator.monitor import VitalGauges
from coordinator.upkeep import Job, jobs
from store import bulk, units, vitals
from store.database import LIMITS, Database, Transaction
from store.units import Settlement
from store.vitals import HOT_TABLES

KEEP = timedelta(days=30)
DAY_S = 86_400.0


def _prune(engine: Engine) -> Job:
    return Job("prune", 1.0, pruning(engine.db, engine.now, KEEP))


async def _expired(engine: Engine, images: int) -> None:
    """One campaign whose every unit has a lease that expired, and open units."""
    await engine.images(await engine.campaign(lease_s=60), images)
    await engine.lease(await engine.host(), want=images)
    engine.pass_time(61)
    await engine.upkeep()


async def _settle(engine: Engine, count: int) -> set[int]:
    """Two hosts answer so many units, and keep what else they hold."""
    for caller in (await engine.host(), await engine.host()):
        units = sorted(await engine.lease(caller, want=100), key=key_of)
        items = [answer(key_of(unit), caption(unit.id)) for unit in units[:count]]
        await engine.returns(caller, items, batch(items))
    return {row[0] for row in await engine.fetch("SELECT id FROM units WHERE state = 'accepted'")}


async def test_leases_of_units_that_ended_long_ago_are_forgotten_and_no_others(engine: Engine):
    await _expired(engine, 20)
    ended = await _settle(engine, 8)
    assert len(ended) == 8
    engine.pass_time(29 * DAY_S)
    assert await _prune(engine).run() == 0
    engine.pass_time(2 * DAY_S)
    assert await _prune(engine).run() == len(ended)
    left = {row[0] for row in await engine.fetch("SELECT unit_id FROM past_leases")}
    opened = {row[0] for row in await engine.fetch("SELECT id FROM units WHERE state = 'open'")}
    assert left == opened
    assert await engine.value("SELECT count(*) FROM results") == 2 * len(ended)


async def test_leases_are_remembered_for_as_long_after_their_unit_was_settled(engine: Engine):
    await _expired(engine, 8)
    engine.pass_time(40 * DAY_S)
    await engine.upkeep()
    ended = await _settle(engine, 8)
    engine.time += timedelta(days=1)
    assert await _prune(engine).run() == 0
    engine.pass_time(30 * DAY_S)
    assert await _prune(engine).run() == len(ended) == 8


async def test_pruning_gets_past_leases_that_stay(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(housekeeping, "STEP", 3)
    await _expired(engine, 30)
    ended = await _settle(engine, 10)
    engine.pass_time(31 * DAY_S)
    job = _prune(engine)
    assert await job.run() == len(ended)
    assert await job.run() == 0


async def test_many_machines_prune_each_row_once_beside_returns(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(housekeeping, "STEP", 5)
    await _expired(engine, 40)
    ended = await _settle(engine, 40)
    engine.pass_time(31 * DAY_S)
    pruned = await asyncio.gather(*(_prune(engine).run() for _ in range(4)))
    pruned.append(await _prune(engine).run())  # what was locked at its time
    assert sum(pruned) == len(ended) == 40


async def test_a_unit_that_somebody_has_locked_is_left_for_another_time(engine: Engine, database_url: str):
    await _expired(engine, 5)
    ended = sorted(await _settle(engine, 5))
    engine.pass_time(31 * DAY_S)
    with psycopg.connect(database_url) as other:
        other.execute("SELECT 1 FROM units WHERE id = %s FOR UPDATE", (ended[0],))
        assert await _prune(engine).run() == len(ended) - 1
    assert await _prune(engine).run() == 1


async def test_statistics_follow_a_table_that_changed_much(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(housekeeping, "CHANGED_ROWS", 50)
    await engine.images(await engine.campaign(), 200)

    async def changed() -> dict[str, int]:
        found = await engine.db.transaction("tables", vitals.tables)
        return {table.name: table.changed_since_analyze for table in found}

    await engine.db.transaction("flush", lambda tx: tx.raw.execute("SELECT pg_stat_force_next_flush()"))
    assert (await changed())["units"] >= 200
    assert await refresh_statistics(engine.db) == 0
    assert (await changed())["units"] == 0
    assert await engine.value("SELECT reltuples FROM pg_class WHERE relname = 'units'") == 200


async def test_analysing_waits_for_nobody(engine: Engine, database_url: str):
    with psycopg.connect(database_url) as other:
        other.execute("LOCK TABLE units IN SHARE UPDATE EXCLUSIVE MODE")  # as a vacuum has
        async with asyncio.timeout(10):
            await engine.db.transaction("analyze", lambda tx: vitals.analyze(tx, "units"))


async def test_only_hot_tables_can_be_analysed(engine: Engine):
    with pytest.raises(ValueError, match="not a hot table"):
        await engine.db.transaction("analyze", lambda tx: vitals.analyze(tx, "users; DROP TABLE users"))


WRITTEN = """
SELECT COALESCE(sum(n_tup_ins + n_tup_upd + n_tup_del), 0) FROM pg_stat_xact_user_tables
"""


class Watched(Database):
    """A database that notes how many rows each transaction wrote, by its name."""

    written: dict[str, list[int]]

    async def transaction(
        self, name: str, body: Callable[[Transaction], Awaitable[Any]], *, pipelined: bool = False
    ) -> Any:
        async def watched(tx: Transaction) -> Any:
            before = await self._rows(tx)  # those of earlier transactions too, until they are reported
            value = await body(tx)
            self.written.setdefault(name, []).append(await self._rows(tx) - before)
            return value

        return await super().transaction(name, watched, pipelined=pipelined)

    async def _rows(self, tx: Transaction) -> int:
        found = await tx.raw.execute(WRITTEN)
        return int((await found.fetchone())[0])


@pytest.fixture
async def watched(database_url: str):
    db = Watched.connect(database_url, pool_size=4)
    db.written = {}
    yield db
    await db.close()


BACKLOG = """
INSERT INTO past_leases (campaign_id, unit_id, lane, host_id, user_id, leased_at, ended_at, ending, detail)
SELECT campaign_id, id, lane, 1, 1, %(old)s, %(old)s, 'expired', '' FROM units, generate_series(5, 9) lane
WHERE state <> 'open'
"""


async def test_no_jobs_transaction_grows_with_its_backlog(watched: Watched, monkeypatch: pytest.MonkeyPatch):
    """Ten steps' worth of backlog for every job; what one transaction writes is bounded by the step."""
    step, images = 40, 400
    monkeypatch.setattr(upkeep, "BATCH", step)
    monkeypatch.setattr(housekeeping, "STEP", step)
    engine = Engine(watched)
    await engine.images(await engine.campaign(lease_s=60, first_batch=256), images)
    for caller in (await engine.host(), await engine.host()):
        for _ in range(0, images // 2, 100):
            units = await engine.lease(caller, want=100)
            items = [answer(key_of(unit), caption(unit.id)) for unit in units]
            await engine.returns(caller, items, batch(items))
    for _ in range(4):
        await engine.lease(await engine.host(), want=100)
    engine.pass_time(61)
    watched.written.clear()
    await engine.upkeep()
    engine.pass_time(31 * DAY_S)
    await engine.db.transaction(
        "backlog", lambda tx: tx.raw.execute(BACKLOG, {"old": engine.now() - timedelta(days=31)})
    )
    await engine.db.transaction("backlog", lambda tx: tx.raw.execute("UPDATE ledger SET folded = false"))
    del watched.written["backlog"]
    for job in jobs(watched, engine.work, engine.now, KEEP):
        await job.run()
    moved = {name: sum(counts) for name, counts in watched.written.items()}
    assert all(moved[name] >= 5 * step for name in ("expired", "book", "fold", "prune") if name in moved)
    assert {"book", "fold", "prune"} <= set(moved)
    longest = {name: max(counts) for name, counts in watched.written.items()}
    assert {name: count for name, count in longest.items() if count > 8 * step} == {}


VERDICT = {
    "confidence": 0.9123,
    "judgements": {str(user): {"agrees": True, "support": 0.8123} for user in (10_001, 10_002)},
    "numbers": {"agreement": 0.8123, "background": 0.1203, "specific": 0.692, "voices": 2.0},
}


async def test_settling_changes_no_index(engine: Engine):
    """Nearly every settling is a heap-only update, with verdicts as long as those of two voices."""
    campaign, count, call = await engine.campaign(), 6000, 128
    await engine.db.transaction("fill", lambda tx: bulk.fill(tx, campaign.id, 1, 0, count, engine.now()))
    ids = [row[0] for row in await engine.fetch("SELECT id FROM units ORDER BY block, shuffle")]
    for at in range(0, count, call):
        ends = [
            Settlement(campaign.id, unit_id, "accepted", 10_001, VERDICT)
            for unit_id in sorted(ids[at : at + call])
        ]
        await engine.db.transaction("settle", lambda tx, ends=ends: units.settle(tx, ends, engine.now()))
    await engine.db.transaction("flush", lambda tx: tx.raw.execute("SELECT pg_stat_force_next_flush()"))
    [found] = [t for t in await engine.db.transaction("tables", vitals.tables) if t.name == "units"]
    assert found.updates == count
    assert found.hot_updates / found.updates > 0.9


async def test_the_database_ends_a_transaction_that_its_process_forgot(database_url: str):
    options = LIMITS.replace("30s", "50ms")
    with psycopg.connect(database_url, options=options) as forgotten:
        forgotten.execute("SELECT 1")
        wait_until(lambda: _is_ended(forgotten), 10)


def _is_ended(connection: psycopg.Connection) -> bool:
    try:
        connection.pgconn.consume_input()
    except psycopg.OperationalError:
        return True
    return connection.broken


async def test_every_connection_has_the_limits(db: Database):
    async def body(tx: Transaction) -> list[str]:
        names = ("idle_in_transaction_session_timeout", "statement_timeout", "transaction_timeout")
        return [(await (await tx.raw.execute(f"SHOW {name}")).fetchone())[0] for name in names]

    assert await db.transaction("limits", body) == ["30s", "1min", "2min"]


async def test_vitals_say_what_waits_and_what_is_out(engine: Engine):
    await engine.images(await engine.campaign("a", perspectives=2), 30)
    await engine.images(await engine.campaign("b"), 5)
    await engine.lease(await engine.host(), want=10)
    read = await engine.db.transaction("vitals", vitals.read)
    waiting = {(name, kind): count for name, kind, _, count in read.waiting}
    leased = {name: count for name, _, count in read.leased}
    assert leased == dict(
        await engine.fetch(
            "SELECT c.name, count(*) FROM leases l JOIN campaigns c ON c.id = l.campaign_id GROUP BY 1"
        )
    )
    assert leased
    total = await engine.fetch(
        "SELECT c.name, count(*) FROM ready r JOIN campaigns c ON c.id = r.campaign_id GROUP BY 1"
    )
    assert waiting == {(name, "caption"): count for name, count in total}
    assert {table.name for table in read.tables} == set(HOT_TABLES)
    assert read.outboxes == {"settled": 0, "ledger": 0}


async def test_what_waits_is_counted_up_to_a_limit(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vitals, "COUNTED_AT_MOST", 7)
    await engine.images(await engine.campaign(), 30)
    read = await engine.db.transaction("vitals", vitals.read)
    assert [count for *_, count in read.waiting] == [7]


async def test_an_old_snapshot_is_seen_and_told_once(
    db: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(monitor, "LONG_TRANSACTION_S", 0.0)
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(monitor.log, "warning", lambda event, **words: told.append({"event": event, **words}))
    gauges = VitalGauges(db)
    with psycopg.connect(database_url, application_name="forgetful") as other:
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT 1 FROM units")
        await gauges.read()
        await gauges.read()
        samples = {sample.name: sample.value for metric in gauges.collect() for sample in metric.samples}
        assert samples["chorus_oldest_snapshot_seconds"] > 0
        assert samples["chorus_oldest_transaction_seconds"] >= samples["chorus_oldest_snapshot_seconds"]
    mine = [words for words in told if words["application"] == "forgetful"]
    assert [(words["event"], words["holds_snapshot"]) for words in mine] == [("long_transaction", True)]
    await gauges.read()
    samples = {sample.name: sample.value for metric in gauges.collect() for sample in metric.samples}
    assert samples["chorus_oldest_snapshot_seconds"] == 0
