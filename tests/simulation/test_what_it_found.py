"""The bugs that random plans found, each as the shortest story that shows it."""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
from support.engine import Engine, answer, batch, caption, key_of

from coordinator import returns
from coordinator.identity import Caller
from coordinator.lifecycle import Receipt
from coordinator.returns import ReturnedFailure, SignedBatch
from store import shelves
from store.database import Transaction
from store.shelves import SHUFFLE_RANGE, Candidate, NewLease, Shelf, Stretch


async def draw(
    engine: Engine, tx: Transaction, host: Caller, place: Shelf, *, next_lane: bool
) -> list[Candidate]:
    """One replica of just this shelf."""
    await shelves.guard_users(tx, [host.user_id])
    everywhere = Stretch(place.block, 0, SHUFFLE_RANGE)
    found = await shelves.candidates(tx, place, everywhere, [host.user_id], 1)
    deadline = engine.time + timedelta(seconds=60)
    new = [NewLease(one, host.host_id, host.user_id, deadline, next_lane and one.fresh) for one in found]
    await shelves.take(tx, new, [], engine.time)
    return found


async def test_a_late_answer_ends_what_another_host_of_its_user_holds(engine: Engine) -> None:
    """Seed 9: the laptop's lease lapsed, the desktop holds the unit, and the laptop answers after all."""
    await engine.images(await engine.campaign(lease_s=60), 1)
    laptop, desktop = await engine.host(user="eve"), await engine.host(user="eve")
    [unit] = await engine.lease(laptop)
    engine.pass_time(61)
    await engine.upkeep()
    [again] = await engine.lease(desktop)
    assert key_of(again) == key_of(unit)

    [ack] = await engine.give(laptop, {key_of(unit): caption(5)})

    assert ack.receipt is Receipt.COUNTED
    assert (await engine.work.renew(desktop, [key_of(unit)])).keys == set()
    assert await engine.value("SELECT count(*) FROM leases") == 0
    assert await engine.value("SELECT count(*) FROM ready") == 1


async def test_a_lane_that_is_drawn_while_its_predecessor_is_drawn_again_is_not_born_twice(
    engine: Engine,
) -> None:
    """Seed 288: lane 0 came back to its shelf; one host draws lane 1 while another draws lane 0."""
    campaign = await engine.campaign(lease_s=60)
    await engine.images(campaign, 1)
    first, second, third = [await engine.host() for _ in range(3)]
    [unit] = await engine.lease(first)
    await engine.work.release(first, [key_of(unit)], "bed time")
    [shelf, following] = await engine.db.transaction("shelves", shelves.waiting)
    assert (shelf.lane, following.lane) == (0, 1)

    async def draw_lane_0() -> list[Candidate]:
        return await engine.db.transaction(
            "lane 0", lambda tx: draw(engine, tx, second, shelf, next_lane=True)
        )

    async def draw_lane_1(tx: Transaction) -> asyncio.Task[list[Candidate]]:
        """Commits when the other has drawn, or waits for this one."""
        assert await draw(engine, tx, third, following, next_lane=False)
        other = asyncio.create_task(draw_lane_0())
        while not other.done() and not await engine.value("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            pass
        return other

    other = await engine.db.transaction("lane 1", draw_lane_1)
    assert [found.lane for found in await other] == [0]
    assert await engine.fetch("SELECT lane FROM leases ORDER BY lane") == [(0,), (1,)]
    assert await engine.fetch("SELECT lane FROM ready") == []


async def test_a_lane_that_was_born_for_more_voices_is_not_born_again(engine: Engine) -> None:
    """Seed 102: an answer births lane 2 while lane 1 waits, and leasing lane 1 births lane 2 once more."""
    await engine.images(await engine.campaign(replication=3, max_voices=4), 1)
    first, second, third, fourth = [await engine.host() for _ in range(4)]
    [unit] = await engine.lease(first)
    await engine.give(first, {key_of(unit): caption(5)})
    places = await engine.db.transaction("shelves", shelves.waiting)

    for host, place in zip((second, third), places, strict=False):

        async def body(tx: Transaction, host: Caller = host, place: Shelf = place) -> list[Candidate]:
            return await draw(engine, tx, host, place, next_lane=place.lane < 2)

        assert len(await engine.db.transaction("draw", body)) == 1

    await engine.lease(fourth)
    held = Counter(await engine.fetch("SELECT lane FROM leases UNION ALL SELECT lane FROM ready"))
    assert max(held.values()) == 1


async def test_two_answers_of_one_return_to_one_unit_are_not_both_acknowledged(engine: Engine) -> None:
    """Seed 5: the second was said to be counted, and was not stored."""
    await engine.images(await engine.campaign(), 1)
    host = await engine.host()
    [unit] = await engine.lease(host)
    items = [answer(key_of(unit), caption(5)), answer(key_of(unit), caption(6))]

    acks = await engine.returns(host, items, batch(items))

    assert [ack.receipt for ack in acks] == [Receipt.COUNTED, Receipt.ALREADY_ANSWERED]


async def test_an_answered_lease_does_not_fail_in_the_same_transaction(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by reading, when returns came to share transactions: the replica of a stored answer went back."""
    monkeypatch.setattr(returns, "AT_ONCE", 1)
    engine = Engine(engine.db)
    await engine.images(await engine.campaign(), 3)
    host = await engine.host()
    warm, one, two = await engine.lease(host)
    await engine.give(host, {key_of(warm): caption(4)})
    failure = ReturnedFailure(key_of(two), "poisoned")

    _, [ack], [late] = await asyncio.gather(
        engine.give(host, {key_of(one): caption(5)}),
        engine.give(host, {key_of(two): caption(6)}),
        engine.returns(host, [failure], SignedBatch(b"", bytes(64))),
    )

    assert (ack.receipt, late.receipt) == (Receipt.COUNTED, Receipt.NOT_LEASED)
    assert await engine.fetch("SELECT lane FROM ready") == [(1,)] * 3
    assert await engine.value("SELECT count(*) FROM ledger") == 0
