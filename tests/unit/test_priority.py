"""Block numbers: a higher priority comes first whatever the sequence, and nothing is lost on the way."""

from hypothesis import given
from hypothesis import strategies as st

from coordinator.priority import HIGHEST, LOWEST, SEQUENCES, block_of, moved, priority_of

PRIORITIES = st.integers(LOWEST, HIGHEST)
PLACES = st.tuples(st.integers(0, SEQUENCES - 1), PRIORITIES)


@given(PLACES)
def test_a_block_tells_its_priority_and_fits_its_column(place: tuple[int, int]):
    block = block_of(*place)
    assert priority_of(block) == place[1]
    assert -(2**31) <= block < 2**31


@given(PLACES, PLACES)
def test_blocks_come_by_priority_and_then_by_sequence(one: tuple[int, int], other: tuple[int, int]):
    assert (block_of(*one) < block_of(*other)) == ((-one[1], one[0]) < (-other[1], other[0]))


@given(PLACES, PRIORITIES, PRIORITIES)
def test_moving_there_and_back_changes_nothing(place: tuple[int, int], first: int, second: int):
    block = block_of(*place)
    assert moved(moved(block, first), second) == block_of(place[0], second)
    assert moved(moved(block, first), place[1]) == block


def test_blocks_of_no_priority_are_numbered_as_they_were_born():
    assert block_of(7, 0) == 7
