"""The life of a unit: each promise of the protocol, and what volunteer-computing servers get wrong."""

import asyncio

import pytest
from support.engine import Engine, answer, batch, caption, key_of

from coordinator import hearing
from coordinator.lifecycle import Receipt
from coordinator.returns import ReturnedFailure
from protos.tier import Tier


async def _state(engine: Engine) -> str:
    return str(await engine.value("SELECT state FROM units"))


async def _one_unit(engine: Engine, **policy: int):
    """A campaign of one unit, and other images' answers in the background, so that facts are specific."""
    campaign = await engine.campaign(**policy)
    background = await engine.campaigns.background(campaign.id, 1)
    from captions.agreement import features

    perspective = campaign.tasks[1].task.perspective
    for number in range(1000, 1100):
        background.add(-number, features({"caption": caption(number)}, perspective).tokens)
    await engine.images(campaign, 1)
    return campaign


async def test_two_agreeing_answers_settle_a_unit_and_earn_credit_once(engine: Engine):
    await _one_unit(engine)
    one, two = await engine.host(), await engine.host()
    [first], [second] = await engine.lease(one), await engine.lease(two)
    assert (first.lane, second.lane) == (0, 1)

    assert [a.receipt for a in await engine.give(one, {key_of(first): caption(5)})] == [Receipt.COUNTED]
    assert await _state(engine) == "open"
    await engine.give(two, {key_of(second): caption(5)})
    assert await _state(engine) == "accepted"
    await engine.upkeep()
    await engine.upkeep()

    assert await engine.value("SELECT sum(credit) FROM ledger") == 2.0
    assert await engine.fetch("SELECT annotation, status FROM annotations") == [
        ({"caption": caption(5)}, "published")
    ]
    assert await engine.value("SELECT sum(agreed) FROM standings") == 2
    assert await engine.value("SELECT count(*) FROM annotation_source_links") == 1


async def test_a_unit_on_which_two_differ_asks_a_third_and_the_odd_one_loses(engine: Engine):
    await _one_unit(engine, max_voices=3)
    hosts = [await engine.host() for _ in range(3)]
    for host, text in zip(hosts, (caption(5), caption(17), caption(5)), strict=True):
        [unit] = await engine.lease(host)
        await engine.give(host, {key_of(unit): text})
    await engine.upkeep()

    assert await _state(engine) == "accepted"
    judged = dict(await engine.fetch("SELECT user_id, judgement FROM ledger"))
    assert judged == {hosts[0].user_id: "agreed", hosts[1].user_id: "disagreed", hosts[2].user_id: "agreed"}


async def test_a_unit_without_agreement_ends_exhausted_with_its_reason_and_no_annotation(engine: Engine):
    await _one_unit(engine, max_voices=3)
    for number in (5, 17, 28):
        host = await engine.host()
        [unit] = await engine.lease(host)
        await engine.give(host, {key_of(unit): caption(number)})
    await engine.upkeep()

    assert await _state(engine) == "exhausted"
    assert await engine.value("SELECT verdict->>'reason' FROM units") == "no_agreement"
    assert await engine.value("SELECT count(*) FROM annotations") == 0
    assert await engine.value("SELECT count(*) FROM ready") == 0


async def test_the_same_return_again_is_a_duplicate_and_changes_nothing(engine: Engine):
    await _one_unit(engine)
    host = await engine.host()
    [unit] = await engine.lease(host)
    items = [answer(key_of(unit), caption(5))]

    first = await engine.returns(host, items, batch(items))
    again = await engine.returns(host, items, batch(items))

    assert [a.receipt for a in first + again] == [Receipt.COUNTED, Receipt.DUPLICATE]
    assert await engine.value("SELECT count(*) FROM results") == 1
    assert await engine.value("SELECT count(*) FROM returns") == 1


async def test_another_answer_to_the_same_unit_is_refused_and_the_first_stands(engine: Engine):
    await _one_unit(engine)
    host = await engine.host()
    [unit] = await engine.lease(host)
    await engine.give(host, {key_of(unit): caption(5)})

    [ack] = await engine.give(host, {key_of(unit): caption(6)})

    assert ack.receipt is Receipt.ALREADY_ANSWERED
    assert (
        await engine.value("SELECT convert_from(body, 'UTF8') FROM results")
        == f'{{"caption":"{caption(5)}"}}'
    )


async def test_a_result_from_a_host_that_never_held_the_unit_is_refused(engine: Engine):
    await _one_unit(engine)
    holder, stranger = await engine.host(), await engine.host()
    [unit] = await engine.lease(holder)

    acks = await engine.give(
        stranger, {key_of(unit): caption(5), (unit.campaign_id, 999_999): "x", (77, 1): "x"}
    )

    assert [a.receipt for a in acks] == [Receipt.NOT_LEASED, Receipt.UNKNOWN_UNIT, Receipt.UNKNOWN_UNIT]
    assert await engine.value("SELECT count(*) FROM results") == 0
    assert await engine.value("SELECT count(*) FROM leases") == 1


async def test_a_second_host_of_the_same_user_may_not_answer_for_the_first(engine: Engine):
    await _one_unit(engine)
    laptop, desktop = await engine.host(user="eve"), await engine.host(user="eve")
    [unit] = await engine.lease(laptop)

    [ack] = await engine.give(desktop, {key_of(unit): caption(5)})

    assert ack.receipt is Receipt.NOT_LEASED
    assert await engine.lease(desktop) == []


async def test_an_expired_lease_is_issued_again_and_the_late_answer_still_counts(engine: Engine):
    await _one_unit(engine, lease_s=60)
    slow, quick = await engine.host(), await engine.host()
    [unit] = await engine.lease(slow)
    engine.pass_time(61)
    await engine.upkeep()
    assert await engine.fetch("SELECT ending FROM past_leases") == [("expired",)]
    lanes = await engine.fetch("SELECT lane FROM ready ORDER BY lane")
    assert lanes == [(0,), (1,)]

    [ack] = await engine.give(slow, {key_of(unit): caption(5)})
    assert ack.receipt is Receipt.COUNTED
    assert await engine.fetch("SELECT lane FROM ready") == [(1,)]
    [second] = await engine.lease(quick)
    await engine.give(quick, {key_of(second): caption(5)})
    assert await _state(engine) == "accepted"


async def test_a_late_answer_after_the_verdict_is_kept_and_judged_but_not_counted(engine: Engine):
    await _one_unit(engine, lease_s=60)
    late, liar = await engine.host(), await engine.host()
    [unit] = await engine.lease(late)
    [other] = await engine.lease(liar)
    engine.pass_time(61)
    await engine.upkeep()
    for host in (await engine.host(), await engine.host()):
        [again] = await engine.lease(host)
        await engine.give(host, {key_of(again): caption(5)})
    assert await _state(engine) == "accepted"
    verdict = await engine.value("SELECT verdict FROM units")

    [ack] = await engine.give(late, {key_of(unit): caption(5)})
    [bad] = await engine.give(liar, {key_of(other): caption(17)})
    await engine.upkeep()

    assert (ack.receipt, bad.receipt) == (Receipt.LATE, Receipt.LATE)
    assert await engine.value("SELECT verdict FROM units") == verdict
    judged = dict(await engine.fetch("SELECT host_id, judgement FROM ledger"))
    assert (judged[late.host_id], judged[liar.host_id]) == ("agreed", "disagreed")
    assert await engine.value("SELECT count(*) FROM annotations") == 1


async def test_renewing_keeps_a_lease_and_tells_what_to_stop(engine: Engine):
    await _one_unit(engine, lease_s=60)
    keeper, stranger = await engine.host(), await engine.host()
    [unit] = await engine.lease(keeper)
    engine.pass_time(50)

    renewed = await engine.work.renew(keeper, [key_of(unit), (unit.campaign_id, 12345)])
    foreign = await engine.work.renew(stranger, [key_of(unit)])
    engine.pass_time(50)
    await engine.upkeep()

    assert renewed.keys == {key_of(unit)}
    assert foreign.keys == set()
    assert await engine.value("SELECT count(*) FROM leases") == 1


async def test_a_lease_on_a_settled_unit_is_told_to_stop_at_the_next_renew(engine: Engine):
    await _one_unit(engine, replication=3, max_voices=3)
    hosts = [await engine.host() for _ in range(3)]
    units = [(await engine.lease(host))[0] for host in hosts]
    await engine.fetch("UPDATE campaigns SET policy = policy || '{\"replication\": 2}' RETURNING id")
    await engine.campaigns.refresh()
    for host, unit in zip(hosts[:2], units[:2], strict=True):
        await engine.give(host, {key_of(unit): caption(5)})
    assert await _state(engine) == "accepted"

    renewed = await engine.work.renew(hosts[2], [key_of(units[2])])

    assert renewed.keys == set()


async def test_a_released_unit_goes_to_another_host_and_is_nobodys_error(engine: Engine):
    await _one_unit(engine)
    one, two = await engine.host(), await engine.host()
    [unit] = await engine.lease(one)

    assert await engine.work.release(two, [key_of(unit)], "not mine") == 0
    assert await engine.work.release(one, [key_of(unit)], "going to bed") == 1
    assert await engine.work.release(one, [key_of(unit)], "going to bed") == 0

    assert await engine.fetch("SELECT ending, detail FROM past_leases") == [("released", "going to bed")]
    assert [u.id for u in await engine.lease(two)] == [unit.id]
    assert await engine.value("SELECT count(*) FROM ledger") == 0


async def test_a_unit_that_only_fails_ends_exhausted_with_the_hosts_words(engine: Engine):
    await _one_unit(engine, max_failures=2)
    for number in range(3):
        host = await engine.host()
        [unit] = await engine.lease(host)
        [ack] = await engine.fail(host, [key_of(unit)], f"image_broken: attempt {number}")
        [again] = await engine.fail(host, [key_of(unit)], "sent again")
        assert (ack.receipt, again.receipt) == (Receipt.FAILURE, Receipt.FAILURE)

    assert await _state(engine) == "exhausted"
    verdict = await engine.value("SELECT verdict FROM units")
    assert verdict["reason"] == "too_many_failures"
    assert verdict["details"] == [f"image_broken: attempt {number}" for number in range(3)]
    assert await engine.value("SELECT count(*) FROM ready") == 0
    assert await engine.value("SELECT count(*) FROM ledger WHERE judgement = 'failed'") == 3


async def test_a_unit_that_is_only_abandoned_does_not_circle_for_ever(engine: Engine):
    await _one_unit(engine, max_attempts=3, lease_s=60)
    for _ in range(4):
        host = await engine.host()
        assert await engine.lease(host)
        engine.pass_time(61)
        await engine.upkeep()

    assert await _state(engine) == "exhausted"
    assert await engine.value("SELECT verdict->>'reason' FROM units") == "too_many_attempts"


async def test_an_answer_against_the_schema_is_refused_with_words_and_the_replica_goes_back(engine: Engine):
    await _one_unit(engine)
    host = await engine.host()
    [unit] = await engine.lease(host)
    bad = answer(key_of(unit), "x")
    bodies = [b"", b"\xff\xfe", b"[]", b'{"caption": 7}', b'{"caption": ""}', b'{"c": "a"}', b"{" * 5000]

    for body in bodies:
        items = [type(bad)(bad.key, body.ljust(32)[:32], body, "m", "t", 0, 1)]
        [ack] = await engine.returns(host, items, batch(items))
        assert ack.receipt in {Receipt.INVALID, Receipt.NOT_LEASED}
        assert ack.reason

    assert await engine.value("SELECT count(*) FROM results") == 0


async def test_one_return_may_mix_answers_failures_and_nonsense(engine: Engine):
    campaign = await engine.campaign()
    await engine.images(campaign, 3)
    host = await engine.host()
    one, two, three = await engine.lease(host, want=3)
    items = [
        answer(key_of(one), caption(1)),
        ReturnedFailure(key_of(two), "gone"),
        answer(key_of(three), ""),
        answer(key_of(one), caption(1)),
        answer((9, 9), "x"),
    ]

    acks = await engine.returns(host, items, batch([i for i in items if not isinstance(i, ReturnedFailure)]))

    assert [a.receipt for a in acks] == [
        Receipt.COUNTED,
        Receipt.FAILURE,
        Receipt.INVALID,
        Receipt.COUNTED,
        Receipt.UNKNOWN_UNIT,
    ]
    assert await engine.value("SELECT count(*) FROM results") == 1


async def test_concurrent_returns_of_one_unit_do_not_miss_each_other(engine: Engine):
    campaign = await engine.campaign(replication=2)
    await engine.images(campaign, 40)
    one, two = await engine.host(), await engine.host()
    first, second = await engine.lease(one, want=40), await engine.lease(two, want=40)
    assert {key_of(u) for u in first} == {key_of(u) for u in second}

    await asyncio.gather(
        engine.give(one, {key_of(u): caption(u.id) for u in first}),
        engine.give(two, {key_of(u): caption(u.id) for u in reversed(second)}),
    )

    assert await engine.fetch("SELECT state, count(*) FROM units GROUP BY 1") == [("accepted", 40)]


async def test_a_paused_campaign_hands_nothing_out_but_takes_what_comes_back(engine: Engine):
    await _one_unit(engine)
    host = await engine.host()
    [unit] = await engine.lease(host)
    await engine.fetch("UPDATE campaigns SET state = 'paused' RETURNING id")
    await engine.campaigns.refresh()

    assert await engine.lease(await engine.host()) == []
    [ack] = await engine.give(host, {key_of(unit): caption(5)})
    assert ack.receipt is Receipt.COUNTED


async def test_a_small_host_gets_no_work_beyond_its_tier_nor_beyond_its_invite(engine: Engine):
    await _one_unit(engine)
    await engine.fetch("UPDATE ready SET tier = 4 RETURNING unit_id")
    await engine.fetch("UPDATE units SET tier = 4 RETURNING id")
    boaster = await engine.host(tier=Tier.G8)

    assert await engine.lease(await engine.host(), tier=Tier.G16) == []
    assert await engine.lease(boaster, tier=Tier.G80) == []
    assert len(await engine.lease(await engine.host(), tier=Tier.G24)) == 1


async def test_submitting_again_births_nothing_twice(engine: Engine):
    campaign = await engine.campaign(perspectives=2)
    assert await engine.images(campaign, 5) == 10
    from coordinator.submission import Subject, submit

    rows = await engine.fetch("SELECT id, derivative_hash FROM contents")
    subjects = [Subject(content_id, digest) for content_id, digest in rows]
    born = await engine.db.transaction(
        "again", lambda tx: submit(tx, campaign, subjects, engine.key, engine.rng, engine.time)
    )

    assert born.born == 0
    assert await engine.value("SELECT count(*) FROM ready") == 10


async def test_campaigns_share_hosts_fairly(engine: Engine):
    for name in ("one", "two"):
        await engine.images(await engine.campaign(name), 100)
    host = await engine.host()

    leased = [unit.campaign_id for _ in range(10) for unit in await engine.lease(host, want=5)]

    assert leased.count(1) == leased.count(2) == 25


async def test_a_broken_volunteer_alone_exhausts_nothing(engine: Engine):
    """Whoever failed a unit does not get it again, with any host, so that its cap counts volunteers."""
    await _one_unit(engine, max_failures=3)
    broken, other = await engine.host(user="broken"), await engine.host(user="broken")
    [unit] = await engine.lease(broken)
    await engine.fail(broken, [key_of(unit)])

    assert await engine.lease(broken) == []
    assert await engine.lease(other) == []
    assert await _state(engine) == "open"
    assert [u.id for u in await engine.lease(await engine.host())] == [unit.id]


async def test_a_replication_of_one_believes_whoever_answers(engine: Engine):
    await _one_unit(engine, replication=1, max_voices=1)
    host = await engine.host()
    [unit] = await engine.lease(host)

    await engine.give(host, {key_of(unit): caption(5)})
    await engine.upkeep()

    assert await _state(engine) == "accepted"
    assert await engine.value("SELECT count(*) FROM annotations") == 1


async def test_two_hosts_that_renew_for_ever_do_not_hold_a_unit_for_ever(engine: Engine):
    await engine.images(await engine.campaign(lease_s=60, max_hold_s=600), 1)
    holders = [await engine.host(), await engine.host()]
    [unit], _ = [await engine.lease(holder) for holder in holders]
    for _ in range(16):
        engine.pass_time(40)
        for holder in holders:
            await engine.work.renew(holder, [key_of(unit)])
        await engine.upkeep()
    assert len(await engine.lease(await engine.host())) == 1


async def test_whoever_leases_and_releases_all_day_exhausts_nothing(engine: Engine):
    await engine.images(await engine.campaign(max_attempts=1), 1)
    idler, worker = await engine.host(), await engine.host()
    for _ in range(5):
        [unit] = await engine.lease(idler)
        await engine.work.release(idler, [key_of(unit)], "again")
    assert len(await engine.lease(worker)) == 1
    assert await engine.value("SELECT state FROM units") == "open"


async def test_a_failure_and_an_answer_together_that_give_a_unit_up_still_judge_the_answer(engine: Engine):
    """The last failure that a unit may have comes in the transaction of the answer that settles it."""
    await engine.images(await engine.campaign(replication=2, max_voices=3, max_failures=0), 1)
    first, second, third = [await engine.host() for _ in range(3)]
    [unit] = await engine.lease(first)
    await engine.lease(second)
    await engine.give(first, {key_of(unit): caption(5)})
    await engine.fetch(
        "INSERT INTO leases SELECT campaign_id, unit_id, 2, %s, %s, leased_at, deadline, false FROM leases"
        " RETURNING 1",
        third.host_id,
        third.user_id,
    )
    [[acked], [failed]] = await asyncio.gather(
        engine.give(second, {key_of(unit): caption(5)}), engine.fail(third, [key_of(unit)])
    )
    assert (acked.receipt, failed.receipt) == (Receipt.COUNTED, Receipt.FAILURE)
    assert await engine.value("SELECT state FROM units") == "accepted"


async def test_answers_that_this_process_has_forgotten_are_read_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(hearing, "REMEMBERED", 0)
    await engine.images(await engine.campaign(), 3)
    for host in (await engine.host(), await engine.host()):
        units = await engine.lease(host)
        await engine.give(host, {key_of(unit): caption(unit.id) for unit in units})
    assert await engine.fetch("SELECT DISTINCT state FROM units") == [("accepted",)]
