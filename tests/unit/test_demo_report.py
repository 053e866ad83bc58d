"""The demo's judge takes the truth and nothing else, and its table says what happened."""

import io
import itertools
import json
import random
from collections.abc import Iterator

import pytest
from rich.console import Console

from chorus.demo.reader import FIRST_OTHER_FACTS, PLEASANT_CAPTION, PLEASANT_FACTS, misread
from chorus.demo.report import Tally, VolunteerTally, judge_caption, judge_objects, table
from chorus.demo.scenes import Colour, Fact, Position, Scene, Shape, make_scenes
from chorus.demo.wording import Style, write_caption

SCENES = make_scenes(40, seed=11)


def _caption(facts: list[Fact], seed: int) -> str:
    return write_caption(facts, Style.draw(random.Random(seed)), random.Random(seed))


def _objects(facts: list[Fact]) -> dict[str, object]:
    return {"objects": [{"shape": f.shape, "colour": f.colour, "position": f.position} for f in facts]}


def _one_thing_wrong(scene: Scene) -> Iterator[list[Fact]]:
    """Every way to be wrong in one attribute of one object, to leave one out, or to invent one."""
    facts = sorted(scene.facts)
    for place, fact in enumerate(facts):
        rest = facts[:place] + facts[place + 1 :]
        yield rest
        yield from ([*rest, fact._replace(shape=shape)] for shape in Shape if shape != fact.shape)
        yield from ([*rest, fact._replace(colour=colour)] for colour in Colour if colour != fact.colour)
        yield from ([*rest, fact._replace(position=spot)] for spot in Position if spot != fact.position)
    free = next(spot for spot in Position if spot not in {fact.position for fact in facts})
    yield [*facts, Fact(Shape.STAR, Colour.RED, free)]


def test_the_truth_is_judged_true_in_any_order_and_wording():
    for seed, scene in enumerate(SCENES):
        facts = random.Random(seed).sample(sorted(scene.facts), len(scene.facts))
        assert judge_caption(_caption(facts, seed), scene)
        assert judge_objects(_objects(facts), scene)


def test_one_wrong_attribute_one_missing_or_one_invented_object_is_wrong():
    for seed, scene in enumerate(SCENES[:10]):
        for facts in _one_thing_wrong(scene):
            assert not judge_caption(_caption(facts, seed), scene)
            assert not judge_objects(_objects(facts), scene)


def test_a_misreading_is_wrong():
    for seed, scene in enumerate(SCENES):
        facts = list(misread(sorted(scene.facts), random.Random(seed)))
        assert not judge_caption(_caption(facts, seed), scene)
        assert not judge_objects(_objects(facts), scene)


def test_generic_and_other_image_answers_are_wrong():
    for scene, other in itertools.pairwise(SCENES):
        assert not judge_caption(PLEASANT_CAPTION, scene)
        for facts in (list(PLEASANT_FACTS), list(FIRST_OTHER_FACTS), sorted(other.facts)):
            assert not judge_caption(_caption(facts, 1), scene)
            assert not judge_objects(_objects(facts), scene)


def test_an_object_listed_twice_is_wrong():
    facts = sorted(SCENES[0].facts)
    assert not judge_objects(_objects([*facts, facts[0]]), SCENES[0])


@pytest.mark.parametrize(
    "answer",
    [
        *(None, "text", [], {}, {"objects": None}, {"objects": "red"}, {"objects": [1]}, {"objects": [{}]}),
        {"objects": [{"shape": [], "colour": {}, "position": 3}]},
    ],
)
def test_an_answer_of_another_form_is_wrong(answer: object):
    assert not judge_objects(answer, SCENES[0])


def _tally(**figures: int) -> Tally:
    volunteer = VolunteerTally(name="ada", conduct="honest", results=40, agreed=39, refused=1)
    known = {"lost": 0, "wrong_accepted": 0, "truth_correct": 46} | figures
    return Tally(
        images=24, units=48, results=115, accepted=46, exhausted=2, seconds=31.4,
        refused={"disagreed": 17, "other_image": 5}, volunteers=(volunteer,), **known,
    )  # fmt: skip


def test_the_json_carries_every_promised_figure():
    figures = json.loads(_tally().to_json())
    promised = (
        "images units results accepted exhausted truth_correct wrong_accepted lost results_per_accepted"
    )
    assert {*promised.split(), "seconds", "refused", "unjudged", "volunteers", "sound"} == figures.keys()
    assert figures["results_per_accepted"] == 2.5
    assert figures["refused"] == {"disagreed": 17, "other_image": 5}


@pytest.mark.parametrize(
    ("figures", "sound"), [({}, True), ({"lost": 1}, False), ({"wrong_accepted": 1}, False)]
)
def test_a_lost_unit_or_a_wrong_answer_is_not_sound(figures: dict[str, int], sound: bool):
    assert _tally(**figures).sound is sound


def test_without_known_truth_the_demo_can_still_be_sound():
    tally = Tally(images=1, units=1, results=0, accepted=0, exhausted=0, lost=0, seconds=1.0)
    assert tally.sound
    assert tally.results_per_accepted is None
    assert "correct" not in _printed(tally)


def _printed(tally: Tally) -> str:
    out = io.StringIO()
    Console(file=out, width=100).print(table(tally))
    return out.getvalue()


def test_the_table_says_each_figure_in_words():
    printed = _printed(_tally())
    for words in ("48", "46 of 46", "other image", "2.50", "31.4", "ada", "must be 0"):
        assert words in printed
