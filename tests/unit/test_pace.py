"""No host gets more than it can return in time, as it was seen to work; and every idle one gets something."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from coordinator.facts import UnitFacts
from coordinator.pace import LONGEST, SAFETY, Paces
from coordinator.policy import Policy
from coordinator.settlement import Key
from store.shelves import LeasedUnit

NO_DATABASE: Any = None
HOST, ROW, KIND = 7, (1, 1, 0), (7, 1, 1)
POLICY = Policy(lease_s=100, first_batch=8)


class Host:
    """One host that leases what there is room for and returns it; units are numbered as they are leased."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)
        self.facts = UnitFacts(NO_DATABASE)
        self.paces = Paces(NO_DATABASE, self.facts, lambda: self.time)
        self.held: list[Key] = []
        self.leased = 0

    def room(self) -> int:
        return self.paces.room(HOST, ROW, POLICY)

    def lease(self, count: int) -> None:
        units = [
            LeasedUnit(1, n, 0, "caption", 1, n, b"", "", b"")
            for n in range(self.leased, self.leased + count)
        ]
        self.leased += count
        self.facts.note(units)
        self.held += [(unit.campaign_id, unit.id) for unit in units]
        self.paces.leased(KIND, count, self.paces.lease_s(HOST, ROW, POLICY))

    def work(self, seconds_each: float, count: int) -> None:
        self.time += timedelta(seconds=seconds_each * count)
        done, self.held = self.held[:count], self.held[count:]
        self.paces.returned(HOST, done)

    def batch(self, seconds_each: float) -> int:
        """Leases as much as there is room for, and does it all."""
        size = self.room()
        self.lease(size)
        while self.held:
            self.work(seconds_each, min(5, len(self.held)))
        return size


def test_an_unknown_host_starts_with_a_modest_batch():
    host = Host()
    assert host.room() == 8
    host.lease(5)
    assert host.room() == 3
    host.lease(3)
    assert host.room() == 0


def test_a_host_gets_what_it_returns_in_half_of_the_lease_time():
    host = Host()
    host.batch(2)
    assert host.room() == SAFETY * 100 / 2
    host.lease(10)
    assert host.room() == SAFETY * 100 / 2 - 10


def test_the_estimate_follows_a_host_that_becomes_slower_within_a_few_batches():
    host = Host()
    for _ in range(20):
        host.batch(0.5)
    assert host.room() == 100
    sizes = [host.batch(5) for _ in range(6)]
    assert sizes[0] == 100
    assert sizes[1] < 35
    assert sizes[5] <= 12
    assert host.room() * 5 <= POLICY.lease_s


def test_waiting_for_work_does_not_make_a_host_slow():
    host = Host()
    for _ in range(5):
        host.batch(1)
        host.time += timedelta(hours=1)
    assert host.room() == 50


def test_a_host_that_never_has_an_empty_hand_is_measured_too():
    host = Host()
    host.lease(8)
    for _ in range(10):
        host.work(1, 4)
        host.lease(4)
    assert host.room() == 50 - 8


def test_a_host_too_slow_for_one_unit_gets_one_for_longer():
    host = Host()
    host.lease(1)
    host.work(70, 1)
    assert host.room() == 1
    assert host.paces.lease_s(HOST, ROW, POLICY) == 140
    for _ in range(9):
        host.batch(199)
        host.batch(390)
    assert host.paces.lease_s(HOST, ROW, POLICY) == LONGEST * 100
    host.lease(1)
    assert host.room() == 0


def test_what_lapsed_or_was_released_is_held_no_more():
    host = Host()
    host.lease(8)
    host.paces.released(HOST, 5)
    assert host.room() == 5
    host.time += timedelta(seconds=101)
    assert host.room() == 8


def test_results_of_unknown_units_teach_nothing():
    host = Host()
    host.lease(2)
    host.paces.returned(HOST, [(1, 99), (2, 5)])
    assert host.room() == 6


@given(
    st.lists(
        st.tuples(st.sampled_from(["lease", "work", "release", "wait"]), st.integers(1, 40)), max_size=60
    )
)
def test_an_idle_host_always_gets_something_and_no_host_more_than_fits(acts: list[tuple[str, int]]):
    host = Host()
    for act, size in acts:
        match act:
            case "lease":
                room = host.room()
                each = host.paces._seconds.get(KIND)
                if room > 1 and each is not None:
                    assert room * each <= SAFETY * POLICY.lease_s
                host.lease(min(size, room)) if room else None
            case "work":
                host.work(size / 10, min(size, len(host.held)))
            case "release":
                host.paces.released(HOST, size)
                del host.held[:size]
            case _:
                host.time += timedelta(seconds=size)
        hand = host.paces._in_hand.get(HOST)
        assert host.room() >= (0 if hand and hand.batches else 1)


def test_a_host_that_was_away_with_what_it_held_is_not_measured_by_that():
    host = Host()
    host.batch(1)
    host.lease(10)
    host.time += timedelta(hours=9)
    host.held.clear()
    host.batch(1)
    assert host.room() == 50
