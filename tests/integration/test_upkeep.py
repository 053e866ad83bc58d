"""Upkeep jobs run on any number of machines at once, and each row is moved once."""

import asyncio
from collections import Counter

import pytest
from support.engine import Engine, answer, batch, caption, key_of

from coordinator import upkeep
from coordinator.lifecycle import LeaseEnding
from coordinator.upkeep import Job, jobs

UNITS = 60
MACHINES = 4
SUMS = "SELECT sum(agreed), sum(credit), count(*) FROM standings"


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many short steps, so that the machines meet."""
    monkeypatch.setattr(upkeep, "BATCH", 7)


def _job(engine: Engine, name: str) -> Job:
    return next(job for job in jobs(engine.db, engine.work, engine.now) if job.name == name)


async def _at_once(engine: Engine, name: str) -> list[int]:
    """What each of the machines moved."""
    return await asyncio.gather(*(_job(engine, name).run() for _ in range(MACHINES)))


async def _accepted_units(engine: Engine) -> None:
    await engine.images(await engine.campaign(), UNITS)
    for caller in (await engine.host(), await engine.host()):
        units = await engine.lease(caller, want=UNITS)
        items = [answer(key_of(unit), caption(unit.id)) for unit in units]
        await engine.returns(caller, items, batch(items))
    assert await engine.fetch("SELECT state, count(*) FROM units GROUP BY 1") == [("accepted", UNITS)]


@pytest.mark.usefixtures("small_steps")
async def test_every_settled_unit_is_booked_once(engine: Engine):
    await _accepted_units(engine)
    assert sum(await _at_once(engine, "book")) == UNITS
    assert await _job(engine, "book").run() == 0
    assert await engine.fetch("SELECT count(*), count(DISTINCT unit_id) FROM annotations") == [(UNITS, UNITS)]
    assert await engine.value("SELECT count(*) FROM annotation_source_links") == UNITS
    assert await engine.value("SELECT count(*) FROM ledger") == 2 * UNITS
    assert await engine.value("SELECT count(*) FROM settled") == 0


@pytest.mark.usefixtures("small_steps")
async def test_what_is_booked_is_in_the_sums_once(engine: Engine):
    await _accepted_units(engine)
    await _at_once(engine, "book")
    assert await engine.fetch(SUMS) == [(2 * UNITS, 2.0 * UNITS, 2)]
    assert await _job(engine, "fold").run() == 0


@pytest.mark.usefixtures("small_steps")
async def test_every_other_ledger_row_is_folded_once(engine: Engine):
    """Failures, and stragglers, are judged where they come, and summed later."""
    await engine.images(await engine.campaign(), UNITS)
    caller = await engine.host()
    await engine.fail(caller, [key_of(unit) for unit in await engine.lease(caller, want=UNITS)])
    assert sum(await _at_once(engine, "fold")) == UNITS
    assert await engine.value("SELECT sum(failed) FROM standings") == UNITS
    assert await engine.value("SELECT count(*) FROM ledger WHERE NOT folded") == 0


@pytest.mark.usefixtures("small_steps")
async def test_booking_and_folding_may_run_while_each_other_runs(engine: Engine):
    await _accepted_units(engine)
    await asyncio.gather(_at_once(engine, "book"), _at_once(engine, "fold"))
    await _job(engine, "fold").run()
    assert await engine.value("SELECT sum(agreed) FROM standings") == 2 * UNITS


@pytest.mark.usefixtures("small_steps")
async def test_every_lapsed_lease_ends_once_and_its_replica_waits_again(engine: Engine):
    await engine.images(await engine.campaign(lease_s=60), UNITS)
    leased = await engine.lease(await engine.host(), want=UNITS)
    places = Counter(await engine.fetch("SELECT unit_id, lane FROM ready"))
    engine.pass_time(61)
    assert sum(await _at_once(engine, "expire")) == UNITS
    ended = await engine.fetch("SELECT unit_id, lane, ending FROM past_leases")
    assert Counter(ended) == Counter((unit.id, unit.lane, LeaseEnding.EXPIRED.value) for unit in leased)
    assert await engine.value("SELECT count(*) FROM leases") == 0
    now = Counter(await engine.fetch("SELECT unit_id, lane FROM ready"))
    assert now == places + Counter((unit.id, unit.lane) for unit in leased)


async def test_a_lease_that_was_renewed_meanwhile_does_not_end(engine: Engine):
    await engine.images(await engine.campaign(lease_s=60), 1)
    keeper, sleeper = await engine.host(), await engine.host()
    [kept], [lapsed] = await engine.lease(keeper), await engine.lease(sleeper)
    assert kept.id == lapsed.id
    engine.pass_time(50)
    await engine.work.renew(keeper, [key_of(kept)])
    engine.pass_time(20)
    assert await _job(engine, "expire").run() == 1
    assert await engine.fetch("SELECT host_id FROM leases") == [(keeper.host_id,)]
    assert await engine.fetch("SELECT host_id FROM past_leases") == [(sleeper.host_id,)]


async def test_a_moderated_campaigns_annotations_are_held(engine: Engine):
    await engine.images(await engine.campaign(moderation="all"), 20)
    for caller in (await engine.host(), await engine.host()):
        units = await engine.lease(caller, want=20)
        await engine.give(caller, {key_of(unit): caption(unit.id) for unit in units})
    assert await _job(engine, "book").run() == 20
    assert await engine.fetch("SELECT status, count(*) FROM annotations GROUP BY 1") == [("held", 20)]


async def test_an_exhausted_unit_is_booked_without_annotation_or_credit(engine: Engine):
    await engine.images(await engine.campaign(max_failures=0), 1)
    caller = await engine.host()
    await engine.fail(caller, [key_of(unit) for unit in await engine.lease(caller)])
    assert await engine.value("SELECT state FROM units") == "exhausted"
    assert await _job(engine, "book").run() == 1
    assert await engine.value("SELECT count(*) FROM annotations") == 0
    assert await engine.value("SELECT sum(credit) FROM ledger") == 0
