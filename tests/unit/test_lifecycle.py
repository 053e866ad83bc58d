"""The rules of units and leases: every move and every receipt, and what no claim can ever get."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.lifecycle import (
    UNIT_MOVES,
    Caps,
    Claim,
    LeaseEnding,
    Receipt,
    UnitMove,
    UnitState,
    given_up,
    receive,
    states_before,
)

HASHES = st.binary(min_size=32, max_size=32)
CLAIMS = st.builds(
    Claim,
    state=st.none() | st.sampled_from(UnitState),
    holds_lease=st.booleans(),
    held_before=st.booleans(),
    earlier_hash=st.none() | HASHES,
)
ENDINGS = st.dictionaries(st.sampled_from(LeaseEnding), st.integers(0, 30))
CAPS = st.builds(Caps, failures=st.integers(0, 10), attempts=st.integers(1, 20))


ENDS = [state for state in UnitState if state is not UnitState.OPEN]


def test_every_state_lists_its_moves_and_the_one_way_back_from_an_end_is_reopening():
    assert set(UNIT_MOVES) == set(UnitState)
    assert set(UNIT_MOVES[UnitState.OPEN]) == set(UnitMove) - {UnitMove.REOPEN}
    for end in ENDS:
        assert UNIT_MOVES[end] == {UnitMove.REOPEN: UnitState.OPEN}


def test_what_can_be_cancelled_is_open_and_what_can_be_reopened_has_ended():
    assert states_before(UnitMove.CANCEL) == {UnitState.OPEN}
    assert states_before(UnitMove.REOPEN) == set(ENDS)


def test_every_state_is_reached_from_open():
    assert set(UNIT_MOVES[UnitState.OPEN].values()) == set(UnitState)


@pytest.mark.parametrize(
    ("ending", "puts_back"),
    [
        (LeaseEnding.EXPIRED, True),
        (LeaseEnding.RELEASED, True),
        (LeaseEnding.FAILED, True),
        (LeaseEnding.ANSWERED, False),
        (LeaseEnding.STOPPED, False),
    ],
)
def test_only_what_brought_no_answer_puts_a_replica_back(ending: LeaseEnding, puts_back: bool):
    assert ending.puts_back is puts_back


MINE, OTHER = b"m" * 32, b"o" * 32


@pytest.mark.parametrize(
    ("claim", "receipt"),
    [
        (Claim(None, True, True, MINE), Receipt.UNKNOWN_UNIT),
        (Claim(UnitState.OPEN, True, False, None), Receipt.COUNTED),
        (Claim(UnitState.OPEN, False, True, None), Receipt.COUNTED),
        (Claim(UnitState.OPEN, False, False, None), Receipt.NOT_LEASED),
        (Claim(UnitState.ACCEPTED, False, False, None), Receipt.NOT_LEASED),
        (Claim(UnitState.ACCEPTED, True, False, None), Receipt.LATE),
        (Claim(UnitState.EXHAUSTED, False, True, None), Receipt.LATE),
        (Claim(UnitState.CANCELLED, False, True, None), Receipt.LATE),
        (Claim(UnitState.OPEN, False, False, MINE), Receipt.DUPLICATE),
        (Claim(UnitState.ACCEPTED, False, False, MINE), Receipt.DUPLICATE),
        (Claim(UnitState.OPEN, True, True, OTHER), Receipt.ALREADY_ANSWERED),
    ],
)
def test_what_becomes_of_an_answer(claim: Claim, receipt: Receipt):
    assert receive(claim, MINE) is receipt


@given(CLAIMS, HASHES)
def test_no_answer_counts_without_a_lease_an_open_unit_and_a_clean_record(claim: Claim, digest: bytes):
    receipt = receive(claim, digest)
    counts = claim.state is UnitState.OPEN and claim.earlier_hash is None
    assert (receipt is Receipt.COUNTED) == (counts and (claim.holds_lease or claim.held_before))


@given(CLAIMS, HASHES)
def test_an_answer_that_was_stored_is_a_duplicate_when_sent_again(claim: Claim, digest: bytes):
    if receive(claim, digest) in {Receipt.COUNTED, Receipt.LATE}:
        again = Claim(claim.state, holds_lease=False, held_before=claim.held_before, earlier_hash=digest)
        assert receive(again, digest) is Receipt.DUPLICATE


@given(CLAIMS, HASHES)
def test_reading_an_answer_only_gives_receipts_that_say_something_of_the_claim(claim: Claim, digest: bytes):
    assert receive(claim, digest) not in {Receipt.INVALID, Receipt.FAILURE}


def test_a_cap_of_no_failures_gives_a_unit_up_at_its_first():
    assert given_up({LeaseEnding.FAILED: 1}, Caps(failures=0, attempts=20)) == "too_many_failures"
    assert given_up({LeaseEnding.FAILED: 1}, Caps(failures=1, attempts=20)) is None


def test_time_outs_are_attempts_but_no_failures():
    endings = {LeaseEnding.EXPIRED: 4}
    assert given_up(endings, Caps(failures=0, attempts=4)) is None
    assert given_up(endings, Caps(failures=0, attempts=3)) == "too_many_attempts"


def test_a_volunteer_who_draws_and_releases_all_day_gives_no_unit_up():
    assert given_up({LeaseEnding.RELEASED: 10_000}, Caps(failures=0, attempts=1)) is None


@given(ENDINGS, CAPS)
def test_answers_and_stops_never_give_a_unit_up(endings: dict[LeaseEnding, int], caps: Caps):
    harmless = {LeaseEnding.ANSWERED: 1000, LeaseEnding.STOPPED: 1000}
    assert given_up({**endings, **harmless}, caps) == given_up(endings, caps)


@given(ENDINGS, CAPS, st.sampled_from(LeaseEnding))
def test_a_unit_once_given_up_is_never_taken_up_by_one_more_ending(
    endings: dict[LeaseEnding, int], caps: Caps, more: LeaseEnding
):
    if given_up(endings, caps) is not None:
        assert given_up(Counter(endings) + Counter([more]), caps) is not None
