"""The background: bounded, repeatable, and aware of what is said anyway."""

import math
from random import Random

import pytest

from captions.background import SAMPLE, VOCABULARY, Background
from captions.words import read

GENERIC = read(("A beautiful picture with lovely colours and a pleasant mood.",)).tokens


def words(text: str) -> frozenset[str]:
    return read((text,)).tokens


def filled(generic_every: int, count: int = 600) -> Background:
    background, random = Background(Random(4)), Random(5)
    for subject in range(count):
        own = f"thing{random.randrange(200)} beside thing{random.randrange(200)} with a dog"
        background.add(subject, GENERIC if subject % generic_every == 0 else words(own))
    return background


def test_what_many_say_of_other_images_is_likely_and_what_one_says_is_not():
    background = filled(generic_every=5)
    assert background.chance(GENERIC, subject=-1) > 0.1
    assert background.chance(words("zebra dancing on ice"), subject=-1) < 0.01


def test_part_of_a_generic_sentence_is_as_generic():
    assert filled(generic_every=5).chance(GENERIC - {"mood"}, subject=-1) > 0.1


def test_an_images_own_answers_are_no_chance():
    background = Background(Random(1))
    for _ in range(20):
        background.add(7, GENERIC)
        background.add(8, words("a dog"))
    assert background.chance(GENERIC, subject=7) < 0.02
    assert background.chance(GENERIC, subject=9) > 0.3


def test_it_is_of_use_while_empty():
    background = Background(Random(1))
    assert background.chance(GENERIC, subject=1) < 0.05
    assert background.chance(frozenset(), subject=1) == 1.0
    assert background.weights["dog"] > 0


def test_rare_words_weigh_more():
    background = filled(generic_every=5)
    assert background.weights["thing7"] > 2 * background.weights["dog"]


def test_it_stays_bounded_and_forgets():
    background = filled(generic_every=1, count=500)
    for subject in range(500, 20_000):
        background.add(subject, frozenset({f"word{subject}", f"rare{subject * 7}"}))
    assert len(background) == SAMPLE
    assert background.vocabulary() <= VOCABULARY + 200
    assert len(background._places) <= 2 * SAMPLE
    assert background.chance(GENERIC, subject=-1) < 0.05


def test_a_word_in_every_other_answer_keeps_its_weight_while_older_answers_fade():
    background = Background(Random(1))
    for subject in range(20_000):
        background.add(subject, words("a dog" if subject % 2 else "a boat"))
    assert background.weights["dog"] == pytest.approx(math.log(2) ** 2, abs=0.03)


def test_the_same_random_numbers_give_the_same_background():
    one, two = filled(generic_every=7), filled(generic_every=7)
    shared = words("thing1 beside thing2 with a dog")
    assert one.chance(shared, -1) == two.chance(shared, -1)
    assert {token: one.weights[token] for token in shared} == {token: two.weights[token] for token in shared}
