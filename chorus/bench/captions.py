"""Captions of about 60 words for the bench: different for every unit and replica, and yet of one picture."""

import random

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
    facts = random.Random(unit_id)  # noqa: S311 (made-up pictures)
    voice = random.Random(unit_id * 7919 + replica)  # noqa: S311 (as above)
    place = facts.choice(_PLACES)
    pairs = [
        (facts.choice(_COLOURS), facts.choice(_THINGS), facts.choice(_DOING), facts.choice(_LINKS))
        for _ in range(4)
    ]
    number = facts.randrange(2, 90)
    sentences = [
        f"{voice.choice(('A', 'One'))} {colour} {thing} {doing} {link} {voice.choice(('a', 'the'))} "
        f"{pairs[(i + 1) % 4][0]} {pairs[(i + 1) % 4][1]}."
        for i, (colour, thing, doing, link) in enumerate(pairs)
    ]
    voice.shuffle(sentences)
    opening = voice.choice(("This is", "The photo shows", "We see"))
    return f"{opening} a {place} with {number} small stones. {' '.join(sentences)} {voice.choice(_FILLERS)}"
