"""The verdict: what is accepted, what is asked again, and what no number of colluders can push through."""

import itertools
import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captions.agreement import Features, features
from captions.background import Background
from captions.consensus import (
    Accept,
    Exhausted,
    Judgement,
    NeedMore,
    Quorum,
    Voice,
    judge,
    judge_straggler,
)
from captions.perspective import Perspective

QUORUM = Quorum()
SUBJECT = 1
DOG = "A brown dog runs through high grass with a ball in its mouth."
DOG_TOO = "a brown dog with a ball in its mouth running in the grass"
BOAT = "Two people row a small boat across a lake at sunset."
GENERIC = "A beautiful picture with lovely colours and a pleasant mood."


def perspective(*fields: dict[str, Any]) -> Perspective:
    return Perspective.parse(json.dumps({"name": "p", "prompt": "Look.", "schema_fields": list(fields)}))


CAPTION = perspective({"name": "caption", "type": "str"})
KIND = perspective({"name": "kind", "type": "str", "enum": ["indoors", "outdoors"]})


def said(text: str) -> Features:
    return features({"caption": text}, CAPTION)


def voices(*texts: str) -> list[Voice]:
    return [Voice(voter, said(text)) for voter, text in enumerate(texts)]


def background(generic: int = 0) -> Background:
    """120 answers for other images, so many of them the same pleasant sentence."""
    made, random = Background(Random(1)), Random(2)
    things = [f"{colour} {thing}" for colour in ("red", "old", "small") for thing in ("car", "cat", "tree")]
    for subject in range(100, 220):
        text = f"{random.choice(things)} and {random.choice(things)} near thing{random.randrange(90)}"
        made.add(subject, said(GENERIC if subject < 100 + generic else text).tokens)
    return made


def test_two_that_agree_settle_a_unit():
    verdict = judge(voices(DOG, DOG_TOO), SUBJECT, background(), QUORUM)
    assert isinstance(verdict, Accept)
    assert verdict.canonical in {0, 1}
    assert verdict.confidence >= QUORUM.confidence
    assert all(judgement.agrees for judgement in verdict.judgements)


def test_one_voice_is_not_enough_and_two_that_differ_need_a_third():
    assert judge(voices(DOG), SUBJECT, background(), QUORUM) == NeedMore(1, {"voices": 1})
    verdict = judge(voices(DOG, BOAT), SUBJECT, background(), QUORUM)
    assert isinstance(verdict, NeedMore)
    assert verdict.count == 1


def test_the_third_voice_decides_and_the_outlier_is_told():
    verdict = judge(voices(DOG, BOAT, DOG_TOO), SUBJECT, background(), QUORUM)
    assert isinstance(verdict, Accept)
    assert verdict.canonical in {0, 2}
    assert [judgement.agrees for judgement in verdict.judgements] == [True, False, True]


def test_three_that_differ_exhaust_the_unit_visibly():
    verdict = judge(voices(DOG, BOAT, "A woman reads."), SUBJECT, background(), QUORUM)
    assert isinstance(verdict, Exhausted)
    assert verdict.reason == "no_agreement"
    assert verdict.explanation["confidence"] < QUORUM.confidence


@pytest.mark.parametrize("colluders", range(2, 10))
def test_one_sentence_for_all_images_never_passes_however_many_say_it(colluders: int):
    verdict = judge(
        voices(*[GENERIC] * colluders), SUBJECT, background(generic=15), Quorum(max_voices=colluders)
    )
    assert isinstance(verdict, Exhausted)
    assert verdict.reason == "not_specific"


def test_two_honest_voices_outweigh_two_generic_ones():
    quorum = Quorum(max_voices=4)
    verdict = judge(voices(GENERIC, DOG, GENERIC, DOG_TOO), SUBJECT, background(generic=15), quorum)
    assert isinstance(verdict, Accept)
    assert verdict.canonical in {1, 3}


def test_a_contradicted_fact_is_never_settled_by_two():
    wrong = DOG.replace("brown", "white")
    assert isinstance(judge(voices(DOG, wrong), SUBJECT, background(), QUORUM), NeedMore)


def test_a_mere_choice_is_weighed_by_how_often_it_is_made():
    def chose(kind: str) -> Features:
        return features({"kind": kind}, KIND)

    often = Background(Random(1))
    for subject in range(100, 200):
        often.add(subject, chose("outdoors" if subject % 20 else "indoors").tokens)
    common = [Voice(voter, chose("outdoors")) for voter in range(2)]
    rare = [Voice(voter, chose("indoors")) for voter in range(2)]
    assert isinstance(judge(common, SUBJECT, often, QUORUM), NeedMore)
    assert isinstance(judge(rare, SUBJECT, often, QUORUM), Accept)


def test_the_heavier_voice_is_canonical():
    dog, dog_too = said(DOG), said(DOG_TOO)
    for heavy in (0, 1):
        pair = [Voice(0, dog, 5.0 - 4 * heavy), Voice(1, dog_too, 1.0 + 4 * heavy)]
        verdict = judge(pair, SUBJECT, background(), QUORUM)
        assert isinstance(verdict, Accept)
        assert verdict.canonical == heavy


def test_hosts_of_ill_repute_do_not_settle_what_unknown_ones_would():
    doubtful = [Voice(voice.voter, voice.features, weight=0.02) for voice in voices(DOG, DOG_TOO)]
    assert isinstance(judge(doubtful, SUBJECT, background(), QUORUM), NeedMore)


def test_a_trusted_host_settles_alone_only_where_the_policy_says_so():
    trusted = [Voice(3, said(DOG), weight=50.0)]
    verdict = judge(trusted, SUBJECT, background(), Quorum(sole_weight=50.0))
    assert isinstance(verdict, Accept)
    assert verdict.canonical == 3
    assert isinstance(judge(trusted, SUBJECT, background(), QUORUM), NeedMore)
    assert isinstance(judge(trusted, SUBJECT, background(), Quorum(sole_weight=51.0)), NeedMore)


def test_a_straggler_is_judged_against_what_stands():
    good, bad = voices(DOG_TOO, BOAT)
    assert judge_straggler(good, said(DOG), SUBJECT, background(), QUORUM).agrees
    judgement = judge_straggler(bad, said(DOG), SUBJECT, background(), QUORUM)
    assert judgement == Judgement(1, agrees=False, support=judgement.support)


def test_a_first_unit_settles_without_any_background():
    assert isinstance(judge(voices(DOG, DOG_TOO), SUBJECT, Background(Random(1)), QUORUM), Accept)


@pytest.mark.parametrize(
    "bad", [{"min_voices": 0}, {"min_voices": 4}, {"max_voices": 10}, {"confidence": 1.0}, {"prior": 0.0}]
)
def test_policies_that_settle_nothing_are_refused(bad: dict[str, Any]):
    with pytest.raises(ValueError, match=r"a quorum needs|lie between"):
        Quorum(**bad)


TEXTS = st.sampled_from([DOG, DOG_TOO, BOAT, GENERIC, "A dog.", "no dog", "狗", "."])
WEIGHTS = st.floats(min_value=0.01, max_value=100)


@given(st.lists(st.tuples(TEXTS, WEIGHTS), max_size=5), st.integers(2, 5))
def test_the_order_of_voices_never_matters_and_every_verdict_is_lawful(
    heard: list[tuple[str, float]], cap: int
):
    quorum = Quorum(max_voices=cap)
    together = [Voice(voter, said(text), weight) for voter, (text, weight) in enumerate(heard)]
    verdict = judge(together, SUBJECT, background(5), quorum)
    for order in itertools.islice(itertools.permutations(together), 6):
        assert judge(order, SUBJECT, background(5), quorum) == verdict
    match verdict:
        case Accept():
            assert {judgement.voter for judgement in verdict.judgements} == set(range(len(heard)))
            assert quorum.confidence <= verdict.confidence <= 1
        case NeedMore():
            assert verdict.count >= 1
            assert len(heard) + verdict.count <= max(quorum.min_voices, cap)
        case Exhausted():
            assert len(heard) >= cap
