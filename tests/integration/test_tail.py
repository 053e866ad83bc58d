"""One dead-slow host does not hold up the end of a campaign, and nobody is asked more than is allowed."""

from collections import Counter

import pytest
from support.engine import Engine, caption, key_of

from coordinator import upkeep
from coordinator.identity import Caller
from coordinator.lifecycle import Receipt

LEASE_S = 900


async def _draw(engine: Engine, host: Caller, want: int) -> dict[tuple[int, int], str]:
    return {key_of(unit): caption(unit.content_id) for unit in await engine.lease(host, want)}


async def _time_to_finish(engine: Engine) -> float:
    """Seconds until all is settled: three hosts need 2 seconds a batch, a fourth holds five and sleeps."""
    campaign = await engine.campaign(replication=2, lease_s=LEASE_S)
    await engine.images(campaign, 30)
    slow, *quick = [await engine.host() for _ in range(4)]
    await engine.lease(slow, 5)
    began = engine.time
    while await engine.value("SELECT count(*) FROM units WHERE state = 'open'"):
        for host in quick:
            drawn = await _draw(engine, host, 10)
            engine.pass_time(2)
            if drawn:
                await engine.give(host, drawn)
        await engine.upkeep()
    return (engine.time - began).total_seconds()


async def test_a_dead_slow_host_does_not_hold_up_the_end(engine: Engine) -> None:
    assert await _time_to_finish(engine) < LEASE_S / 10
    lanes = await engine.fetch("SELECT max(lane) FROM results GROUP BY unit_id")
    assert Counter(lane for (lane,) in lanes) == {1: 25, 2: 5}


async def test_without_a_tail_it_would(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: object) -> int:
        return 0

    monkeypatch.setattr(upkeep, "hasten", nothing)
    assert await _time_to_finish(engine) > LEASE_S


async def _one_slow_lease(engine: Engine, images: int = 1) -> tuple[Caller, dict[tuple[int, int], str]]:
    """A unit answered by one host while another sleeps on its second lane, and what that one would say."""
    campaign = await engine.campaign(replication=2, max_voices=2, lease_s=LEASE_S)
    await engine.images(campaign, images)
    quick, slow = await engine.host(), await engine.host()
    drawn = await _draw(engine, quick, 1)
    held = await _draw(engine, slow, 1)
    engine.pass_time(2)
    await engine.give(quick, drawn)
    engine.pass_time(60)
    return slow, held


async def test_the_first_answer_wins_and_the_straggler_is_judged_as_late(engine: Engine) -> None:
    slow, held = await _one_slow_lease(engine)
    await engine.upkeep()
    third = await engine.host()
    await engine.give(third, await _draw(engine, third, 1))
    assert await engine.value("SELECT state FROM units") == "accepted"
    [ack] = await engine.give(slow, held)
    assert ack.receipt is Receipt.LATE


async def test_a_unit_gets_one_more_lane_and_no_second(engine: Engine) -> None:
    await _one_slow_lease(engine)
    for _ in range(3):
        await engine.upkeep()
        engine.pass_time(60)
    assert await engine.fetch("SELECT lane FROM ready") == [(2,)]
    fourth = await engine.host()
    assert len(await engine.lease(fourth)) == 1
    engine.pass_time(60)
    await engine.upkeep()
    assert await engine.fetch("SELECT lane FROM ready") == []


async def test_nothing_is_asked_twice_while_units_wait_that_nobody_began(engine: Engine) -> None:
    await _one_slow_lease(engine, images=2)
    await engine.upkeep()
    assert await engine.fetch("SELECT lane FROM ready ORDER BY lane") == [(0,)]
