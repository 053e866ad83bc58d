"""A host goes on with the images that it fetched last: each other perspective of each, once, no further."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from coordinator.campaigns import Campaign
from coordinator.policy import Policy
from coordinator.priority import block_of
from coordinator.scheduler import Ability
from coordinator.trail import HOSTS, Trails
from protos.tier import Tier
from store.shelves import Candidate, Row, Spot

ANY = Ability(Tier.G80)


def _campaign(**tiers: int) -> Campaign:
    by_number = {int(name[1:]): tier for name, tier in tiers.items()}
    tasks: Any = {n: SimpleNamespace(row=SimpleNamespace(name=f"p{n}", tier=t)) for n, t in by_number.items()}
    return Campaign(1, "c", "running", Policy(), tasks)


CAMPAIGN = _campaign(p1=0, p2=0, p3=0, p4=2)
WAITING = {(1, 1, 0), (1, 2, 0), (1, 3, 0), (1, 4, 2)}


def _room(count: int) -> Callable[[Row], int]:
    return lambda _row: count


def _drawn(*shuffles: int, perspective: int = 1) -> list[Candidate]:
    return [
        Candidate(
            "(0,1)", True, [], 0, 7, shuffle, "open", 1, shuffle, 0, "caption", perspective, 1, b"", "", b""
        )
        for shuffle in shuffles
    ]


def test_the_other_perspectives_of_the_tier_follow_at_the_very_same_places():
    trails = Trails()
    _drew(trails, 9, _drawn(5, 3))
    followed = [trails.follow(9, WAITING, _room(10), 0) for _ in range(3)]
    assert followed == [[(1, 2, 0, 7, 5), (1, 2, 0, 7, 3)], [(1, 3, 0, 7, 5), (1, 3, 0, 7, 3)], []]


def _drew(
    trails: Trails,
    host_id: int,
    drawn: list[Candidate],
    followed: Sequence[Spot] = (),
    campaign: Campaign = CAMPAIGN,
    ability: Ability = ANY,
) -> None:
    trails.drew(host_id, drawn, followed, campaign, ability)


def test_a_host_goes_on_where_it_lags_most():
    trails = Trails()
    _drew(trails, 9, _drawn(1, 2, 3))
    followed = [[(spot[1], spot[4]) for spot in trails.follow(9, WAITING, _room(2), 0)] for _ in range(5)]
    assert followed == [[(2, 1), (2, 2)], [(3, 1), (3, 2)], [(2, 3)], [(3, 3)], []]


def test_images_that_make_up_a_draw_are_on_the_trail_too():
    trails = Trails()
    _drew(trails, 9, _drawn(1))
    followed = trails.follow(9, WAITING, _room(2), 0)
    _drew(trails, 9, _drawn(1, 8, perspective=2), followed)
    assert [[(spot[1], spot[4]) for spot in trails.follow(9, WAITING, _room(2), 0)] for _ in range(3)] == [
        [(3, 1), (3, 8)],
        [(1, 8)],
        [],
    ]


def test_what_the_host_cannot_do_or_nothing_waits_of_is_passed_over():
    trails = Trails()
    _drew(trails, 9, _drawn(1), ability=Ability(Tier.G80, frozenset({"p1", "p3"})))
    assert [spot[1] for spot in trails.follow(9, WAITING, _room(9), 0)] == [3]
    _drew(trails, 9, _drawn(1))
    assert [spot[1] for spot in trails.follow(9, WAITING - {(1, 2, 0)}, _room(9), 0)] == [3]


def test_a_campaign_of_one_perspective_leaves_no_trail():
    trails = Trails()
    _drew(trails, 9, _drawn(1), campaign=_campaign(p1=0))
    assert trails.follow(9, WAITING, _room(9), 0) == []


def test_every_host_has_its_own_trail_and_another_campaign_ends_it():
    trails = Trails()
    _drew(trails, 8, _drawn(1))
    _drew(trails, 9, _drawn(2))
    _drew(trails, 9, _drawn(3), campaign=replace(CAMPAIGN, id=2))
    assert trails.follow(9, WAITING | {(2, 3, 0)}, _room(9), 0) == [(2, 3, 0, 7, 3)]
    assert trails.follow(8, WAITING, _room(9), 0) == [(1, 2, 0, 7, 1)]


def test_trails_are_bounded():
    trails = Trails()
    for host_id in range(HOSTS + 5):
        _drew(trails, host_id, _drawn(1))
    assert trails.follow(4, WAITING, _room(9), 0) == []
    assert trails.follow(5, WAITING, _room(9), 0) != []


@given(st.sets(st.integers(0, 99), min_size=1), st.lists(st.integers(1, 20), min_size=60), st.randoms())
def test_a_trail_gives_each_spot_of_each_other_perspective_once(
    shuffles: set[int], wants: list[int], rng: random.Random
):
    trails = Trails()
    places = list(shuffles)
    rng.shuffle(places)
    _drew(trails, 9, _drawn(*places))
    given_: list[tuple[int, int]] = []
    for want in wants * 4:
        spots = trails.follow(9, WAITING, _room(want), 0)
        assert len(spots) <= want
        assert len({spot.perspective_id for spot in spots}) <= 1
        given_ += [(spot.perspective_id, spot.shuffle) for spot in spots]
    assert sorted(given_) == sorted((perspective, place) for perspective in (2, 3) for place in shuffles)


def test_what_is_more_urgent_comes_before_a_trail():
    trails = Trails()
    _drew(trails, 9, [one._replace(block=block_of(7, 1)) for one in _drawn(4)])
    assert trails.follow(9, WAITING, _room(5), 2) == []
    assert trails.follow(9, WAITING, _room(5), 1) == [(1, 2, 0, block_of(7, 1), 4)]
