"""The small language in which readers describe a scene: how it is written, and how it is read back."""

import itertools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from chorus.demo.scenes import Colour, Fact, Position, Shape

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SHAPE_WORDS = {shape.value: shape for shape in Shape} | {"disc": Shape.CIRCLE}
COLOUR_WORDS = {colour.value: colour for colour in Colour}
ROW_WORDS = (("top", "upper"), ("middle", "centre"), ("bottom", "lower"))
COLUMN_WORDS = (("left",), ("middle", "centre"), ("right",))
PLACES = {
    f"{down} {across}": Position.at(row, column)
    for row, column in itertools.product(range(3), range(3))
    for down, across in itertools.product(ROW_WORDS[row], COLUMN_WORDS[column])
} | {"centre": Position.CENTRE, "middle": Position.CENTRE}
PLACE_WORDS = frozenset(" ".join(PLACES).split())

PLACE_FIRST = ("{items}.", "On a plain light background, {items}.")
THING_FIRST = (
    "{items}.",
    "The picture shows {items}.",
    "There are {count} shapes: {items}.",
    "{items}, all on a plain light background.",
    "This image contains {count} shapes, {items}.",
    "A simple drawing with {items}.",
)
PLACE_THEN_THING = ("{place} is {thing}", "{place} there is {thing}", "{place} we see {thing}")
THING_THEN_PLACE = ("{thing} {place}", "{thing} placed {place}", "{thing} ({spot})")
CORNERS = ("in the {spot} corner", "at the {spot}", "in the {spot}")
SIDES = ("at the {spot}", "in the {spot}")
SEPARATORS = (", ", "; ")
LAST_SEPARATORS = (" and ", ", and ")

_TEMPLATES = (*PLACE_FIRST, *THING_FIRST, *PLACE_THEN_THING, *THING_THEN_PLACE, *CORNERS, *SIDES)
_FILLERS = frozenset(re.findall(r"[a-z]+", re.sub(r"{\w+}", "", " ".join((*_TEMPLATES, "a an and")).lower())))


@dataclass(frozen=True, slots=True)
class Style:
    """The words that one reader prefers."""

    top: str
    bottom: str
    middle: str
    circle: str

    @classmethod
    def draw(cls, rng: random.Random) -> Self:
        """A reader's style; most use the plain words."""
        return cls(
            top=rng.choice(("top", "top", "top", "upper")),
            bottom=rng.choice(("bottom", "bottom", "bottom", "lower")),
            middle=rng.choice(("centre", "centre", "middle")),
            circle=rng.choice(("circle", "circle", "circle", "disc")),
        )

    def spot(self, position: Position) -> str:
        """ "upper left", "centre", …"""
        row, column = position.cell
        words = ((self.top, self.middle, self.bottom)[row], ("left", self.middle, "right")[column])
        return self.middle if position is Position.CENTRE else " ".join(words)

    def thing(self, fact: Fact) -> str:
        """ "a red circle", "an orange star", …"""
        noun = self.circle if fact.shape is Shape.CIRCLE else fact.shape.value
        words = f"{fact.colour.value} {noun}"
        return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def write_caption(facts: Sequence[Fact], style: Style, rng: random.Random) -> str:
    """One or two sentences that name each shape's colour, form and place, in the order given."""
    if not facts:
        return "A plain light background."
    place_first = rng.random() < 0.3
    item = rng.choice(PLACE_THEN_THING if place_first else THING_THEN_PLACE)
    items = [_write_item(item, fact, style, rng) for fact in facts]
    frame = rng.choice(PLACE_FIRST if place_first else THING_FIRST)
    if place_first and len(items) > 2 and rng.random() < 0.5:
        cut = rng.randint(1, len(items) - 1)
        tail = _join(items[cut:], rng)
        first = frame.format(items=_join(items[:cut], rng))
        return f"{_capital(first)} {_capital(tail)}."
    return _capital(frame.format(items=_join(items, rng), count=NUMBERS[len(facts)]))


def _write_item(template: str, fact: Fact, style: Style, rng: random.Random) -> str:
    spot = style.spot(fact.position)
    row, column = fact.position.cell
    place = rng.choice(SIDES if 1 in (row, column) else CORNERS).format(spot=spot)
    return template.format(thing=style.thing(fact), place=place, spot=spot)


def _join(items: Sequence[str], rng: random.Random) -> str:
    head, tail = items[:-1], items[-1]
    return rng.choice(SEPARATORS).join(head) + rng.choice(LAST_SEPARATORS) + tail if head else tail


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def read_caption(text: str) -> frozenset[Fact] | None:
    """What a caption says, or None where it is not entirely in this language.

    Strict on purpose: a word from outside the language, a shape without its colour or place, a count
    that does not match, or a shape named twice is None.
    """
    words = re.findall(r"\w+", text.lower())
    tags = "".join(map(_tag, words))
    for form in _FORMS:
        if re.fullmatch("[fn]*", form.sub("", tags)):
            break
    else:
        return None
    facts = [_read_fact(words, item) for item in form.finditer(tags)]
    known = frozenset(fact for fact in facts if fact is not None)
    stated = {NUMBERS.index(word) for word in words if word in NUMBERS}
    return known if facts and len(known) == len(facts) and stated <= {len(facts)} else None


# One letter a word: colour, shape, place, number, filler, unknown.
_FORMS = (
    re.compile(r"(?P<colour>c)(?P<shape>s)f*(?P<place>p+)"),
    re.compile(r"(?P<place>p+)f*(?P<colour>c)(?P<shape>s)"),
)


def _tag(word: str) -> str:
    kinds = (("c", COLOUR_WORDS), ("s", SHAPE_WORDS), ("p", PLACE_WORDS), ("n", NUMBERS), ("f", _FILLERS))
    return next((letter for letter, known in kinds if word in known), "u")


def _read_fact(words: Sequence[str], item: re.Match[str]) -> Fact | None:
    colour, shape = words[item.start("colour")], words[item.start("shape")]
    place = PLACES.get(" ".join(words[item.start("place") : item.end("place")]))
    return Fact(SHAPE_WORDS[shape], COLOUR_WORDS[colour], place) if place else None
