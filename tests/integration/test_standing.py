"""What a host is told of itself is what was judged, no more and no less."""

import pytest
from support.engine import Engine, caption, key_of

from coordinator import credit
from coordinator.identity import Caller
from coordinator.standing import Standing, standing


async def _given(engine: Engine, caller: Caller, count: int, text: int | None = None) -> None:
    """Leases so many units and answers each with its own caption, or one that is for another image."""
    units = await engine.lease(caller, want=count)
    assert len(units) == count
    await engine.give(caller, {key_of(u): caption(u.id if text is None else text) for u in units})


async def _of(engine: Engine, caller: Caller) -> Standing:
    return await standing(engine.db, caller.host_id, engine.time)


async def test_a_new_host_has_nothing(engine: Engine):
    caller = await engine.host(user="ann")
    assert await _of(engine, caller) == Standing("ann", "host", 0, 0, 0, 0, 0, 0.0, [], "", 0.0, 0.0)


async def test_results_wait_are_judged_once_and_earn_credit(engine: Engine):
    campaign = await engine.campaign()
    await engine.images(campaign, 40)
    one, two = await engine.host(), await engine.host()
    await _given(engine, one, 40)
    assert (await _of(engine, one)).waiting == 40

    await _given(engine, two, 40)
    for _ in range(2):
        await engine.upkeep()
    for caller in (one, two):
        found = await _of(engine, caller)
        assert (found.agreed, found.disagreed, found.waiting, found.failed) == (40, 0, 0, 0)
        assert found.credit == 40.0


async def test_failures_count_and_releases_do_not(engine: Engine):
    campaign = await engine.campaign()
    await engine.images(campaign, 4)
    caller = await engine.host()
    failed, released, *_ = await engine.lease(caller, want=4)
    await engine.fail(caller, [key_of(failed)])
    await engine.work.release(caller, [key_of(released)], "bed time")
    await engine.upkeep()
    found = await _of(engine, caller)
    assert (found.failed, found.agreed, found.disagreed, found.credit) == (1, 0, 0, 0.0)


async def test_evidence_of_one_host_is_not_its_twins(engine: Engine):
    campaign = await engine.campaign(replication=1, max_voices=1)
    await engine.images(campaign, 2)
    one, twin = await engine.host(user="ann"), await engine.host(user="ann")
    await engine.fail(one, [key_of((await engine.lease(one, want=1))[0])])
    await engine.upkeep()
    assert ((await _of(engine, one)).failed, (await _of(engine, twin)).failed) == (1, 0)


async def test_a_host_that_is_not_there_is_an_error(engine: Engine):
    with pytest.raises(LookupError, match="12345"):
        await standing(engine.db, 12345, engine.time)


async def test_a_volunteer_sees_each_tasks_weight_their_team_and_the_credit_of_all_their_hosts(
    engine: Engine,
):
    campaign = await engine.campaign(perspectives=2)
    await engine.images(campaign, 3)
    one, twin, other = await engine.host(user="ann"), await engine.host(user="ann"), await engine.host()
    await credit.create_team(engine.db, "owls", engine.time)
    await credit.join_team(engine.db, "owls", "ann", engine.time)
    for _ in range(2):  # a batch is of one task
        for caller in (one, other):
            await _given(engine, caller, 3)
    await engine.upkeep()
    found, alike = await _of(engine, one), await _of(engine, twin)
    assert sorted((task.campaign, task.perspective) for task in found.tasks) == [
        ("c", "sentence1"),
        ("c", "sentence2"),
    ]
    assert {(task.model, task.agreed, task.credit, task.credit_each) for task in found.tasks} == {
        ("m", 3, 3.0, 1.0)
    }
    assert (found.team, found.credit, found.user_credit) == ("owls", 6.0, 6.0)
    assert (alike.team, alike.credit, alike.user_credit, alike.tasks) == ("owls", 0.0, 6.0, [])
    assert 0 < found.user_recent == alike.user_recent < 6


async def test_work_that_nobody_checked_is_told_apart(engine: Engine):
    await engine.images(await engine.campaign(replication=1, max_voices=1), 4)
    caller = await engine.host()
    await _given(engine, caller, 4)
    await engine.upkeep()
    found = await _of(engine, caller)
    assert (found.agreed, found.unchecked, found.credit) == (0, 4, 4.0)
