"""Captions of about 60 words for the bench: different for every unit and replica, and yet of one picture."""

import hashlib
from collections.abc import Sequence

# fmt: off
_THINGS = (
    "dog", "cat", "horse", "boat", "train", "bridge", "tower", "lamp", "chair", "table", "bottle", "bicycle",
    "tractor", "kite", "drum", "violin", "castle", "cactus", "owl", "goat", "lorry", "tent", "ladder",
    "basket", "clock", "statue", "fountain", "canoe", "helmet", "mirror", "piano", "saddle",
)
_COLOURS = (
    "red", "blue", "green", "yellow", "purple", "orange", "black", "white", "silver", "brown", "pink", "grey",
)
_PLACES = (
    "beach", "forest", "kitchen", "desert", "harbour", "stadium", "library", "meadow", "street", "garden",
    "market", "station", "bakery", "workshop", "vineyard", "museum", "orchard", "terrace", "balcony",
    "quarry",
)
# fmt: on
_DOING = ("stands", "lies", "leans", "rests", "waits", "hangs", "shines", "sits", "turns", "glows")
_LINKS = ("next to", "behind", "in front of", "left of", "right of", "above", "under", "close to")
_FILLERS = (
    "In the background there are soft clouds and a little sunlight falls on the scene from one side.",
    "The light is even and the shadows are short, so it may be around noon on a calm day.",
    "Nothing else in the picture draws the eye, and the ground is plain and dry all around.",
    "The picture was taken from a low angle and everything near its edges is slightly out of focus.",
)


def caption(unit_id: int, replica: int) -> str:
    """What a volunteer says of this unit's picture: the same facts for all replicas, in other words."""
    facts, voice = _Choices(f"{unit_id}"), _Choices(f"{unit_id} {replica}")
    place, number = facts.one_of(_PLACES), facts.number(88) + 2
    things = [f"{facts.one_of(_COLOURS)} {facts.one_of(_THINGS)}" for _ in range(4)]
    sentences = []
    for thing, other in zip(things, (*things[1:], things[0]), strict=True):
        doing, link = facts.one_of(_DOING), facts.one_of(_LINKS)
        article, others_article = ("A", "One")[voice.number(2)], ("a", "the")[voice.number(2)]
        sentences.append(f"{article} {thing} {doing} {link} {others_article} {other}.")
    first = voice.number(4)
    told = " ".join((*sentences[first:], *sentences[:first]))
    opening = voice.one_of(("This is", "The photo shows", "We see"))
    return f"{opening} a {place} with {number} small stones. {told} {voice.one_of(_FILLERS)}"


class _Choices:
    """Choices that follow from a text: as good as random, and cheaper to begin than a seeded generator."""

    def __init__(self, seed: str) -> None:
        self._left = int.from_bytes(hashlib.sha256(seed.encode()).digest())

    def number(self, below: int) -> int:
        self._left, number = divmod(self._left, below)
        return number

    def one_of(self, choices: Sequence[str]) -> str:
        return choices[self.number(len(choices))]
