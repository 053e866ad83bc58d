"""Urgent work comes first, at once, and stays in one place while it moves and volunteers take it."""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
from support.engine import Engine, caption, key_of

from coordinator import operations, submission
from coordinator.campaigns import Campaign
from coordinator.lifecycle import UnitState
from coordinator.operations import BY_OPERATORS, Operations, Why
from coordinator.priority import block_of, priority_of
from store import selections, shelves
from store.database import Transaction
from store.selections import Selection
from store.shelves import NewLease, Stretch


def every(campaign: Campaign, *ranges: tuple[int, int]) -> Selection:
    return Selection(campaign.id, frozenset(UnitState), ranges or (selections.EVERY_ID,))


async def prioritise(engine: Engine, campaign: Campaign, priority: int, *ranges: tuple[int, int]) -> int:
    commands = Operations(engine.db, engine.campaigns, engine.now)
    return await commands.prioritise(every(campaign, *ranges), priority)


async def places(engine: Engine) -> list[tuple[int, int]]:
    """(unit, lane) wherever it waits or is held."""
    return await engine.fetch("SELECT unit_id, lane FROM ready UNION ALL SELECT unit_id, lane FROM leases")


async def strays(engine: Engine) -> int:
    """Replicas that wait where their unit is not looked for."""
    return await engine.value(
        "SELECT count(*) FROM ready r JOIN units u ON u.id = r.unit_id WHERE u.block <> r.block"
    )


async def test_urgent_units_are_handed_out_first_and_patient_ones_last(engine: Engine) -> None:
    campaign = await engine.campaign()
    await engine.images(campaign, 30)
    ids = [row[0] for row in await engine.fetch("SELECT id FROM units ORDER BY id")]
    assert await prioritise(engine, campaign, 2, (ids[10], ids[12]), (ids[20], ids[20])) == 4
    assert await prioritise(engine, campaign, -1, (ids[0], ids[9])) == 10

    host = await engine.host()
    assert {unit.id for unit in await engine.lease(host, want=4)} == {*ids[10:13], ids[20]}
    assert not {unit.id for unit in await engine.lease(host, want=16)} & set(ids[:10])
    assert {unit.id for unit in await engine.lease(host, want=20)} == set(ids[:10])


async def test_urgent_work_overtakes_a_campaign_whose_turn_it_is(engine: Engine) -> None:
    busy, idle = await engine.campaign("busy"), await engine.campaign("idle")
    await engine.images(busy, 20)
    await engine.images(idle, 20)
    host = await engine.host()
    first = (await engine.lease(host, want=5))[0].campaign_id
    served = busy if first == busy.id else idle
    await prioritise(engine, served, 1)
    assert {unit.campaign_id for unit in await engine.lease(host, want=5)} == {served.id}


async def test_work_that_is_urgent_now_comes_first_for_a_volunteer_who_was_past_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is remembered for a while which blocks held nothing for a user; urgent ones are not among them."""
    monkeypatch.setattr(submission, "BLOCK_UNITS", 5)
    campaign = await engine.campaign()
    await engine.images(campaign, 40)
    ada, ben = await engine.host(), await engine.host()
    [(last,)] = await engine.fetch("SELECT max(id) FROM units")
    await prioritise(engine, campaign, 1, (last, last))
    [unit] = await engine.lease(ben, want=1)
    await engine.give(ben, {key_of(unit): caption(last)})
    await prioritise(engine, campaign, 0, (last, last))
    units = [unit for _ in range(10) for unit in await engine.lease(ada, want=5)]
    await engine.give(ada, {key_of(unit): caption(unit.id) for unit in units if unit.id != last})
    await engine.work.release(ada, [key_of(unit) for unit in units if unit.id == last], "")
    assert await engine.lease(ada, want=1) == []

    await prioritise(engine, campaign, 3, (last, last))
    assert [unit.id for unit in await engine.lease(ada, want=1)] == [last]


async def test_a_unit_settles_and_widens_wherever_it_was_moved(engine: Engine) -> None:
    campaign = await engine.campaign(max_voices=3)
    await engine.images(campaign, 1)
    one, two, three = [await engine.host() for _ in range(3)]
    [unit] = await engine.lease(one)
    await prioritise(engine, campaign, 3)
    await engine.give(one, {key_of(unit): caption(5)})
    await engine.lease(two)
    await prioritise(engine, campaign, -3)
    await engine.give(two, {key_of(unit): caption(17)})
    assert await engine.fetch("SELECT lane, block >> 24 FROM ready") == [(2, 3)]
    await engine.lease(three)
    await engine.give(three, {key_of(unit): caption(5)})
    await engine.upkeep()
    assert await engine.value("SELECT state FROM units") == "accepted"
    assert await engine.value("SELECT count(*) FROM ready") == 0


async def test_a_lane_that_is_born_while_its_unit_moves_is_moved_too(engine: Engine) -> None:
    """A claim holds lane 0 and puts lane 1 beside it; the move waits, and looks again."""
    campaign = await engine.campaign()
    await engine.images(campaign, 1)
    host = await engine.host()
    [shelf] = await engine.db.transaction("shelves", shelves.waiting)

    async def claim(tx: Transaction) -> asyncio.Task[int]:
        stretch = Stretch(shelf.block, 0, shelves.SHUFFLE_RANGE)
        [found] = await shelves.candidates(tx, shelf, stretch, [host.user_id], 1)
        move = asyncio.create_task(prioritise(engine, campaign, 2))
        while not await engine.value("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            assert not move.done()
        deadline = engine.time + timedelta(seconds=60)
        lease = NewLease(found, host.host_id, host.user_id, deadline, next_lane=True, alone=False)
        assert await shelves.take(tx, [lease], [], engine.time)
        return move

    move = await engine.db.transaction("claim", claim)
    assert await move == 1
    [(lane, block)] = await engine.fetch("SELECT lane, block FROM ready")
    assert (lane, priority_of(block)) == (1, 2)
    assert await strays(engine) == 0


async def test_nothing_is_doubled_or_lost_while_everything_moves_and_is_taken(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "STEP", 8)
    campaign = await engine.campaign(replication=3, max_voices=3)
    await engine.images(campaign, 120)
    hosts = [await engine.host() for _ in range(5)]

    async def work(number: int) -> None:
        for _ in range(6):
            units = await engine.lease(hosts[number], want=15)
            answers = {key_of(unit): caption(unit.id) for unit in units[::2]}
            if answers:
                await engine.give(hosts[number], answers)

    movers = [prioritise(engine, campaign, priority) for priority in (3, -2, 0, 1)]
    await asyncio.gather(*movers, *(work(number) for number in range(5)))
    assert max(Counter(await places(engine)).values()) == 1
    assert await strays(engine) == 0
    opened = {row[0] for row in await engine.fetch("SELECT id FROM units WHERE state = 'open'")}
    assert opened <= {unit for unit, _ in await places(engine)}


async def test_a_unit_that_is_reopened_waits_with_the_priority_that_it_had(engine: Engine) -> None:
    campaign = await engine.campaign()
    await engine.images(campaign, 2, priority=1)
    commands = Operations(engine.db, engine.campaigns, engine.now)
    await commands.cancel(every(campaign), Why(BY_OPERATORS))
    assert await prioritise(engine, campaign, 3) == 0
    await commands.reopen(every(campaign), "", keep_answers=False)
    blocks = {row[0] for row in await engine.fetch("SELECT block FROM ready")}
    assert {priority_of(block) for block in blocks} == {1}
    assert await strays(engine) == 0
    assert block_of(0, 1) <= min(blocks)
