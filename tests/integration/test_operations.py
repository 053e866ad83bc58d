"""What operators do to units: cancelled ones end for everybody, reopened ones begin anew."""

import asyncio
from pathlib import Path

import pytest
from support.engine import Engine, caption, key_of

from coordinator import operations
from coordinator.campaigns import Campaign, find_row, set_state
from coordinator.errors import OperatorError
from coordinator.export import export
from coordinator.identity import Caller
from coordinator.lifecycle import Receipt, UnitState
from coordinator.operations import BY_OPERATORS, Operations, Why
from store import selections
from store.selections import Selection

WHY = Why(BY_OPERATORS, "wrong folder")


def every(campaign: Campaign, **narrower: object) -> Selection:
    return Selection(**{"campaign_id": campaign.id, "states": frozenset(UnitState), **narrower})  # type: ignore[arg-type]


def commands(engine: Engine) -> Operations:
    return Operations(engine.db, engine.campaigns, engine.now)


async def cancel(engine: Engine, campaign: Campaign) -> int:
    return await commands(engine).cancel(every(campaign), WHY)


async def reopen(engine: Engine, campaign: Campaign, *, keep: bool = False) -> int:
    return await commands(engine).reopen(every(campaign), "a better prompt", keep_answers=keep)


async def answered(engine: Engine, callers: list[Caller], number: int = 5) -> None:
    """Each leases all that it can and says the same of it."""
    for caller in callers:
        units = await engine.lease(caller)
        await engine.give(caller, {key_of(unit): caption(number + unit.id) for unit in units})


async def accepted(engine: Engine, images: int = 1, **policy: object) -> tuple[Campaign, list[Caller]]:
    """A campaign whose units two hosts have settled, booked and folded."""
    campaign = await engine.campaign(**policy)
    await engine.images(campaign, images)
    hosts = [await engine.host(), await engine.host()]
    await answered(engine, hosts)
    await engine.upkeep()
    assert await states(engine) == {"accepted": images}
    return campaign, hosts


async def states(engine: Engine) -> dict[str, int]:
    return dict(await engine.fetch("SELECT state, count(*) FROM units GROUP BY 1"))


async def voices(engine: Engine) -> tuple[int, int, float]:
    """Agreed and credit as folded, and the ledger's credit."""
    return (
        await engine.fetch(
            "SELECT COALESCE(sum(agreed), 0)::int, COALESCE(sum(credit), 0), (SELECT sum(credit) FROM ledger)"
            " FROM standings"
        )
    )[0]


# --- cancelling ---


async def test_a_cancelled_unit_leaves_its_shelf_and_its_holders_are_told_to_stop(engine: Engine) -> None:
    campaign = await engine.campaign()
    await engine.images(campaign, 3)
    holder = await engine.host()
    held = await engine.lease(holder, want=2)

    assert await cancel(engine, campaign) == 3

    assert await states(engine) == {"cancelled": 3}
    assert await engine.value("SELECT verdict->>'reason' FROM units LIMIT 1") == BY_OPERATORS
    assert await engine.value("SELECT verdict->'details' FROM units LIMIT 1") == ["wrong folder"]
    assert await engine.value("SELECT count(*) FROM ready") == 0
    assert await engine.fetch("SELECT ending, detail FROM past_leases") == [("stopped", BY_OPERATORS)] * 2
    assert (await engine.work.renew(holder, [key_of(unit) for unit in held])).keys == set()
    assert await engine.lease(await engine.host()) == []


async def test_an_answer_to_a_cancelled_unit_is_kept_and_nobody_earns_or_loses(engine: Engine) -> None:
    campaign = await engine.campaign()
    await engine.images(campaign, 1)
    quick, slow = await engine.host(), await engine.host()
    [unit], _ = await engine.lease(quick), await engine.lease(slow)
    await engine.give(quick, {key_of(unit): caption(5)})
    await cancel(engine, campaign)

    [ack] = await engine.give(slow, {key_of(unit): caption(17)})
    await engine.upkeep()

    assert ack.receipt is Receipt.LATE
    assert await engine.fetch("SELECT late FROM results ORDER BY late") == [(False,), (True,)]
    assert await engine.value("SELECT count(*) FROM ledger") == 0
    assert await engine.value("SELECT count(*) FROM annotations") == 0
    assert await engine.value("SELECT count(*) FROM settled") == 0


async def test_cancelling_leaves_what_has_ended_and_twice_is_once(engine: Engine) -> None:
    campaign, _ = await accepted(engine)
    await engine.images(campaign, 2)
    assert await cancel(engine, campaign) == 2
    assert await cancel(engine, campaign) == 0
    assert await states(engine) == {"accepted": 1, "cancelled": 2}


async def test_many_operators_at_once_cancel_each_unit_once_while_hosts_work(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "STEP", 7)
    monkeypatch.setattr(selections, "PAGE", 25)
    campaign = await engine.campaign()
    await engine.images(campaign, 100)
    hosts = [await engine.host() for _ in range(4)]
    *counts, _, _, _, _ = await asyncio.gather(
        *(cancel(engine, campaign) for _ in range(3)), *(answered(engine, [host]) for host in hosts)
    )
    await cancel(engine, campaign)
    assert sum(counts) <= 100
    assert "open" not in await states(engine)
    assert await engine.value("SELECT count(*) FROM past_leases WHERE ending <> 'stopped'") == 0
    await engine.upkeep()
    assert await engine.value("SELECT sum(credit) FROM ledger") in {
        None,
        2.0 * (await states(engine)).get("accepted", 0),
    }


async def test_a_cancelled_campaign_ends_and_can_be_taken_up_again_with_its_answers(engine: Engine) -> None:
    campaign = await engine.campaign()
    await engine.images(campaign, 4)
    one, two, three = [await engine.host() for _ in range(3)]
    units = await engine.lease(one)
    await engine.give(one, {key_of(unit): caption(unit.id) for unit in units[:2]})
    await commands(engine).cancel(every(campaign, ranges=[(units[3].id, units[3].id)]), WHY)

    assert await commands(engine).cancel_campaign(campaign.id, "no money") == 3
    await engine.campaigns.refresh()
    assert await engine.lease(two) == []
    with pytest.raises(OperatorError, match="campaign reopen c") as refused:
        await set_state(engine.db, "c", "running")
    assert refused.value.code == "campaign_cancelled"

    assert await commands(engine).reopen_campaign(campaign.id) == 3
    await engine.campaigns.refresh()
    assert await states(engine) == {"cancelled": 1, "open": 3}
    await answered(engine, [two, three], number=0)
    await engine.upkeep()
    assert await states(engine) == {"cancelled": 1, "accepted": 3}
    assert await engine.value("SELECT count(*) FROM results WHERE user_id = %s", one.user_id) == 2


# --- reopening ---


async def test_reopening_withdraws_what_stood_and_takes_credit_back(engine: Engine, tmp_path: Path) -> None:
    campaign, hosts = await accepted(engine, 3)
    assert await voices(engine) == (6, 6.0, 6.0)

    assert await reopen(engine, campaign) == 3
    await engine.upkeep()

    assert await states(engine) == {"open": 3}
    assert await engine.fetch("SELECT version, status FROM annotations") == [(1, "withdrawn")] * 3
    assert (await export(engine.db, await find_row(engine.db, "c"), tmp_path, engine.time)).annotations == 0
    assert await voices(engine) == (0, 0.0, 0.0)
    assert await engine.value("SELECT count(*) FROM ledger") == 12
    assert await engine.fetch("SELECT DISTINCT round, state, reason FROM past_rounds") == [
        (1, "accepted", "a better prompt")
    ]
    assert await engine.value("SELECT count(*) FROM past_results") == 6

    await answered(engine, hosts, number=90)
    await engine.upkeep()
    assert await states(engine) == {"accepted": 3}
    assert await voices(engine) == (6, 6.0, 6.0)
    assert await engine.fetch("SELECT version, status FROM annotations ORDER BY version, id") == [
        *[(1, "withdrawn")] * 3,
        *[(2, "published")] * 3,
    ]
    assert (await export(engine.db, await find_row(engine.db, "c"), tmp_path, engine.time)).annotations == 3


async def test_what_is_taken_back_fades_with_what_it_takes_back(engine: Engine) -> None:
    """Credit and evidence are as if the unit had never been judged, however late that is said."""
    campaign, hosts = await accepted(engine, 3)
    told = "SELECT sum(month_agreed), sum(hour_agreed), sum(agreed) FROM standings"
    [before] = await engine.fetch(told)
    assert before == (6.0, 6.0, 6)
    engine.pass_time(40 * 86_400)
    await reopen(engine, campaign)
    await engine.upkeep()

    [after] = await engine.fetch(told)
    assert after == pytest.approx((0, 0, 0), abs=1e-9)
    totals = await engine.fetch("SELECT results, credit, week_credit FROM credit_totals")
    assert len(totals) == 2 * len(hosts)
    for total in totals:
        assert total == pytest.approx((0, 0, 0), abs=1e-9)


async def test_reopening_again_and_by_two_people_at_once_is_reopening_once(engine: Engine) -> None:
    campaign, _ = await accepted(engine, 5)
    counts = await asyncio.gather(*(reopen(engine, campaign) for _ in range(4)))
    await engine.upkeep()
    assert sum(counts) == 5
    assert await voices(engine) == (0, 0.0, 0.0)
    assert await engine.value("SELECT count(*) FROM past_rounds") == 5
    assert await engine.fetch("SELECT lane, count(*) FROM ready GROUP BY 1 ORDER BY 1") == [(0, 5), (1, 5)]


async def test_a_unit_reopened_before_it_is_booked_leaves_no_annotation_and_no_credit(engine: Engine) -> None:
    campaign = await engine.campaign()
    await engine.images(campaign, 1)
    await answered(engine, [await engine.host(), await engine.host()])
    assert await engine.value("SELECT count(*) FROM settled") == 1
    assert await reopen(engine, campaign) == 1
    assert await engine.value("SELECT count(*) FROM settled") == 0
    await engine.upkeep()
    assert await engine.value("SELECT count(*) FROM annotations") == 0
    assert await engine.value("SELECT count(*) FROM ledger") == 0


async def test_a_unit_accepted_twice_before_it_is_booked_is_booked_once(engine: Engine) -> None:
    campaign = await engine.campaign()
    await engine.images(campaign, 1)
    hosts = [await engine.host(), await engine.host()]
    await answered(engine, hosts)
    await reopen(engine, campaign)
    await answered(engine, hosts, number=60)
    await engine.upkeep()
    [(unit_id,)] = await engine.fetch("SELECT id FROM units")
    assert await engine.fetch("SELECT version, annotation->>'caption' FROM annotations") == [
        (1, caption(60 + unit_id))
    ]
    assert await voices(engine) == (2, 2.0, 2.0)


async def test_reopening_waits_for_the_booking_that_is_under_way(engine: Engine) -> None:
    campaign = await engine.campaign()
    await engine.images(campaign, 40)
    for caller in (await engine.host(), await engine.host()):
        units = await engine.lease(caller, want=40)
        await engine.give(caller, {key_of(unit): caption(unit.id) for unit in units})
    await asyncio.gather(engine.upkeep(), reopen(engine, campaign), engine.upkeep())
    await engine.upkeep()
    assert await states(engine) == {"open": 40}
    assert await engine.value("SELECT count(*) FROM annotations WHERE status <> 'withdrawn'") == 0
    assert (await voices(engine))[0] == 0
    assert await engine.value("SELECT COALESCE(sum(credit), 0) FROM ledger") == 0


async def test_an_exhausted_unit_that_is_reopened_has_all_its_failures_and_attempts_again(
    engine: Engine,
) -> None:
    campaign = await engine.campaign(max_failures=0)
    await engine.images(campaign, 1)
    clumsy = await engine.host()
    [unit] = await engine.lease(clumsy)
    await engine.fail(clumsy, [key_of(unit)])
    assert await states(engine) == {"exhausted": 1}

    await reopen(engine, campaign)
    [again] = await engine.lease(clumsy)
    assert again.id == unit.id
    await engine.work.release(clumsy, [key_of(again)], "bed time")
    assert await states(engine) == {"open": 1}
    [again] = await engine.lease(clumsy)
    await engine.fail(clumsy, [key_of(again)])
    assert await states(engine) == {"exhausted": 1}


async def test_kept_answers_are_judged_with_those_that_come_beyond_the_cap(engine: Engine) -> None:
    campaign = await engine.campaign(max_voices=3)
    await engine.images(campaign, 1)
    hosts = [await engine.host() for _ in range(3)]
    for host, number in zip(hosts, (5, 17, 28), strict=True):
        [unit] = await engine.lease(host)
        await engine.give(host, {key_of(unit): caption(number)})
    assert await states(engine) == {"exhausted": 1}

    assert await reopen(engine, campaign, keep=True) == 1
    assert await engine.value("SELECT extra_voices FROM units") == 3
    assert await engine.value("SELECT count(*) FROM ready") == 1
    assert await engine.lease(hosts[0]) == []
    for number in (41, 62):
        fresh = await engine.host()
        [unit] = await engine.lease(fresh)
        await engine.give(fresh, {key_of(unit): caption(number)})
        assert await states(engine) == {"open": 1}
    fresh = await engine.host()
    [unit] = await engine.lease(fresh)
    await engine.give(fresh, {key_of(unit): caption(17)})
    await engine.upkeep()

    assert await engine.value("SELECT count(*) FROM results") == 6
    assert "open" not in await states(engine)


async def test_kept_late_answers_become_voices(engine: Engine) -> None:
    campaign = await engine.campaign()
    await engine.images(campaign, 1)
    quick, slow, third = [await engine.host() for _ in range(3)]
    [unit], _ = await engine.lease(quick), await engine.lease(slow)
    await engine.give(quick, {key_of(unit): caption(5)})
    await cancel(engine, campaign)
    await engine.give(slow, {key_of(unit): caption(5)})

    await reopen(engine, campaign, keep=True)
    [again] = await engine.lease(third)
    await engine.give(third, {key_of(again): caption(5)})
    await engine.upkeep()

    assert await states(engine) == {"accepted": 1}
    assert await engine.value("SELECT count(*) FROM ledger WHERE judgement = 'agreed'") == 3


async def test_a_straggler_at_work_when_its_unit_is_reopened_counts_in_the_new_round(engine: Engine) -> None:
    campaign = await engine.campaign(replication=3, max_voices=3)
    await engine.images(campaign, 1)
    hosts = [await engine.host() for _ in range(3)]
    [unit] = [(await engine.lease(host))[0] for host in hosts][:1]
    await engine.fetch("UPDATE campaigns SET policy = policy || '{\"replication\": 2}' RETURNING id")
    await engine.campaigns.refresh()
    for host in hosts[:2]:
        await engine.give(host, {key_of(unit): caption(5)})
    assert await states(engine) == {"accepted": 1}

    await reopen(engine, campaign)
    assert (await engine.work.renew(hosts[2], [key_of(unit)])).keys == {key_of(unit)}
    assert await engine.value("SELECT count(*) FROM ready") == 1
    [ack] = await engine.give(hosts[2], {key_of(unit): caption(5)})
    assert ack.receipt is Receipt.COUNTED
    await answered(engine, hosts[:1], number=5 - unit.id)
    assert await states(engine) == {"accepted": 1}


async def test_a_result_of_an_earlier_round_is_a_duplicate_when_it_is_sent_again(engine: Engine) -> None:
    campaign, [host, _] = await accepted(engine)
    [(unit_id,)] = await engine.fetch("SELECT id FROM units")
    await reopen(engine, campaign)
    [same] = await engine.give(host, {(campaign.id, unit_id): caption(5 + unit_id)})
    [other] = await engine.give(host, {(campaign.id, unit_id): "Something else"})
    assert (same.receipt, other.receipt) == (Receipt.DUPLICATE, Receipt.NOT_LEASED)
    assert await engine.value("SELECT count(*) FROM results") == 0


async def test_units_of_a_cancelled_campaign_are_reopened_with_it_alone(engine: Engine) -> None:
    campaign, _ = await accepted(engine)
    await commands(engine).cancel_campaign(campaign.id, "")
    with pytest.raises(OperatorError) as refused:
        await reopen(engine, campaign)
    assert refused.value.code == "campaign_cancelled"


async def test_a_selection_is_by_ids_states_and_reason(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selections, "PAGE", 3)
    campaign = await engine.campaign(max_failures=0)
    await engine.images(campaign, 20)
    other = await engine.campaign("other")
    await engine.images(other, 5)
    host = await engine.host()
    ids = [row[0] for row in await engine.fetch("SELECT id FROM units WHERE campaign_id = %s", campaign.id)]
    mine = [unit for unit in await engine.lease(host, want=30) if unit.campaign_id == campaign.id]
    await engine.fail(host, [key_of(unit) for unit in mine[:4]])
    await commands(engine).cancel(every(campaign, ranges=[(ids[0], ids[4])]), WHY)

    async def chosen(selection: Selection) -> int:
        return await commands(engine).count(selection)

    assert await chosen(every(campaign)) == 20
    assert await chosen(every(campaign, states=frozenset({UnitState.CANCELLED}))) == await chosen(
        every(campaign, reason=BY_OPERATORS)
    )
    assert await chosen(every(campaign, reason="too_many_failures")) == len(
        await engine.fetch("SELECT id FROM units WHERE state = 'exhausted'")
    )
    assert await chosen(every(campaign, ranges=[(ids[3], ids[3]), (ids[7], ids[9])])) == 4
    assert await chosen(every(other)) == 5
