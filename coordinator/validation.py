"""What the answers to a unit add up to: the cross-check's verdict as a move of the unit. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

from captions import consensus
from captions.agreement import Features
from captions.background import Background
from captions.consensus import Quorum, Voice
from coordinator.lifecycle import LeaseEnding, UnitState


@dataclass(frozen=True, slots=True)
class Settled:
    """The unit ends: `verdict` is what people are shown, `canonical` the user whose answer stands."""

    state: UnitState
    canonical: int | None
    verdict: dict[str, Any]


@dataclass(frozen=True, slots=True)
class MoreWanted:
    """The unit stays open and wants `count` more voices."""

    count: int


def judge(
    voices: Sequence[Voice], subject: int, background: Background, quorum: Quorum
) -> Settled | MoreWanted:
    """The move that follows from these voices of users to the unit about `subject` (a content id)."""
    verdict = consensus.judge(voices, subject, background, quorum)
    match verdict:
        case consensus.Accept():
            judgements = {
                str(j.voter): {"agrees": j.agrees, "support": round(j.support, 4)} for j in verdict.judgements
            }
            shown = {
                "confidence": round(verdict.confidence, 4),
                "judgements": judgements,
                "numbers": _shown(verdict.explanation),
            }
            return Settled(UnitState.ACCEPTED, verdict.canonical, shown)
        case consensus.Exhausted():
            shown = {"reason": verdict.reason, "numbers": _shown(verdict.explanation)}
            return Settled(UnitState.EXHAUSTED, None, shown)
        case consensus.NeedMore():
            return MoreWanted(verdict.count)
        case _:
            assert_never(verdict)


def agrees_with_canonical(
    late: Features, canonical: Features, subject: int, background: Background, quorum: Quorum
) -> bool:
    """Whether an answer that came after the verdict says what the canonical one says."""
    return consensus.judge_straggler(Voice(0, late), canonical, subject, background, quorum).agrees


def given_up(reason: str, endings: Mapping[LeaseEnding, int], details: Sequence[str]) -> Settled:
    """The end of a unit that failed or was abandoned too often, with the hosts' own words."""
    counts = {ending.value: count for ending, count in endings.items()}
    return Settled(UnitState.EXHAUSTED, None, {"reason": reason, "numbers": counts, "details": list(details)})


def _shown(numbers: Mapping[str, float]) -> dict[str, float]:
    return {name: round(number, 4) for name, number in numbers.items()}
