"""A host that was often borne out works alone, is spot-checked all the same, and loses that when it turns."""

import pytest
from support.engine import Engine, answer, batch, caption, key_of

from coordinator.identity import Caller
from coordinator.policy import Policy
from store.shelves import LeasedUnit

EARNED = 80


async def _work(engine: Engine, caller: Caller, want: int, lies: bool = False) -> list[LeasedUnit]:
    """Leases and answers so many units at once."""
    leased = await engine.lease(caller, want=want)
    texts = {key_of(unit): caption(unit.id + 7000 * lies) for unit in leased}
    await engine.give(caller, texts)
    return leased


async def _believe(engine: Engine) -> None:
    """What is judged reaches the servers' picture."""
    await engine.upkeep()
    await engine.trust.refresh()


async def _trusted(engine: Engine, **policy: object) -> tuple[Caller, Caller]:
    """Two hosts that have agreed often enough."""
    campaign = await engine.campaign(**policy)
    await engine.images(campaign, EARNED)
    ann, bob = await engine.host(user="ann"), await engine.host(user="bob")
    for caller in (ann, bob):
        assert len(await _work(engine, caller, EARNED)) == EARNED
    await _believe(engine)
    await engine.images(campaign, 1000)
    return ann, bob


async def _alone(engine: Engine) -> int:
    return await engine.value("SELECT count(*) FROM leases WHERE alone")


async def test_a_new_host_never_works_alone(engine: Engine):
    await engine.images(await engine.campaign(spot_check=0), 20)
    assert len(await engine.lease(await engine.host(), want=20)) == 20
    assert await _alone(engine) == 0
    assert await engine.value("SELECT count(*) FROM ready WHERE lane = 1") == 20


async def test_a_trusted_host_settles_units_alone_and_their_next_lane_is_not_born(engine: Engine):
    ann, _ = await _trusted(engine, spot_check=0)
    leased = await _work(engine, ann, 100)
    ids = [unit.id for unit in leased]
    assert await engine.value("SELECT count(*) FROM ready WHERE unit_id = ANY(%s)", ids) == 0
    assert await engine.fetch("SELECT state, count(*) FROM units WHERE id = ANY(%s) GROUP BY 1", ids) == [
        ("accepted", 100)
    ]
    await engine.upkeep()
    assert await engine.fetch(
        "SELECT judgement, sum(credit) FROM ledger WHERE unit_id = ANY(%s) GROUP BY 1", ids
    ) == [("unchecked", 100.0)]


async def test_spot_checks_come_by_chance_at_the_promised_rate(engine: Engine):
    ann, _ = await _trusted(engine, spot_check=0.2)
    await engine.lease(ann, want=1000)
    assert 800 - 40 < await _alone(engine) < 800 + 40  # three standard deviations
    assert await engine.value("SELECT count(*) FROM ready WHERE lane = 1") == 1000 - await _alone(engine)


async def test_a_checked_unit_waits_for_another_voice_however_trusted_the_first(engine: Engine):
    ann, bob = await _trusted(engine, spot_check=1)
    ids = [unit.id for unit in await _work(engine, ann, 20)]
    assert await engine.fetch("SELECT DISTINCT state FROM units WHERE id = ANY(%s)", ids) == [("open",)]
    await _work(engine, bob, 20)
    await engine.upkeep()
    judged = "SELECT judgement, count(*) FROM ledger WHERE unit_id = ANY(%s) GROUP BY 1"
    assert await engine.fetch(judged, ids) == [("agreed", 40)]


async def test_who_checks_another_never_works_alone(engine: Engine):
    ann, bob = await _trusted(engine, spot_check=0)
    await engine.fetch("UPDATE campaigns SET policy = policy || '{\"spot_check\": 1}' RETURNING 1")
    await engine.campaigns.refresh()
    checked = [unit.id for unit in await engine.lease(ann, want=20)]
    await engine.fetch("UPDATE campaigns SET policy = policy || '{\"spot_check\": 0}' RETURNING 1")
    await engine.campaigns.refresh()
    assert [unit.id for unit in await engine.lease(bob, want=20)] == checked
    assert await _alone(engine) == 0


async def test_what_a_host_did_alone_proves_nothing(engine: Engine):
    ann, _ = await _trusted(engine, spot_check=0)
    await _work(engine, ann, 500)
    [before] = await engine.fetch("SELECT month_agreed FROM standings WHERE host_id = %s", ann.host_id)
    await engine.upkeep()
    [after] = await engine.fetch("SELECT month_agreed FROM standings WHERE host_id = %s", ann.host_id)
    assert after == before
    assert await engine.value("SELECT unchecked FROM standings WHERE host_id = %s", ann.host_id) == 500


async def test_a_host_that_declares_another_model_is_checked_as_anybody(engine: Engine):
    ann, _ = await _trusted(engine, spot_check=0)
    leased = await engine.lease(ann, want=10)
    items = [answer(key_of(unit), caption(unit.id), model="another") for unit in leased]
    await engine.returns(ann, items, batch(items))
    ids = [unit.id for unit in leased]
    assert await engine.fetch("SELECT DISTINCT state FROM units WHERE id = ANY(%s)", ids) == [("open",)]
    assert await engine.value("SELECT count(*) FROM ready WHERE unit_id = ANY(%s)", ids) == 10


async def test_trust_that_is_lost_while_leases_run_is_lost_for_them_too(engine: Engine):
    ann, bob = await _trusted(engine, spot_check=0)
    held = await engine.lease(ann, want=10)
    await engine.fetch("UPDATE standings SET hour_disagreed = 9, folded_at = now() RETURNING 1")
    await engine.trust.refresh()
    await engine.give(ann, {key_of(unit): caption(unit.id) for unit in held})
    ids = [unit.id for unit in held]
    assert await engine.fetch("SELECT DISTINCT state FROM units WHERE id = ANY(%s)", ids) == [("open",)]
    await _work(engine, bob, 1000)
    assert await engine.fetch("SELECT DISTINCT state FROM units WHERE id = ANY(%s)", ids) == [("accepted",)]


async def test_a_lapsed_lease_of_a_trusted_host_leaves_the_unit_a_way_forward(engine: Engine):
    ann, _ = await _trusted(engine, spot_check=0)
    leased = await engine.lease(ann, want=5)
    engine.pass_time(10_000)
    await engine.upkeep()
    for other in (await engine.host(), await engine.host()):
        while await _work(engine, other, 1000):
            pass
    ids = [unit.id for unit in leased]
    assert await engine.fetch("SELECT DISTINCT state FROM units WHERE id = ANY(%s)", ids) == [("accepted",)]


async def test_trust_fades_with_absence(engine: Engine):
    ann, _ = await _trusted(engine, spot_check=0)
    engine.pass_time(60 * 86_400)
    await engine.lease(ann, want=10)
    assert await _alone(engine) == 0


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.97])
async def test_the_weight_that_settles_alone_gives_the_confidence_that_is_wanted(confidence: float):
    policy = Policy(confidence=confidence)
    odds = policy.sole_weight * policy.quorum.prior / (1 - policy.quorum.prior)
    assert odds / (1 + odds) == pytest.approx(max(confidence, 0.95))
