"""Priority is a property of blocks: a shelf's leading block is one of its highest priority. Pure.

A block's number is its sequence, lowered by so many whole ranges as its priority says; so that blocks of a
higher priority come first, and those of priority 0 are numbered as they were born.
"""

SEQUENCES = 1 << 24
LOWEST, HIGHEST = -3, 3


def block_of(sequence: int, priority: int) -> int:
    """The number of a block, 0 <= `sequence` < SEQUENCES."""
    return sequence - priority * SEQUENCES


def priority_of(block: int) -> int:
    """A block's priority, LOWEST to HIGHEST."""
    return -(block // SEQUENCES)


def moved(block: int, priority: int) -> int:
    """The block of the same sequence with another priority."""
    return block_of(block % SEQUENCES, priority)
