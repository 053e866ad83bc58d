"""Agreement: meaning in the right direction, facts decisive, better than words alone on real captions."""

import itertools
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captions.agreement import agreement_odds, answer_agreement, features, text_agreement
from captions.background import Background
from captions.perspective import Perspective, check_answer
from captions.words import _PIECES, _TOKENS, _VOCABULARY, read

FLICKR = Path(__file__).parents[3] / "shared" / "data" / "flickr8k"


def perspective(*fields: dict[str, Any]) -> Perspective:
    return Perspective.parse(json.dumps({"name": "p", "prompt": "Look.", "schema_fields": list(fields)}))


SCENE = perspective(
    {
        "name": "objects",
        "type": "dict",
        "is_list": True,
        "fields": [
            {"name": "shape", "type": "str", "enum": ["circle", "square", "star"]},
            {"name": "colour", "type": "str", "enum": ["red", "blue", "green"]},
            {"name": "position", "type": "str", "enum": ["left", "centre", "right"]},
        ],
    }
)


def scene(*objects: str) -> dict[str, Any]:
    return {
        "objects": [dict(zip(("shape", "colour", "position"), text.split(), strict=True)) for text in objects]
    }


TRUTH = scene("circle red left", "square blue centre", "star green right")


@pytest.mark.parametrize(
    ("text", "paraphrase", "perturbed"),
    [
        (
            "a red circle left of a blue square",
            "To the left of a blue square is a red circle.",
            "a blue circle left of a red square",
        ),
        ("A dog runs on grass.", "a dog running over the grass", "no dog runs on grass"),
        ("two dogs play", "2 dogs are playing", "three dogs play"),
        ("a man in a red shirt", "A man wears a red shirt.", "a man in a blue shirt"),
        ("a black and white dog", "a dog that is black and white", "a brown dog"),
        (
            "a red disc in the top left corner and a star at the bottom right",
            "In the upper left is a red circle; the lower right has a star",
            "a red disc in the top right corner and a star at the bottom right",
        ),
        (
            "A red star in the centre, a blue star on the left",
            "a blue star on the left and a red star in the middle",
            "a blue star in the centre, a red star on the left",
        ),
        ("a red square (middle)", "there is a red square in the centre", "a red square (middle left)"),
        ("a red square at the top", "at the top we see a red square", "a red star at the top"),
        (
            "a red square at the top left, a blue star in the centre",
            "A red square (upper left) and a blue star (middle).",
            "a red square at the top left, a green circle at the bottom right",
        ),
    ],
)
def test_a_paraphrase_agrees_and_a_changed_fact_does_not(text: str, paraphrase: str, perturbed: str):
    assert text_agreement(text, paraphrase) > 0.7
    assert text_agreement(text, perturbed) < 0.25


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("a black dog", "a black and white dog"),
        ("a dog on the left", "a dog"),
        ("a star at the left", "a star at the top left"),
        ("a red circle and a blue circle", "a red circle"),
    ],
)
def test_saying_less_contradicts_nothing(text: str, other: str):
    assert not read((text,)).contradicts(read((other,)))


def test_word_order_plurals_number_words_and_synonyms_do_not_matter():
    assert text_agreement("Two boys are running", "2 running boy") > 0.95
    assert text_agreement("A puppy.", "a dog") > text_agreement("A puppy.", "a boat")


@pytest.mark.parametrize(
    ("text", "other", "apart"),
    [
        ("no people on the beach", "people on the beach", True),
        ("a beach without any people", "people at a beach", True),
        ("a dog that is not black", "a dog and a black cat run", False),
        ("no red circle, a star", "a red star", False),
    ],
)
def test_what_is_denied_contradicts_only_itself(text: str, other: str, apart: bool):
    assert read((text,)).contradicts(read((other,))) is apart


def test_a_hostile_text_costs_no_more_than_a_long_one():
    text = " ".join(f"{number} red dog left" for number in range(2, 99))
    for said in (text, text.replace("red", "blue"), "x" * 4_000, "a" * 30 + " " + "狗" * 3_900):
        words = read((said,))
        assert all(len(mentions) <= 16 for mentions in words.mentions.values())
        assert not words.contradicts(words)


def test_strangers_cannot_fill_the_memory_of_words():
    kept = len(_PIECES), len(_TOKENS)
    for number in range(50):
        read((f"{number}" * 100,))
    assert (len(_PIECES), len(_TOKENS)) == kept
    for number in range(0, 2 * _VOCABULARY, 1000):
        read((" ".join(f"word{n}" for n in range(number, number + 1000)),))
        assert max(len(_PIECES), len(_TOKENS)) <= _VOCABULARY


def test_a_lexical_reading_compares_words_and_nothing_else():
    apart = "a red dog left of a blue cat", "a blue dog right of a red cat"
    asked = perspective({"name": "caption", "type": "str"})
    plain, lexical = (
        [features({"caption": text}, asked, lexical=words_alone) for text in apart]
        for words_alone in (False, True)
    )
    background = Background(Random(1))
    assert agreement_odds(*plain, background) < 1 < agreement_odds(*lexical, background)


def test_what_is_said_of_which_thing_matters():
    text = "a brown dog and a cat"
    assert text_agreement(text, "a cat and a brown dog") > text_agreement(text, "a brown cat and a dog")


def test_texts_without_spaces_or_latin_letters_are_compared():
    assert text_agreement("一只狗在草地上奔跑", "狗在草地上跑") > 0.9
    assert text_agreement("собака бежит по траве", "Собака бежит.") > 0.8


@given(st.text(max_size=60), st.text(max_size=60))
def test_agreement_of_any_texts_is_a_symmetric_probability(a: str, b: str):
    assert 0 <= text_agreement(a, b) == text_agreement(b, a) <= 1


def test_one_wrong_fact_among_three_objects_is_no_agreement():
    for right, wrong in (("circle red left", wrong) for wrong in ("star red left", "circle blue left")):
        changed = {"objects": [*scene(wrong)["objects"], *TRUTH["objects"][1:]]}
        assert right not in json.dumps(changed)
        assert answer_agreement(TRUTH, changed, SCENE) < 0.25


def test_the_order_of_objects_does_not_matter_and_a_missing_one_counts():
    assert answer_agreement(TRUTH, {"objects": TRUTH["objects"][::-1]}, SCENE) > 0.97
    assert answer_agreement(TRUTH, {"objects": TRUTH["objects"][:2]}, SCENE) < 0.95


def test_fields_are_compared_each_with_its_own():
    mixed = perspective(
        {"name": "caption", "type": "str"},
        {"name": "people", "type": "int"},
        {"name": "indoors", "type": "bool"},
        {"name": "confidence", "type": "float"},
        {"name": "tags", "type": "str", "is_list": True},
        {
            "name": "parts",
            "type": "dict",
            "is_list": True,
            "fields": [{"name": "label", "type": "str"}, {"name": "kind", "type": "str", "enum": ["a", "b"]}],
        },
    )
    parts = [{"label": "wooden table", "kind": "a"}, {"label": "cup", "kind": "b"}]
    answer = check_answer(
        {
            "caption": "A man reads at a table.",
            "people": 1,
            "indoors": True,
            "confidence": 0.4,
            "tags": ["book", "man"],
            "parts": parts,
        },
        mixed,
    )
    same = answer | {"confidence": 0.9, "tags": ["man", "book"], "parts": parts[::-1]}
    assert answer_agreement(answer, same, mixed) == answer_agreement(answer, answer, mixed) > 0.97
    for change in ({"people": 9}, {"tags": ["dog"]}, {"parts": parts[:1]}, {"caption": "A dog."}):
        assert answer_agreement(answer, same | change, mixed) < answer_agreement(answer, same, mixed)
    assert answer_agreement(answer, same | {"indoors": False}, mixed) < 0.25


def captions(split: str) -> list[list[str]]:
    lines = (FLICKR / "captions.jsonl").read_text().splitlines()
    return [line["captions"] for line in map(json.loads, lines) if line["split"] == split]


def auc(same: list[float], other: list[float]) -> float:
    """The share of pairs of figures where the first is greater; equal ones count half."""
    ranked = sorted([(figure, 1) for figure in same] + [(figure, 0) for figure in other])
    ranks = 0.0
    for _, group in itertools.groupby(enumerate(ranked, 1), key=lambda item: item[1][0]):
        members = list(group)
        mean = (members[0][0] + members[-1][0]) / 2
        ranks += mean * sum(kind for _, (_, kind) in members)
    return (ranks - len(same) * (len(same) + 1) / 2) / (len(same) * len(other))


@pytest.mark.skipif(not FLICKR.exists(), reason="needs ../shared/data/flickr8k")
def test_people_who_saw_one_photo_are_told_from_people_who_saw_two():
    background = Background(Random(1))
    for subject, said in enumerate(Random(2).sample(captions("train"), 1_000)):
        background.add(subject, read(said[:1]).tokens)
    random, images = Random(3), captions("testA")
    same = [text_agreement(*random.sample(said, 2), background) for said in images]
    pairs = [random.sample(images, 2) for _ in images]
    other = [text_agreement(random.choice(a), random.choice(b), background) for a, b in pairs]
    assert auc(same, other) > 0.915  # words alone reach 0.900


def test_features_know_an_answer_in_own_words_from_a_mere_choice():
    choice = perspective({"name": "kind", "type": "str", "enum": ["a", "b"]})
    assert not features({"kind": "a"}, choice).is_open
    assert features(TRUTH, SCENE).is_open
    assert not features({"objects": []}, SCENE).is_open
