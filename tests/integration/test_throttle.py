"""Faulty hosts get less, then nothing for a while; nobody else is touched, and nobody by our fault."""

import asyncio
from datetime import timedelta

import pytest
from support.engine import Engine, caption, key_of

from coordinator import fleet, pulse, throttle
from coordinator.errors import OperatorError
from coordinator.fleet import HostState, state_of
from coordinator.identity import Caller
from coordinator.quota import PARK_AT
from coordinator.throttle import Allowance, Held, Throttle, review
from coordinator.upkeep import jobs

CAP = 100
LEASE_S = 60


@pytest.fixture
async def campaign(engine: Engine) -> None:
    """Plenty to do, whatever fails."""
    await engine.images(await engine.campaign(lease_s=LEASE_S, max_failures=100, max_attempts=1000), 120)


async def _review(engine: Engine) -> None:
    engine.pass_time(3)
    while await review(engine.db, CAP, engine.time):
        pass


async def _upkeep(engine: Engine) -> None:
    """Every job, with the cap of these tests."""
    for job in jobs(engine.db, engine.work, engine.now, host_cap=CAP):
        await job.run()


async def _allowed(engine: Engine, caller: Caller, want: int = CAP) -> Allowance:
    """By a fresh picture."""
    seen = Throttle(engine.db, engine.now)
    await seen.refresh()
    return seen.allow(caller.host_id, want)


async def _fail(engine: Engine, caller: Caller, count: int) -> None:
    await engine.fail(caller, [key_of(unit) for unit in await engine.lease(caller, want=count)])


async def _messages(engine: Engine) -> list[tuple[str, str]]:
    return [(code, text) for code, text in await engine.fetch("SELECT code, text FROM messages ORDER BY id")]


@pytest.mark.usefixtures("campaign")
async def test_failures_invalid_answers_and_lapsed_leases_take_one_each(engine: Engine):
    host = await engine.host()
    units = [key_of(unit) for unit in await engine.lease(host, want=15)]
    await engine.fail(host, units[:5])
    await engine.give(host, dict.fromkeys(units[5:9], "x" * 100_000))
    engine.pass_time(LEASE_S + 1)
    await _upkeep(engine)
    assert await engine.fetch("SELECT ending, count(*) FROM past_leases GROUP BY 1 ORDER BY 1") == [
        ("expired", 6),
        ("failed", 9),
    ]
    await _review(engine)
    assert (await _allowed(engine, host)).want == CAP - 15


@pytest.mark.usefixtures("campaign")
async def test_a_contradicted_answer_takes_one_and_an_accepted_one_gives_one_back(engine: Engine):
    right, also, wrong = [await engine.host() for _ in range(3)]
    shared = [key_of(unit) for unit in await engine.lease(right, want=120)]
    await engine.give(right, {key: caption(key[1]) for key in shared})
    for host, number in ((wrong, 500), (also, 0)):
        held = [key_of(unit) for unit in await engine.lease(host, want=20)]
        await engine.give(host, {key: caption(key[1] + number) for key in held})
        while held:
            held = [key_of(unit) for unit in await engine.lease(also, want=120)]
            await engine.give(also, {key: caption(key[1]) for key in held})
    await _upkeep(engine)
    await _review(engine)
    assert await engine.fetch("SELECT host_id, allowed FROM host_quotas") == [(wrong.host_id, CAP - 20)]
    await engine.fetch("UPDATE host_quotas SET host_id = %s, allowed = 1 RETURNING 1", right.host_id)
    await engine.fetch("UPDATE quota_progress SET ledger_id = 0 RETURNING 1")
    await _review(engine)
    assert await engine.value("SELECT count(*) FROM host_quotas WHERE host_id = %s", right.host_id) == 0


@pytest.mark.usefixtures("campaign")
async def test_an_abort_a_release_a_stop_and_an_outage_of_ours_cost_nothing(engine: Engine):
    host = await engine.host()
    await pulse.beat(engine.db, engine.time)
    units = [key_of(unit) for unit in await engine.lease(host, want=30)]
    await engine.work.release(host, units[:10], "client_stopped")
    ended = "UPDATE units SET state = 'cancelled', settled_at = now(), verdict = '{}'"
    await engine.fetch(f"{ended} WHERE id = ANY (%s) RETURNING 1", [unit for _, unit in units[10:20]])
    engine.pass_time(10 * LEASE_S)
    await pulse.beat(engine.db, engine.time)
    await _upkeep(engine)
    engine.pass_time(20)
    await pulse.beat(engine.db, engine.time)
    await engine.work.renew(host, units[20:])
    for _ in range(3):
        engine.pass_time(19)
        await pulse.beat(engine.db, engine.time)
    await _upkeep(engine)
    assert await engine.value("SELECT count(*) FROM past_leases WHERE ending = 'stopped'") == 10
    await _review(engine)
    assert (await _allowed(engine, host)).want == CAP
    assert await engine.value("SELECT count(*) FROM host_quotas") == 0


@pytest.mark.usefixtures("campaign")
async def test_a_host_that_keeps_failing_is_parked_and_its_owner_told_once_each(engine: Engine):
    host = await engine.host("ann")
    await _fail(engine, host, CAP)
    await _review(engine)
    await _fail(engine, host, PARK_AT)
    await _review(engine)
    allowed = await _allowed(engine, host)
    assert (allowed.want, allowed.because) == (0, Held.PARKED)
    assert 3_500_000 < allowed.retry_ms <= 3_600_000
    told = await _messages(engine)
    assert [code for code, _ in told] == ["over_quota", "parked"]
    assert "kept failing" in told[1][1]
    owner = await engine.value("SELECT DISTINCT user_id FROM messages")
    assert owner == host.user_id
    engine.pass_time(3601)
    assert (await _allowed(engine, host)).want == 1


@pytest.mark.usefixtures("campaign")
async def test_accepted_work_brings_the_cap_back_and_nothing_is_remembered(engine: Engine):
    hosts = [await engine.host() for _ in range(3)]
    await _fail(engine, hosts[0], 60)
    await _review(engine)
    assert (await _allowed(engine, hosts[0])).want == CAP - 60
    for _ in range(8):
        for host in hosts:
            held = [key_of(unit) for unit in await engine.lease(host, want=12)]
            await engine.give(host, {key: caption(key[1]) for key in held})
        await _upkeep(engine)
        await _review(engine)
    assert await engine.value("SELECT count(*) FROM host_quotas") == 0


@pytest.mark.usefixtures("campaign")
async def test_what_a_throttled_host_holds_is_taken_off_what_it_may_have(engine: Engine):
    host = await engine.host()
    await engine.fetch("INSERT INTO host_quotas VALUES (%s, 8, 0, 0, NULL, '') RETURNING 1", host.host_id)
    await engine.lease(host, want=5)
    seen = Throttle(engine.db, engine.now)
    await seen.refresh()
    assert seen.allow(host.host_id, 100).want == 3
    assert seen.allow(host.host_id, 100).because is Held.OVER_QUOTA
    assert seen.allow(host.host_id, 1, returned=2).want == 1
    assert seen.allow(host.host_id, 100).want == 1
    retries = [seen.allow(host.host_id, 1).retry_ms for _ in range(7)]
    assert retries == [2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]
    await seen.refresh()
    assert seen.allow(host.host_id, 100).want == 3


@pytest.mark.usefixtures("campaign")
async def test_what_was_reserved_and_not_leased_is_free_again_unless_it_was_counted_anew(engine: Engine):
    """A host that always has a call under way, over every look, came to be counted as holding nothing."""
    host = await engine.host()
    await engine.fetch("INSERT INTO host_quotas VALUES (%s, 2, 0, 0, NULL, '') RETURNING 1", host.host_id)
    seen = Throttle(engine.db, engine.now)
    await seen.refresh()
    early = seen.allow(host.host_id, 2)
    seen.unused(host.host_id, early, 1)
    assert seen.allow(host.host_id, 2).want == 1
    await engine.lease(host, want=2)
    await seen.refresh()
    seen.unused(host.host_id, early, 2)
    assert seen.allow(host.host_id, 2).because is Held.OVER_QUOTA


@pytest.mark.usefixtures("campaign")
async def test_nobody_holds_more_than_the_cap_for_long(engine: Engine):
    greedy, modest = await engine.host(), await engine.host()
    await engine.lease(greedy, want=CAP)
    await engine.lease(modest, want=CAP - 1)
    await _review(engine)
    assert (await _allowed(engine, greedy)).because is Held.OVER_QUOTA
    assert (await _allowed(engine, modest)).want == CAP
    held = await engine.fetch("SELECT campaign_id, unit_id FROM leases WHERE host_id = %s", greedy.host_id)
    await engine.work.release(greedy, [(campaign, unit) for campaign, unit in held[:40]], "")
    assert (await _allowed(engine, greedy)).want == 40
    await _review(engine)
    assert await engine.value("SELECT count(*) FROM host_quotas") == 0


@pytest.mark.usefixtures("campaign")
async def test_every_failure_counts_once_however_many_machines_review(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(throttle, "PAGE", 7)
    host = await engine.host()
    await _fail(engine, host, 60)
    await asyncio.gather(*(_review(engine) for _ in range(4)))
    await _review(engine)
    assert (await _allowed(engine, host)).want == CAP - 60


@pytest.mark.usefixtures("campaign")
async def test_an_entry_that_is_committed_late_is_not_passed_over(engine: Engine):
    """Ids are given before the commit: what is a moment old may have a smaller neighbour still to come."""
    host, other = await engine.host(), await engine.host()
    await _fail(engine, host, 3)
    await engine.fetch("UPDATE ledger SET id = DEFAULT WHERE id = (SELECT min(id) FROM ledger) RETURNING id")
    engine.pass_time(1)
    await review(engine.db, CAP, engine.time)
    assert await engine.value("SELECT ledger_id FROM quota_progress") == 0
    await _fail(engine, other, 2)
    await _review(engine)
    assert (await _allowed(engine, host)).want == CAP - 3
    assert (await _allowed(engine, other)).want == CAP - 2


async def test_operators_park_release_and_revoke(engine: Engine):
    await engine.images(await engine.campaign(), 3)
    host = await engine.host("ann")
    await engine.lease(host)

    async def state() -> HostState:
        return state_of(await fleet.one(engine.db, host.host_id), CAP, engine.time)

    assert await state() is HostState.ACTIVE
    await fleet.park(engine.db, host.host_id, timedelta(hours=2), "too hot", engine.time)
    assert await state() is HostState.PARKED
    assert (await _allowed(engine, host)).because is Held.PARKED
    await fleet.release(engine.db, host.host_id, engine.time)
    assert await state() is HostState.THROTTLED
    assert (await _allowed(engine, host)).because is Held.OVER_QUOTA  # it holds three
    told = await _messages(engine)
    assert ["too hot" in text for _, text in told] == [True, False]
    await fleet.revoke(engine.db, host.host_id)
    assert await state() is HostState.REVOKED
    await _upkeep(engine)
    assert await engine.value("SELECT count(*) FROM leases") == 0
    assert await engine.fetch("SELECT DISTINCT ending, detail FROM past_leases") == [
        ("released", "host revoked")
    ]
    assert [found.id for found in await fleet.listed(engine.db, "ann")] == [host.host_id]


async def test_what_cannot_be_done_with_a_host_is_said(engine: Engine):
    host = await engine.host()
    hour = timedelta(hours=1)
    cases = (
        (fleet.one(engine.db, 99), "host_unknown"),
        (fleet.listed(engine.db, "nobody"), "user_unknown"),
        (fleet.release(engine.db, host.host_id, engine.time), "host_not_parked"),
        (fleet.park(engine.db, 99, hour, "", engine.time), "host_unknown"),
        (fleet.park(engine.db, host.host_id, timedelta(0), "", engine.time), "parking_invalid"),
        (fleet.park(engine.db, host.host_id, hour, "a\nb", engine.time), "parking_invalid"),
        (fleet.revoke(engine.db, 2**70), "host_unknown"),
    )
    for command, code in cases:
        with pytest.raises(OperatorError) as caught:
            await command
        assert caught.value.code == code
    await fleet.revoke(engine.db, host.host_id)
    for command in (
        fleet.revoke(engine.db, host.host_id),
        fleet.park(engine.db, host.host_id, hour, "", engine.time),
    ):
        with pytest.raises(OperatorError) as caught:
            await command
        assert caught.value.code == "host_revoked"
