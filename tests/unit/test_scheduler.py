"""Which shelf comes first: fair among campaigns, large work to large hosts, begun units before new ones."""

import asyncio
import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from coordinator.priority import block_of
from coordinator.scheduler import Scheduler
from protos.tier import Tier
from store.shelves import SHUFFLE_RANGE, Shelf

SHELVES = st.lists(
    st.builds(
        Shelf,
        campaign_id=st.integers(1, 4),
        perspective_id=st.integers(1, 3),
        tier=st.integers(0, 6),
        lane=st.integers(0, 3),
        block=st.integers(0, 9),
    ),
    max_size=20,
)


def _shelf(campaign: int, *, tier: int = 0, lane: int = 0, perspective: int = 1) -> Shelf:
    return Shelf(campaign, perspective, tier, lane, 0)


def _able(*campaigns: int) -> set[tuple[int, int]]:
    return {(campaign, perspective) for campaign in campaigns for perspective in (1, 2, 3)}


def _scheduler(*shelves: Shelf) -> Scheduler:
    scheduler = Scheduler(random.Random(1))
    scheduler.show(shelves)
    return scheduler


def _serve(scheduler: Scheduler, rounds: int, *campaigns: int, batch: int = 1) -> Counter[int]:
    """Lets one host draw so often; says how much each campaign got."""
    got: Counter[int] = Counter()
    for _ in range(rounds):
        first = scheduler.order(Tier.G80, _able(*campaigns))[0]
        scheduler.served(first.campaign_id, batch)
        got[first.campaign_id] += batch
    return got


def test_campaigns_get_equal_shares():
    scheduler = _scheduler(_shelf(1), _shelf(2), _shelf(3))
    assert _serve(scheduler, 300, 1, 2, 3) == {1: 100, 2: 100, 3: 100}


def test_a_campaign_of_small_batches_is_served_more_often():
    scheduler = _scheduler(_shelf(1), _shelf(2))
    got: Counter[int] = Counter()
    for _ in range(400):
        first = scheduler.order(Tier.G80, _able(1, 2))[0]
        batch = 1 if first.campaign_id == 1 else 50
        scheduler.served(first.campaign_id, batch)
        got[first.campaign_id] += batch
    assert abs(got[1] - got[2]) <= 50


def test_a_campaign_that_comes_new_starts_level_and_takes_its_share_only():
    scheduler = _scheduler(_shelf(1))
    _serve(scheduler, 1000, 1)
    scheduler.show([_shelf(1), _shelf(2)])
    assert _serve(scheduler, 100, 1, 2) == {1: 50, 2: 50}


def test_a_campaign_that_comes_new_after_a_moment_without_work_starts_level_too():
    scheduler = _scheduler(_shelf(1))
    _serve(scheduler, 1000, 1)
    scheduler.show([])
    scheduler.show([_shelf(1), _shelf(2)])
    assert _serve(scheduler, 100, 1, 2) == {1: 50, 2: 50}


def test_a_campaign_that_was_away_does_not_claim_what_it_missed():
    scheduler = _scheduler(_shelf(1), _shelf(2))
    _serve(scheduler, 10, 1, 2)
    scheduler.show([_shelf(1)])
    _serve(scheduler, 1000, 1)
    scheduler.show([_shelf(1), _shelf(2)])
    assert _serve(scheduler, 100, 1, 2) == {1: 50, 2: 50}


def test_large_work_goes_first_to_those_who_can_and_never_to_those_who_cannot():
    scheduler = _scheduler(_shelf(1, tier=0), _shelf(1, tier=4), _shelf(1, tier=2))
    assert [shelf.tier for shelf in scheduler.order(Tier.G80, _able(1))] == [4, 2, 0]
    assert [shelf.tier for shelf in scheduler.order(Tier.G12, _able(1))] == [2, 0]


def test_what_is_urgent_comes_first_whoever_was_served_and_however_small_it_is():
    urgent, usual, idle = Shelf(1, 1, 0, 0, block_of(900, 2)), _shelf(1, tier=4), _shelf(2, tier=4, lane=1)
    scheduler = _scheduler(usual, idle, urgent)
    scheduler.served(1, 1000)
    assert scheduler.order(Tier.G80, _able(1, 2)) == [urgent, idle, usual]


def test_what_can_wait_comes_last():
    later, usual = Shelf(1, 1, 6, 3, block_of(1, -1)), _shelf(2)
    scheduler = _scheduler(later, usual)
    scheduler.served(2, 1000)
    assert scheduler.order(Tier.G80, _able(1, 2)) == [usual, later]


def test_units_that_were_begun_come_before_new_ones():
    scheduler = _scheduler(_shelf(1, lane=0), _shelf(1, lane=2), _shelf(1, lane=1))
    assert [shelf.lane for shelf in scheduler.order(Tier.CPU, _able(1))] == [2, 1, 0]


@given(SHELVES, st.sampled_from(Tier), st.sets(st.tuples(st.integers(1, 4), st.integers(1, 3))))
def test_the_order_holds_every_shelf_that_fits_once_and_no_other(
    shelves: list[Shelf], tier: Tier, able: set[tuple[int, int]]
):
    ordered = _scheduler(*shelves).order(tier, able)
    fitting = [s for s in shelves if s.tier <= tier and (s.campaign_id, s.perspective_id) in able]
    assert Counter(ordered) == Counter(fitting)


def test_equal_shelves_take_turns():
    scheduler = _scheduler(_shelf(1, perspective=1), _shelf(1, perspective=2))
    firsts = {scheduler.order(Tier.CPU, _able(1))[0].perspective_id for _ in range(40)}
    assert firsts == {1, 2}


def test_a_claim_starts_anywhere_in_the_leading_block():
    scheduler = _scheduler()
    starts = [scheduler.start(Shelf(1, 1, 0, 0, 7)) for _ in range(200)]
    assert {block for block, _ in starts} == {7}
    assert all(0 <= shuffle < SHUFFLE_RANGE for _, shuffle in starts)
    assert max(s for _, s in starts) > SHUFFLE_RANGE * 0.9
    assert min(s for _, s in starts) < SHUFFLE_RANGE * 0.1


async def test_a_new_picture_wakes_all_who_wait():
    scheduler = _scheduler()
    waiters = [asyncio.create_task(scheduler.refreshed(60)) for _ in range(3)]
    await asyncio.sleep(0)
    scheduler.show([_shelf(1)])
    await asyncio.wait_for(asyncio.gather(*waiters), 1)


async def test_an_old_picture_wakes_nobody():
    scheduler = _scheduler(_shelf(1))
    waiter = asyncio.create_task(scheduler.refreshed(60))
    done, _ = await asyncio.wait([waiter], timeout=0.01)
    assert not done
    waiter.cancel()


async def test_waiting_ends_by_itself():
    await asyncio.wait_for(_scheduler().refreshed(0.001), 1)
