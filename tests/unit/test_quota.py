"""Quotas: never below one nor above the cap, and no host is worse off for better work."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from coordinator.quota import (
    FIRST_PARKING,
    LONGEST_PARKING,
    PARDON,
    PARK_AT,
    Quota,
    after,
    parked,
    released,
)

CAP = 512
NOW = datetime(2026, 1, 1, tzinfo=UTC)
COUNTS = st.integers(0, 2000)
QUOTAS = st.builds(
    Quota,
    allowed=st.integers(1, CAP),
    strikes=st.integers(0, PARK_AT - 1),
    parkings=st.integers(0, 40),
    parked_until=st.none() | st.sampled_from((NOW - timedelta(hours=1), NOW + timedelta(hours=1))),
)


def step(quota: Quota, good: int, bad: int, now: datetime = NOW) -> Quota:
    return after(quota, good, bad, cap=CAP, now=now)


@given(quota=QUOTAS, steps=st.lists(st.tuples(COUNTS, COUNTS, st.integers(0, 7200)), max_size=30))
def test_a_quota_stays_between_one_and_the_cap(quota: Quota, steps: list[tuple[int, int, int]]):
    now = NOW
    for good, bad, seconds in steps:
        now += timedelta(seconds=seconds)
        quota = step(quota, good, bad, now)
        assert 1 <= quota.allowed <= CAP
        assert 0 <= quota.strikes < PARK_AT
        assert quota.parked_until is None or quota.parked_until <= now + LONGEST_PARKING


def how_well(quota: Quota) -> tuple[bool, int, int]:
    """Greater is better for the host."""
    return (not quota.is_parked(NOW), quota.allowed, -quota.strikes)


@given(quota=QUOTAS, good=COUNTS, bad=COUNTS)
def test_more_accepted_work_and_fewer_failures_never_harm(quota: Quota, good: int, bad: int):
    became = how_well(step(quota, good, bad))
    assert became <= how_well(step(quota, good + 1, bad))
    assert became >= how_well(step(quota, good, bad + 1))


@given(quota=QUOTAS)
def test_where_nothing_happened_nothing_changes(quota: Quota):
    assert step(quota, 0, 0) == quota


@given(quota=QUOTAS, bad=COUNTS)
def test_what_a_parked_host_lets_lapse_is_not_held_against_it(quota: Quota, bad: int):
    held_up = parked(quota, NOW, timedelta(hours=1))
    assert step(held_up, 0, bad) == held_up
    assert step(held_up, 3, bad) == step(held_up, 3, 0)


def test_a_failure_takes_one_and_an_accepted_result_gives_one_back():
    assert step(Quota(CAP), 0, 10).allowed == CAP - 10
    assert step(Quota(100), 3, 10).allowed == 93
    assert step(Quota(CAP), 0, 10_000).is_parked(NOW)


def test_clean_work_doubles_until_the_cap_is_back():
    quota, steps = Quota(1), 0
    while quota.allowed < CAP:
        quota, steps = step(quota, 1, 0), steps + 1
    assert steps == 9
    assert quota.is_full(CAP, NOW)


def test_a_host_is_parked_when_it_keeps_failing_with_a_quota_of_one():
    quota = step(Quota(30), 0, 29)
    assert (quota.allowed, quota.strikes) == (1, 0)
    for _ in range(PARK_AT - 1):
        quota = step(quota, 0, 1)
        assert not quota.is_parked(NOW)
    quota = step(quota, 0, 1)
    assert quota.parked_until == NOW + FIRST_PARKING
    assert not quota.is_parked(NOW + FIRST_PARKING)


def test_one_accepted_result_makes_up_for_four_failures():
    quota = Quota(1, strikes=PARK_AT - 1)
    assert step(quota, 1, 0).strikes == PARK_AT - 1 - PARDON
    for _ in range(100):  # one in five is right
        quota = step(step(quota, 1, 0), 0, 5)
        assert not quota.is_parked(NOW)


def test_each_parking_is_twice_as_long_up_to_a_day_and_the_whole_cap_forgets_them():
    quota, now, lengths = Quota(1), NOW, []
    for _ in range(7):
        quota = step(quota, 0, PARK_AT, now)
        assert quota.parked_until is not None
        lengths.append(quota.parked_until - now)
        now = quota.parked_until
        assert quota.allowed == 1
    assert [length / timedelta(hours=1) for length in lengths] == [1, 2, 4, 8, 16, 24, 24]
    while quota.allowed < CAP or quota.strikes:
        quota = step(quota, 5, 0, now)
    assert quota.is_full(CAP, now)


def test_a_released_host_begins_with_one_and_without_strikes():
    assert released(parked(Quota(40, 3, 1), NOW, timedelta(hours=1))) == Quota(1, 0, 2, None)
