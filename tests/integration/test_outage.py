"""No host is punished for our outage: after it every lease lasts longer by its length, once."""

import asyncio
from datetime import timedelta

import pytest
from support.engine import Engine, caption, key_of

from coordinator import pulse
from coordinator.lifecycle import LeaseEnding
from coordinator.upkeep import jobs

LEASE_S = 60
MACHINES = 4


async def _leased(engine: Engine, images: int = 6) -> int:
    """Units leased while coordinators work; gives how many."""
    await engine.images(await engine.campaign(lease_s=LEASE_S), images)
    await pulse.beat(engine.db, engine.time)
    return len(await engine.lease(await engine.host(), want=images))


async def _deadlines(engine: Engine) -> set[float]:
    """Seconds from now to each live lease's deadline."""
    found = await engine.fetch("SELECT DISTINCT deadline FROM leases")
    return {(deadline - engine.time).total_seconds() for (deadline,) in found}


async def _extend(engine: Engine) -> None:
    """To the end, on several machines at once."""
    extend = next(job for job in jobs(engine.db, engine.work, engine.now) if job.name == "extend")
    await asyncio.gather(*(extend.run() for _ in range(MACHINES)))


async def test_leases_last_longer_by_the_length_of_an_outage_however_many_machines_extend(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pulse, "STEP", 7)
    await _leased(engine, 40)
    engine.pass_time(300)
    await asyncio.gather(*(pulse.beat(engine.db, engine.time) for _ in range(MACHINES)))
    await _extend(engine)
    await _extend(engine)
    assert await _deadlines(engine) == {LEASE_S}
    assert await engine.fetch("SELECT ended_at - began_at, done FROM outages") == [
        (timedelta(seconds=300), True)
    ]


async def test_a_silence_is_one_outage_however_many_coordinators_wake_from_it_at_once(engine: Engine):
    await pulse.beat(engine.db, engine.time)
    for round_ in range(1, 7):  # the first round only opens the connections
        engine.pass_time(300)
        await asyncio.gather(*(pulse.beat(engine.db, engine.time) for _ in range(8)))
        assert await engine.value("SELECT count(*) FROM outages") == round_


async def test_nothing_expires_in_an_outage_nor_before_the_leases_are_extended(engine: Engine):
    held = await _leased(engine)
    engine.pass_time(300)
    assert await engine.work.expire(100) == 0
    await pulse.beat(engine.db, engine.time)
    assert await engine.work.expire(100) == 0
    await engine.upkeep()
    assert await engine.value("SELECT count(*) FROM leases") == held
    for _ in range(4):
        engine.pass_time(20)
        await pulse.beat(engine.db, engine.time)
    assert await engine.work.expire(100) == held


async def test_an_expiry_that_was_frozen_meanwhile_goes_by_its_own_time(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    held = await _leased(engine)
    engine.pass_time(20)
    find = engine.campaigns.find

    async def freezing(campaign_id: int) -> object:
        engine.pass_time(3600)
        return await find(campaign_id)

    await engine.fetch("UPDATE leases SET deadline = %s WHERE unit_id = 1 RETURNING 1", engine.time)
    engine.pass_time(1)
    monkeypatch.setattr(engine.campaigns, "find", freezing)
    assert await engine.work.expire(100) == 1
    assert await engine.value("SELECT count(*) FROM leases") == held - 1


async def test_a_short_silence_is_no_outage(engine: Engine):
    await _leased(engine)
    for _ in range(3):
        engine.pass_time(19)
        await pulse.beat(engine.db, engine.time)
    assert await engine.value("SELECT count(*) FROM outages") == 0
    engine.pass_time(4)
    assert await engine.work.expire(100) == 6


async def test_a_machine_whose_clock_is_behind_makes_no_outage(engine: Engine):
    await _leased(engine)
    await pulse.beat(engine.db, engine.time - timedelta(seconds=50))
    await pulse.beat(engine.db, engine.time + timedelta(seconds=1))
    assert await engine.value("SELECT count(*) FROM outages") == 0


async def test_what_was_leased_after_the_outage_is_not_extended(engine: Engine):
    await _leased(engine)
    engine.pass_time(100)
    await pulse.beat(engine.db, engine.time)
    late = await engine.host()
    await engine.lease(late)
    await _extend(engine)
    found = await engine.fetch("SELECT DISTINCT deadline FROM leases WHERE host_id = %s", late.host_id)
    assert found == [(engine.time + timedelta(seconds=LEASE_S),)]


async def test_two_outages_add_up(engine: Engine):
    await _leased(engine)
    for silence in (100, 200):
        engine.pass_time(silence)
        await pulse.beat(engine.db, engine.time)
    await _extend(engine)
    assert await _deadlines(engine) == {LEASE_S}


async def test_leases_that_end_while_they_are_extended_end(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pulse, "STEP", 5)
    await engine.images(await engine.campaign(lease_s=LEASE_S), 40)
    await pulse.beat(engine.db, engine.time)
    host = await engine.host()
    leased = await engine.lease(host, want=40)
    engine.pass_time(100)
    await pulse.beat(engine.db, engine.time)
    answers = {key_of(unit): caption(unit.id) for unit in leased[::2]}
    await asyncio.gather(_extend(engine), engine.give(host, answers))
    assert await _deadlines(engine) == {LEASE_S}
    assert await engine.value("SELECT count(*) FROM leases") == 20


async def test_a_lease_of_a_settled_unit_lapses_as_stopped(engine: Engine):
    """It is nobody's fault: the host was told, or would have been at its next renew."""
    await engine.images(await engine.campaign(replication=2, max_voices=3, lease_s=LEASE_S), 1)
    slow, *others = [await engine.host() for _ in range(3)]
    [unit] = await engine.lease(slow)
    [again] = await engine.lease(others[0])
    await engine.fetch("UPDATE ready SET lane = 2 RETURNING 1")
    await engine.give(others[0], {key_of(again): caption(5)})
    await engine.fetch("UPDATE units SET state = 'exhausted', verdict = '{}', settled_at = now() RETURNING 1")
    engine.pass_time(LEASE_S + 1)
    await engine.upkeep()
    assert unit.id == again.id
    assert await engine.fetch("SELECT host_id, ending FROM past_leases") == [
        (slow.host_id, LeaseEnding.STOPPED.value)
    ]
