"""Leases that a client forgot are sent again; what it no longer holds it is told to stop."""

import asyncio
from datetime import timedelta

import pytest
from support.engine import Engine, caption, key_of

from coordinator import work


async def test_what_a_client_forgot_is_sent_again_as_it_was_and_for_a_full_lease(engine: Engine):
    await engine.images(await engine.campaign(lease_s=60), 6)
    host = await engine.host()
    leased = await engine.lease(host, want=6)
    engine.pass_time(50)

    resumed = await engine.work.resume(host, [key_of(unit) for unit in leased[:2]])

    [again] = resumed.leased
    assert (again.units, again.lease_s) == (leased[2:], 60)
    assert (resumed.stop, resumed.more) == (set(), False)
    moved = await engine.fetch(
        "SELECT unit_id FROM leases WHERE deadline = %s ORDER BY 1", engine.time + timedelta(seconds=60)
    )
    assert moved == [(unit.id,) for unit in leased[2:]]


async def test_a_client_that_forgot_nothing_gets_nothing_and_nothing_changes(engine: Engine):
    await engine.images(await engine.campaign(), 6)
    host = await engine.host()
    held = [key_of(unit) for unit in await engine.lease(host, want=6)]
    before = await engine.fetch("SELECT * FROM leases ORDER BY unit_id")
    resumed = await engine.work.resume(host, held)
    assert (resumed.leased, resumed.stop, resumed.more) == ([], set(), False)
    assert await engine.fetch("SELECT * FROM leases ORDER BY unit_id") == before


async def test_another_hosts_leases_are_never_sent(engine: Engine):
    await engine.images(await engine.campaign(), 6)
    host, same_owners = await engine.host("ann"), await engine.host("ann")
    await engine.lease(host, want=3)
    assert (await engine.work.resume(same_owners, [])).leased == []


async def test_what_a_client_names_but_no_longer_holds_is_to_be_stopped(engine: Engine):
    await engine.images(await engine.campaign(lease_s=60), 3)
    host = await engine.host()
    lapsed, kept, strange = [key_of(unit) for unit in await engine.lease(host, want=3)]
    engine.pass_time(50)
    await engine.work.renew(host, [kept])
    engine.pass_time(11)
    await engine.upkeep()
    resumed = await engine.work.resume(host, [lapsed, kept, strange, (9, 9)])
    assert (resumed.leased, resumed.stop) == ([], {lapsed, strange, (9, 9)})


async def test_a_forgotten_unit_that_is_settled_is_not_sent_again(engine: Engine):
    await engine.images(await engine.campaign(replication=2, max_voices=2), 1)
    forgetful, *others = [await engine.host() for _ in range(3)]
    await engine.lease(forgetful)
    await engine.lease(others[0])
    for host in (forgetful, others[0]):
        held = await engine.fetch("SELECT campaign_id, unit_id FROM leases WHERE host_id = %s", host.host_id)
        await engine.give(host, {(campaign, unit): caption(5) for campaign, unit in held})
    await engine.fetch(
        "INSERT INTO leases SELECT campaign_id, id, 7, %s, %s, %s, %s FROM units RETURNING lane",
        others[1].host_id, others[1].user_id, engine.time, engine.time,
    )  # fmt: skip
    resumed = await engine.work.resume(others[1], [])
    assert (resumed.leased, resumed.stop) == ([], set())


async def test_each_batch_is_of_one_campaign_and_one_perspective(engine: Engine):
    one = await engine.campaign("one", perspectives=2, lease_s=60)
    two = await engine.campaign("two", lease_s=90)
    await engine.images(one, 3)
    await engine.images(two, 3)
    host = await engine.host()
    while await engine.lease(host, want=3):
        pass
    resumed = await engine.work.resume(host, [])
    told = [
        ({(unit.campaign_id, unit.perspective_id) for unit in batch.units}, len(batch.units), batch.lease_s)
        for batch in resumed.leased
    ]
    assert told == [({(one.id, 1)}, 3, 60), ({(one.id, 2)}, 3, 60), ({(two.id, 1)}, 3, 90)]


async def test_many_forgotten_leases_come_in_bounded_steps(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(work, "RESENT_AT_ONCE", 4)
    await engine.images(await engine.campaign(), 10)
    host = await engine.host()
    leased = {key_of(unit) for unit in await engine.lease(host, want=10)}
    held: set[tuple[int, int]] = set()
    sizes = []
    more = True
    while more:
        resumed = await engine.work.resume(host, held)
        again = {key_of(unit) for batch in resumed.leased for unit in batch.units}
        assert not again & held
        held |= again
        sizes.append(len(again))
        more = resumed.more
    assert (held, sizes) == (leased, [4, 4, 2])


async def test_a_lease_that_is_returned_while_it_is_sent_again_is_counted_once(engine: Engine):
    await engine.images(await engine.campaign(), 8)
    host = await engine.host()
    answers = {key_of(unit): caption(unit.id) for unit in await engine.lease(host, want=8)}
    resumed, _ = await asyncio.gather(engine.work.resume(host, []), engine.give(host, answers))
    again = {key_of(unit): caption(unit.id) for batch in resumed.leased for unit in batch.units}
    await engine.give(host, again)
    assert await engine.fetch("SELECT count(*), count(DISTINCT unit_id) FROM results") == [(8, 8)]
    assert await engine.value("SELECT count(*) FROM leases") == 0
