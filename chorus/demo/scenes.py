"""Drawn pictures whose truth is known: a few coloured shapes on a three-by-three grid."""

import io
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDE = 384  # pixels; a grid cell is a third of it
CELL = SIDE // 3
SUPERSAMPLING = 4


class Shape(StrEnum):
    CIRCLE = "circle"
    SQUARE = "square"
    TRIANGLE = "triangle"
    STAR = "star"
    DIAMOND = "diamond"
    CROSS = "cross"
    HEART = "heart"
    ARROW = "arrow"


class Colour(StrEnum):
    RED = "red"
    ORANGE = "orange"
    YELLOW = "yellow"
    GREEN = "green"
    BLUE = "blue"
    PURPLE = "purple"
    BROWN = "brown"
    BLACK = "black"
    PINK = "pink"
    GREY = "grey"


class Position(StrEnum):
    """A grid cell, in reading order."""

    TOP_LEFT = "top left"
    TOP_CENTRE = "top centre"
    TOP_RIGHT = "top right"
    MIDDLE_LEFT = "middle left"
    CENTRE = "centre"
    MIDDLE_RIGHT = "middle right"
    BOTTOM_LEFT = "bottom left"
    BOTTOM_CENTRE = "bottom centre"
    BOTTOM_RIGHT = "bottom right"

    @property
    def cell(self) -> tuple[int, int]:
        """(row, column), each 0 to 2, from the top left."""
        return divmod(list(Position).index(self), 3)

    @classmethod
    def at(cls, row: int, column: int) -> "Position":
        """The position of a cell; rows and columns are 0 to 2."""
        return list(cls)[row * 3 + column]


PAINT: dict[Colour, tuple[int, int, int]] = {
    Colour.RED: (211, 38, 38),
    Colour.ORANGE: (240, 124, 20),
    Colour.YELLOW: (246, 222, 52),
    Colour.GREEN: (44, 146, 66),
    Colour.BLUE: (38, 88, 204),
    Colour.PURPLE: (128, 54, 168),
    Colour.BROWN: (116, 74, 44),
    Colour.BLACK: (28, 28, 30),
    Colour.PINK: (238, 122, 182),
    Colour.GREY: (128, 128, 132),
}

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "cream": (250, 244, 228),
    "light grey": (226, 228, 230),
    "pale blue": (222, 234, 246),
    "pale pink": (248, 230, 234),
}


class Fact(NamedTuple):
    """What there is to say of one object."""

    shape: Shape
    colour: Colour
    position: Position


class Box(NamedTuple):
    """Pixels of the picture, origin top left."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class SceneObject:
    fact: Fact
    box: Box


class Relation(NamedTuple):
    """`source` and `target` are indices of a scene's objects; `kind` is "left of" or "above"."""

    source: int
    kind: str
    target: int


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture; `grain` seeds the noise on it, `background` is a key of BACKGROUNDS."""

    name: str
    objects: tuple[SceneObject, ...]
    background: str
    grain: int

    @property
    def facts(self) -> frozenset[Fact]:
        return frozenset(thing.fact for thing in self.objects)

    @property
    def relations(self) -> tuple[Relation, ...]:
        """Which object is left of or above which, by grid column and row."""
        return tuple(self._relations())

    def _relations(self) -> Iterator[Relation]:
        for source, one in enumerate(self.objects):
            row, column = one.fact.position.cell
            for target, other in enumerate(self.objects):
                other_row, other_column = other.fact.position.cell
                if column < other_column:
                    yield Relation(source, "left of", target)
                if row < other_row:
                    yield Relation(source, "above", target)

    def truth(self) -> dict[str, object]:
        """All that is known of the picture, ready for JSON; boxes are [x, y, width, height] in pixels."""
        objects = [{**thing.fact._asdict(), "box": list(thing.box)} for thing in self.objects]
        relations = [relation._asdict() for relation in self.relations]
        return {"name": self.name, "background": self.background, "objects": objects, "relations": relations}


def make_scenes(count: int, seed: int) -> list[Scene]:
    """`count` scenes of 2 to 4 objects; equal seeds give equal scenes, and no two share all their facts."""
    rng = random.Random(seed)  # noqa: S311 - drawings, no secrets
    scenes: list[Scene] = []
    drawn: set[frozenset[Fact]] = set()
    while len(scenes) < count:
        scene = _draw_scene(f"scene-{len(scenes) + 1:03}", rng)
        if scene.facts not in drawn:
            drawn.add(scene.facts)
            scenes.append(scene)
    return scenes


def _draw_scene(name: str, rng: random.Random) -> Scene:
    count = rng.randint(2, 4)
    colours = rng.sample(list(Colour), count)
    positions = rng.sample(list(Position), count)
    facts = [Fact(rng.choice(list(Shape)), c, p) for c, p in zip(colours, positions, strict=True)]
    objects = tuple(SceneObject(fact, _draw_box(fact.position, rng)) for fact in facts)
    return Scene(name, objects, rng.choice(list(BACKGROUNDS)), rng.getrandbits(32))


def _draw_box(position: Position, rng: random.Random) -> Box:
    side, margin = rng.randint(60, 104), 8
    row, column = position.cell
    slack = CELL - 2 * margin - side
    return Box(
        column * CELL + margin + rng.randint(0, slack),
        row * CELL + margin + rng.randint(0, slack),
        side,
        side,
    )


def render(scene: Scene) -> bytes:
    """The picture as JPEG, SIDE × SIDE pixels; the same bytes each time."""
    size = SIDE * SUPERSAMPLING
    canvas = Image.new("RGB", (size, size), BACKGROUNDS[scene.background])
    pen = ImageDraw.Draw(canvas)
    for thing in scene.objects:
        outline = [
            (
                (thing.box.x + u * thing.box.width) * SUPERSAMPLING,
                (thing.box.y + v * thing.box.height) * SUPERSAMPLING,
            )
            for u, v in OUTLINES[thing.fact.shape]
        ]
        pen.polygon(outline, fill=PAINT[thing.fact.colour])
    pixels = np.asarray(canvas.reduce(SUPERSAMPLING), dtype=np.float32)
    noise = np.random.default_rng(scene.grain).normal(0, 3, pixels.shape)
    picture = Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=92, subsampling=0)
    return out.getvalue()


def _fill(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Stretches an outline so that it fills the unit square."""
    left, top = min(x for x, _ in points), min(y for _, y in points)
    width, height = max(x for x, _ in points) - left, max(y for _, y in points) - top
    return [((x - left) / width, (y - top) / height) for x, y in points]


def _ring(corners: int, radii: tuple[float, ...]) -> list[tuple[float, float]]:
    """Points around the origin from 12 o'clock on, their radii taken in turn."""
    turns = [2 * math.pi * k / corners for k in range(corners)]
    return [
        (radii[k % len(radii)] * math.sin(turn), -radii[k % len(radii)] * math.cos(turn))
        for k, turn in enumerate(turns)
    ]


def _heart(corners: int) -> list[tuple[float, float]]:
    turns = [2 * math.pi * k / corners for k in range(corners)]
    return [
        (
            16 * math.sin(t) ** 3,
            5 * math.cos(2 * t) + 2 * math.cos(3 * t) + math.cos(4 * t) - 13 * math.cos(t),
        )
        for t in turns
    ]


# Outlines in the unit square, y downwards; each touches all four sides, so that an object fills its box.
OUTLINES: dict[Shape, list[tuple[float, float]]] = {
    Shape.CIRCLE: _fill(_ring(120, (1.0,))),
    Shape.SQUARE: [(0, 0), (1, 0), (1, 1), (0, 1)],
    Shape.TRIANGLE: [(0.5, 0), (1, 1), (0, 1)],
    Shape.STAR: _fill(_ring(10, (1.0, 0.382))),
    Shape.DIAMOND: _fill(_ring(4, (1.0,))),
    Shape.CROSS: [
        *((1 / 3, 0), (2 / 3, 0), (2 / 3, 1 / 3), (1, 1 / 3), (1, 2 / 3), (2 / 3, 2 / 3)),
        *((2 / 3, 1), (1 / 3, 1), (1 / 3, 2 / 3), (0, 2 / 3), (0, 1 / 3), (1 / 3, 1 / 3)),
    ],
    Shape.HEART: _fill(_heart(120)),
    Shape.ARROW: [(0, 0.3), (0.5, 0.3), (0.5, 0), (1, 0.5), (0.5, 1), (0.5, 0.7), (0, 0.7)],
}


def silhouette(shape: Shape, side: int) -> NDArray[np.float32]:
    """The shape filling a square of `side` × `side` pixels: how much of each is covered, 0 to 1."""
    size = side * 8
    mask = Image.new("L", (size, size))
    ImageDraw.Draw(mask).polygon([(u * size, v * size) for u, v in OUTLINES[shape]], fill=255)
    return np.asarray(mask.reduce(8), dtype=np.float32) / np.float32(255)
