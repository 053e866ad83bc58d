"""Which shelf comes first: fair among campaigns, large work to large hosts, begun units before new ones; and
why a host is given nothing.
"""

import random
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.campaigns import Campaign
from coordinator.idle import JITTER, Idle
from coordinator.policy import Policy
from coordinator.priority import block_of
from coordinator.scheduler import Ability, Scheduler
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
ANY = Ability(Tier.G80)


def _shelf(campaign: int, *, tier: int = 0, lane: int = 0, perspective: int = 1) -> Shelf:
    return Shelf(campaign, perspective, tier, lane, 0)


def _campaign(number: int, state: str = "running", **policy: Any) -> Campaign:
    """A campaign with perspectives p1, p2 and p3, of which the scheduler reads no more than the name."""
    tasks: Any = {n: SimpleNamespace(row=SimpleNamespace(name=f"p{n}", tier=0)) for n in (1, 2, 3)}
    return Campaign(number, f"c{number}", state, Policy(**policy), tasks)


CAMPAIGNS = [_campaign(number) for number in range(1, 5)]


def _scheduler(*shelves: Shelf, campaigns: list[Campaign] = CAMPAIGNS) -> Scheduler:
    scheduler = Scheduler(random.Random(1))
    scheduler.show(shelves, campaigns)
    return scheduler


def _serve(scheduler: Scheduler, rounds: int, batch: int = 1) -> Counter[int]:
    """Lets one host draw so often; says how much each campaign got."""
    got: Counter[int] = Counter()
    for _ in range(rounds):
        first = scheduler.order(ANY)[0]
        scheduler.served(first.campaign_id, batch)
        got[first.campaign_id] += batch
    return got


def test_campaigns_get_equal_shares():
    scheduler = _scheduler(_shelf(1), _shelf(2), _shelf(3))
    assert _serve(scheduler, 300) == {1: 100, 2: 100, 3: 100}


def test_a_campaign_of_small_batches_is_served_more_often():
    scheduler = _scheduler(_shelf(1), _shelf(2))
    got: Counter[int] = Counter()
    for _ in range(400):
        first = scheduler.order(ANY)[0]
        batch = 1 if first.campaign_id == 1 else 50
        scheduler.served(first.campaign_id, batch)
        got[first.campaign_id] += batch
    assert abs(got[1] - got[2]) <= 50


def test_a_campaign_that_comes_new_starts_level_and_takes_its_share_only():
    scheduler = _scheduler(_shelf(1))
    _serve(scheduler, 1000)
    scheduler.show([_shelf(1), _shelf(2)], CAMPAIGNS)
    assert _serve(scheduler, 100) == {1: 50, 2: 50}


def test_a_campaign_that_comes_new_after_a_moment_without_work_starts_level_too():
    scheduler = _scheduler(_shelf(1))
    _serve(scheduler, 1000)
    scheduler.show([], CAMPAIGNS)
    scheduler.show([_shelf(1), _shelf(2)], CAMPAIGNS)
    assert _serve(scheduler, 100) == {1: 50, 2: 50}


def test_a_campaign_that_was_away_does_not_claim_what_it_missed():
    scheduler = _scheduler(_shelf(1), _shelf(2))
    _serve(scheduler, 10)
    scheduler.show([_shelf(1)], CAMPAIGNS)
    _serve(scheduler, 1000)
    scheduler.show([_shelf(1), _shelf(2)], CAMPAIGNS)
    assert _serve(scheduler, 100) == {1: 50, 2: 50}


def test_large_work_goes_first_to_those_who_can_and_never_to_those_who_cannot():
    scheduler = _scheduler(_shelf(1, tier=0), _shelf(1, tier=4), _shelf(1, tier=2))
    assert [shelf.tier for shelf in scheduler.order(ANY)] == [4, 2, 0]
    assert [shelf.tier for shelf in scheduler.order(Ability(Tier.G12))] == [2, 0]


def test_what_is_urgent_comes_first_whoever_was_served_and_however_small_it_is():
    urgent, usual, idle = Shelf(1, 1, 0, 0, block_of(900, 2)), _shelf(1, tier=4), _shelf(2, tier=4, lane=1)
    scheduler = _scheduler(usual, idle, urgent)
    scheduler.served(1, 1000)
    assert scheduler.order(ANY) == [urgent, idle, usual]


def test_what_can_wait_comes_last():
    later, usual = Shelf(1, 1, 6, 3, block_of(1, -1)), _shelf(2)
    scheduler = _scheduler(later, usual)
    scheduler.served(2, 1000)
    assert scheduler.order(ANY) == [usual, later]


def test_units_that_were_begun_come_before_new_ones():
    scheduler = _scheduler(_shelf(1, lane=0), _shelf(1, lane=2), _shelf(1, lane=1))
    assert [shelf.lane for shelf in scheduler.order(ANY)] == [2, 1, 0]


@given(SHELVES, st.sampled_from(Tier), st.sets(st.sampled_from(["p1", "p2", "p3", "p4"])))
def test_the_order_holds_every_shelf_that_fits_once_and_no_other(
    shelves: list[Shelf], tier: Tier, names: set[str]
):
    ordered = _scheduler(*shelves).order(Ability(tier, frozenset(names)))
    fitting = [s for s in shelves if s.tier <= tier and (not names or f"p{s.perspective_id}" in names)]
    assert Counter(ordered) == Counter(fitting)


@given(SHELVES, st.integers(0, 9))
def test_a_cut_order_is_its_best_part(shelves: list[Shelf], most: int):
    assert _scheduler(*shelves).order(ANY, most) == _scheduler(*shelves).order(ANY)[:most]


def test_campaigns_get_shares_by_their_weight():
    campaigns = [_campaign(1, weight=1), _campaign(2, weight=3), _campaign(3, weight=0.5)]
    scheduler = _scheduler(_shelf(1), _shelf(2), _shelf(3), campaigns=campaigns)
    assert _serve(scheduler, 900, batch=10) == {1: 2000, 2: 6000, 3: 1000}


def test_a_campaign_that_restricts_models_gets_hosts_with_those_alone():
    campaigns = [_campaign(1, models=["Qwen2.5-VL*", "*/internvl3-?b"]), _campaign(2)]
    scheduler = _scheduler(_shelf(1), _shelf(2), campaigns=campaigns)

    def served(model: str) -> set[int]:
        return {shelf.campaign_id for shelf in scheduler.order(Ability(Tier.CPU, model=model))}

    assert served("qwen2.5-vl-7b") == served("OpenGVLab/InternVL3-8B") == {1, 2}
    assert served("OpenGVLab/InternVL3-78B") == served("") == {2}


def test_a_paused_campaign_hands_out_nothing():
    scheduler = _scheduler(_shelf(1), _shelf(2), campaigns=[_campaign(1, "paused"), _campaign(2)])
    assert [shelf.campaign_id for shelf in scheduler.order(ANY)] == [2]


SMALL, PAUSED = _campaign(1, models=["small*"]), _campaign(1, "paused")


@pytest.mark.parametrize(
    ("shelves", "campaigns", "ability", "idle"),
    [
        ([], [], ANY, Idle.NO_WORK),
        ([], [_campaign(1)], ANY, Idle.NO_WORK),
        ([], [PAUSED, _campaign(2)], ANY, Idle.NO_WORK),
        ([], [PAUSED], ANY, Idle.PAUSED_BY_OPERATOR),
        ([_shelf(1)], [PAUSED, _campaign(2)], ANY, Idle.PAUSED_BY_OPERATOR),
        ([_shelf(1)], [_campaign(1, "cancelled")], ANY, Idle.NO_WORK),
        ([_shelf(1)], [CAMPAIGNS[0]], Ability(Tier.G80, frozenset({"x"})), Idle.NO_WORK_FOR_PERSPECTIVES),
        ([_shelf(1, perspective=2)], [SMALL], ANY, Idle.NO_WORK_FOR_MODEL),
        ([_shelf(1, tier=3)], [SMALL], Ability(Tier.CPU, model="small-2b"), Idle.NO_WORK_FOR_TIER),
        ([_shelf(1, tier=3)], [SMALL], Ability(Tier.CPU, model="big"), Idle.NO_WORK_FOR_MODEL),
    ],
)
def test_an_idle_host_is_told_what_would_have_to_change(
    shelves: list[Shelf], campaigns: list[Campaign], ability: Ability, idle: Idle
):
    scheduler = _scheduler(*shelves, campaigns=campaigns)
    assert scheduler.order(ability) == []
    assert scheduler.picture.why_nothing(ability) is idle


@pytest.mark.parametrize("idle", Idle)
def test_hosts_that_were_told_at_once_come_back_one_by_one(idle: Idle):
    scheduler = _scheduler()
    waits = {scheduler.retry_ms(idle) for _ in range(50)}
    assert len(waits) > 10
    assert min(waits) >= 1000 * idle.retry_s * JITTER[0]
    assert max(waits) <= 1000 * idle.retry_s * JITTER[1]


def test_equal_shelves_take_turns():
    scheduler = _scheduler(_shelf(1, perspective=1), _shelf(1, perspective=2))
    firsts = {scheduler.order(ANY)[0].perspective_id for _ in range(40)}
    assert firsts == {1, 2}


def test_a_claim_starts_anywhere_in_the_leading_block():
    scheduler = _scheduler()
    starts = [scheduler.start(Shelf(1, 1, 0, 0, 7)) for _ in range(200)]
    assert {block for block, _ in starts} == {7}
    assert all(0 <= shuffle < SHUFFLE_RANGE for _, shuffle in starts)
    assert max(s for _, s in starts) > SHUFFLE_RANGE * 0.9
    assert min(s for _, s in starts) < SHUFFLE_RANGE * 0.1
