"""Every wording of the demo's readers says the truth, and only the truth reads back."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus.demo.scenes import Colour, Fact, Position, Shape
from chorus.demo.wording import Style, read_caption, write_caption

FACTS = st.lists(
    st.builds(Fact, st.sampled_from(Shape), st.sampled_from(Colour), st.sampled_from(Position)),
    min_size=1,
    max_size=6,
    unique=True,
)

WORDS = ["a", "red", "blue", "circle", "star", "in", "the", "top", "left", "centre", "and", "two", "one"]


@given(FACTS, st.integers(), st.integers())
def test_every_wording_reads_back_to_the_truth(facts: list[Fact], reader: int, seed: int):
    caption = write_caption(facts, Style.draw(random.Random(reader)), random.Random(seed))
    assert read_caption(caption) == frozenset(facts)


def test_wordings_vary():
    facts = [
        Fact(Shape.CIRCLE, Colour.RED, Position.TOP_LEFT),
        Fact(Shape.STAR, Colour.ORANGE, Position.CENTRE),
        Fact(Shape.SQUARE, Colour.BLUE, Position.BOTTOM_RIGHT),
    ]
    captions = {write_caption(facts, Style.draw(random.Random(k)), random.Random(k)) for k in range(60)}
    assert len(captions) > 50
    assert all(any(word in caption for caption in captions) for word in ("disc", "upper", "middle", ". "))


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "A plain light background.",
        "A pleasant picture with lovely colours and a calm, friendly mood.",
        "A red circle.",
        "In the top left corner.",
        "A red circle at the top, a blue square in the centre.",
        "A circle in the top left, a blue square in the centre.",
        "A red in the top left, a blue square in the centre.",
        "A red circle in the top left and in the centre.",
        "A red circle in the top left and a red circle in the top left.",
        "A red circle in the top left and a dog.",
        "No red circle in the top left.",
        "There are three shapes: a red circle in the top left and a blue square in the centre.",
        "A red circle in the left top.",
        "A red blue circle in the top left.",
        "A red circle in the top left, a blue square.",
        "A red circle and a blue square in the top left and the centre.",
    ],
)
def test_what_is_not_a_whole_statement_says_nothing(caption: str):
    assert read_caption(caption) is None


@given(st.lists(st.sampled_from([*WORDS, "dog", "ü", "\0"]) | st.text(max_size=9), max_size=12).map(" ".join))
def test_no_text_crashes_the_reading_and_unknown_words_say_nothing(text: str):
    said = read_caption(text)
    assert said is None or len(said) >= 1
    assert said is None or not {"dog", "ü"} & set(text.split())
