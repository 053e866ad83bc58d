"""Every verdict of the cross-check becomes exactly one move of the unit."""

import json
import random

import pytest
from support.engine import SENTENCE, caption

from captions import consensus
from captions.agreement import Features, features
from captions.background import Background
from captions.consensus import Quorum, Voice
from captions.perspective import Perspective
from coordinator import validation
from coordinator.lifecycle import LeaseEnding, UnitState
from coordinator.validation import MoreWanted, Settled

PERSPECTIVE = Perspective.parse(json.dumps(SENTENCE))
QUORUM = Quorum(min_voices=2, max_voices=3, confidence=0.9)


def _said(number: int) -> Features:
    return features({"caption": caption(number)}, PERSPECTIVE)


def _voices(said: dict[int, Features]) -> list[Voice]:
    return [Voice(user_id, features) for user_id, features in said.items()]


@pytest.fixture(scope="module")
def background() -> Background:
    """What is said of a hundred other images."""
    filled = Background(random.Random(1))
    for number in range(1000, 1100):
        filled.add(-number, _said(number).tokens)
    return filled


def test_agreement_accepts_the_unit_with_a_canonical_answer_and_numbers(background: Background):
    move = validation.judge(_voices({10: _said(5), 20: _said(5)}), 1, background, QUORUM)
    assert isinstance(move, Settled)
    assert move.state is UnitState.ACCEPTED
    assert move.canonical in {10, 20}
    assert set(move.verdict) == {"confidence", "judgements", "numbers"}
    assert {voter: j["agrees"] for voter, j in move.verdict["judgements"].items()} == {"10": True, "20": True}
    assert json.loads(json.dumps(move.verdict, allow_nan=False)) == move.verdict


def test_too_few_answers_want_more(background: Background):
    assert validation.judge(_voices({10: _said(5)}), 1, background, QUORUM) == MoreWanted(1)


def test_two_that_differ_want_a_third(background: Background):
    assert validation.judge(_voices({10: _said(5), 20: _said(17)}), 1, background, QUORUM) == MoreWanted(1)


def test_the_odd_one_out_is_named(background: Background):
    move = validation.judge(_voices({10: _said(5), 20: _said(17), 30: _said(5)}), 1, background, QUORUM)
    assert isinstance(move, Settled)
    agrees = {voter: judged["agrees"] for voter, judged in move.verdict["judgements"].items()}
    assert agrees == {"10": True, "20": False, "30": True}
    assert move.canonical != 20


def test_no_agreement_at_the_cap_exhausts_the_unit_with_its_reason(background: Background):
    move = validation.judge(_voices({10: _said(5), 20: _said(17), 30: _said(28)}), 1, background, QUORUM)
    assert isinstance(move, Settled)
    assert (move.state, move.canonical) == (UnitState.EXHAUSTED, None)
    assert move.verdict["reason"]
    assert "judgements" not in move.verdict
    json.dumps(move.verdict, allow_nan=False)


def test_every_verdict_that_there_is_was_met_above():
    assert consensus.Verdict == consensus.Accept | consensus.NeedMore | consensus.Exhausted


def test_a_straggler_is_measured_by_the_canonical_answer(background: Background):
    def agrees(late: Features) -> bool:
        return validation.agrees_with_canonical(late, _said(5), 1, background, QUORUM)

    assert agrees(_said(5))
    assert not agrees(_said(17))


def test_a_unit_given_up_keeps_the_counts_and_the_hosts_words():
    move = validation.given_up("too_many_failures", {LeaseEnding.FAILED: 2}, ["broken", "broken again"])
    assert (move.state, move.canonical) == (UnitState.EXHAUSTED, None)
    assert move.verdict == {
        "reason": "too_many_failures",
        "numbers": {"failed": 2},
        "details": ["broken", "broken again"],
    }
