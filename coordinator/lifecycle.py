"""The states of units and leases and every move between them, as data. Pure: no clock, no database."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never


class UnitState(StrEnum):
    """Where a unit stands. Open units want answers; the other states are ends."""

    OPEN = "open"
    ACCEPTED = "accepted"
    EXHAUSTED = "exhausted"
    CANCELLED = "cancelled"


class UnitMove(StrEnum):
    """What can happen to a unit. Operators alone cancel and reopen."""

    ANSWER = "answer"
    ACCEPT = "accept"
    EXHAUST = "exhaust"
    CANCEL = "cancel"
    REOPEN = "reopen"


UNIT_MOVES: Mapping[UnitState, Mapping[UnitMove, UnitState]] = {
    UnitState.OPEN: {
        UnitMove.ANSWER: UnitState.OPEN,
        UnitMove.ACCEPT: UnitState.ACCEPTED,
        UnitMove.EXHAUST: UnitState.EXHAUSTED,
        UnitMove.CANCEL: UnitState.CANCELLED,
    },
    UnitState.ACCEPTED: {UnitMove.REOPEN: UnitState.OPEN},
    UnitState.EXHAUSTED: {UnitMove.REOPEN: UnitState.OPEN},
    UnitState.CANCELLED: {UnitMove.REOPEN: UnitState.OPEN},
}


def states_before(move: UnitMove) -> frozenset[UnitState]:
    """The states from which a unit can make this move."""
    return frozenset(state for state, moves in UNIT_MOVES.items() if move in moves)


class LeaseEnding(StrEnum):
    """How a lease ends. Only a failure counts as an error of its unit."""

    ANSWERED = "answered"
    EXPIRED = "expired"
    RELEASED = "released"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def puts_back(self) -> bool:
        """Whether the replica returns to its shelf while its unit is open."""
        match self:
            case LeaseEnding.EXPIRED | LeaseEnding.RELEASED | LeaseEnding.FAILED:
                return True
            case LeaseEnding.ANSWERED | LeaseEnding.STOPPED:
                return False
            case _:
                assert_never(self)


class Receipt(StrEnum):
    """What becomes of what a host returns; all but COUNTED, LATE and DUPLICATE are not stored."""

    COUNTED = "counted"
    LATE = "late"
    DUPLICATE = "duplicate"
    UNKNOWN_UNIT = "unknown_unit"
    NOT_LEASED = "not_leased"
    ALREADY_ANSWERED = "already_answered"
    INVALID = "invalid"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Claim:
    """What the database knows about a unit and the host that returns an answer for it."""

    state: UnitState | None
    holds_lease: bool
    held_before: bool
    earlier_hash: bytes | None


def receive(claim: Claim, result_hash: bytes) -> Receipt:
    """Decides about one returned answer. A host that never held the unit is refused, whatever it says."""
    if claim.state is None:
        return Receipt.UNKNOWN_UNIT
    if claim.earlier_hash is not None:
        return Receipt.DUPLICATE if claim.earlier_hash == result_hash else Receipt.ALREADY_ANSWERED
    if not (claim.holds_lease or claim.held_before):
        return Receipt.NOT_LEASED
    match claim.state:
        case UnitState.OPEN:
            return Receipt.COUNTED
        case UnitState.ACCEPTED | UnitState.EXHAUSTED | UnitState.CANCELLED:
            return Receipt.LATE
        case _:
            assert_never(claim.state)


@dataclass(frozen=True, slots=True)
class Caps:
    """How often a unit may fail, and how often its leases may fail or lapse, before it is given up."""

    failures: int
    attempts: int


def given_up(endings: Mapping[LeaseEnding, int], caps: Caps) -> str | None:
    """The reason to exhaust a unit whose leases ended so, or None while it may be tried again.

    The test is strictly greater-than: a cap of 0 failures gives a unit up at its first. A release says
    nothing of the unit: whoever draws and releases all day gives none up.
    """
    failed = endings.get(LeaseEnding.FAILED, 0)
    if failed > caps.failures:
        return "too_many_failures"
    return "too_many_attempts" if failed + endings.get(LeaseEnding.EXPIRED, 0) > caps.attempts else None
