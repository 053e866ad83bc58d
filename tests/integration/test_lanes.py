"""A lane is born once: a replica that comes back to its shelf brings no second one of the next lane."""

from support.engine import Engine, caption, key_of


async def test_a_lane_leased_again_does_not_double_the_next_one(engine: Engine) -> None:
    campaign = await engine.campaign(replication=2)
    await engine.images(campaign, 1)
    first, second, third, fourth = [await engine.host() for _ in range(4)]
    (unit,) = await engine.lease(first)
    assert [found.lane for found in await engine.lease(second)] == [1]
    await engine.work.release(first, [key_of(unit)], "client_stopped")
    assert [found.lane for found in await engine.lease(third)] == [0]
    assert await engine.fetch("SELECT lane FROM ready") == []
    assert await engine.lease(fourth) == []


async def test_an_answered_lane_is_not_born_again(engine: Engine) -> None:
    campaign = await engine.campaign(replication=2)
    await engine.images(campaign, 1)
    first, second, third = [await engine.host() for _ in range(3)]
    (unit,) = await engine.lease(first)
    await engine.lease(second)
    await engine.give(second, {key_of(unit): caption(1)})
    await engine.work.release(first, [key_of(unit)], "client_stopped")
    assert [found.lane for found in await engine.lease(third)] == [0]
    assert await engine.fetch("SELECT lane FROM ready") == []


async def test_a_doubled_replica_vanishes_instead_of_failing_every_draw(engine: Engine) -> None:
    campaign = await engine.campaign(replication=2)
    await engine.images(campaign, 1)
    await engine.lease(await engine.host())
    await engine.fetch(
        "INSERT INTO ready SELECT campaign_id, perspective_id, tier, 0, block, shuffle, unit_id FROM ready"
        " RETURNING lane"
    )
    drawn = [await engine.lease(await engine.host()) for _ in range(2)]
    assert [[unit.lane for unit in units] for units in drawn] == [[1], []]
    assert await engine.fetch("SELECT lane FROM ready") == []


async def test_a_shelf_that_held_nothing_for_a_user_is_looked_at_again_the_next_time(engine: Engine) -> None:
    """Who finds only its own units on a shelf must not miss what comes back to it."""
    await engine.images(await engine.campaign(), 4)
    first, second, third = [await engine.host() for _ in range(3)]
    [unit] = await engine.lease(first, want=1)
    await engine.lease(second, want=1)
    assert len(await engine.lease(third, want=3)) == 3
    for _ in range(3):
        assert await engine.lease(third) == []
    await engine.work.release(second, [key_of(unit)], "bed time")
    assert [found.id for found in await engine.lease(third)] == [unit.id]
