"""The words of a text in normal form: what they mean to each other, and what is said of which thing."""

import re
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple, TypeVar

# A word, or a mark that ends a clause; one character at a time in scripts written without spaces.
_PIECE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_]+(?:['’][a-z]+)?|[.,:;!?。，、；]")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_FILLER_WORDS = _set(
    "a an the is are was were be been being am in on at of to or with by from for as that this these those"
    " there it its his her their them they he she him who which some while into onto up down over through"
    " out off near next has have having do does very also can i you we my your our one"
    # how captions speak of themselves and of places
    " any all every each picture photo image drawing show shown shows see seen depict depicts placed"
    " located positioned corner side part area"
)
_COLOUR_WORDS = _set(
    "red blue green yellow orange purple pink brown black white gray gold silver tan beige cyan magenta"
)
_SIDE_WORDS = _set("left right top bottom middle above below")
_NEGATION_WORDS = _set("no not without never none cannot")
# word:what it is read as
_SAME = dict(
    pair.split(":")
    for pair in _set(
        "two:2 three:3 four:4 five:5 six:6 seven:7 eight:8 nine:9 ten:10 eleven:11 twelve:12"
        " men:man women:woman children:child people:person feet:foot mice:mouse leaves:leaf"
        " ran:run sat:sit stood:stand held:hold wore:wear"
        " grey:gray golden:gold violet:purple upper:top lower:bottom under:below beneath:below"
        " centre:middle center:middle central:middle disc:circle disk:circle"
    )
)
# Everyday words that stand for one another in captions; each group is one more token of its words.
_GROUPS = {
    "~person": "man woman boy girl child kid person lady guy toddler baby player adult male female"
    " individual couple rider cyclist skateboarder surfer climber hiker skier swimmer teenager someone"
    " group crowd runner",
    "~child": "boy girl child kid toddler baby little young infant",
    "~man": "man boy guy male",
    "~woman": "woman girl lady female",
    "~dog": "dog puppy canine hound",
    "~water": "water lake ocean sea river pool pond wave beach stream swim surf splash wet",
    "~bike": "bike bicycle cyclist biker motorcycle motorbike",
    "~snow": "snow snowy ski skier snowboard snowboarder",
    "~grass": "grass grassy field lawn meadow",
    "~street": "street road sidewalk city",
    "~rock": "climb climber rock cliff mountain",
    "~ball": "ball soccer football basketball tennis baseball",
    "~clothes": "shirt jersey jacket coat outfit clothes dress uniform",
    "~stand": "stand pose",
    "~run": "run race chase",
    "~jump": "jump leap air midair",
}


# What a piece does in a sentence. Plain integers: comparing enum members took a third of the time of
# reading a text.
_SAYING, _SIDE, _THING, _FILLER, _NEGATION, _BREAK = range(6)
Read = TypeVar("Read")
_Piece = tuple[str, int, tuple[str, ...], int]  # word, what it does, tokens it stands for, what it says

# What is said of one thing, as bits: its colours, its count, its sides.
_COLOUR_BITS = {colour: 1 << place for place, colour in enumerate(sorted(_COLOUR_WORDS))}
_SIDE_BITS = {side: 1 << 24 + place for place, side in enumerate(sorted(_SIDE_WORDS))}
_ALL_SIDES = sum(_SIDE_BITS.values())
_MIDDLE = _SIDE_BITS["middle"]
_FIRST_COUNT, _MOST_COUNTED = 32, 99
_LONGEST_WORD, _VOCABULARY = 40, 32_768  # what is remembered of strangers' texts
_MOST_MENTIONS = 16  # of one thing: all are compared with all, and the text is a stranger's
_ASPECTS = (sum(_COLOUR_BITS.values()), _ALL_SIDES, -1 << _FIRST_COUNT)


class Words(NamedTuple):
    """A text as sets: its words, what is said of each thing, what is where, what is said to be absent."""

    tokens: frozenset[str]
    mentions: dict[str, list[int]]
    places: dict[int, set[str]]
    denied: frozenset[str]

    def contradicts(self, other: "Words") -> bool:
        """Whether the texts cannot both be true.

        A thing is red here and blue there, two and three, left and right; another thing is in its place; the
        layouts differ; or it is denied. Black does not contradict black and white, nor does silence.
        """
        if self.denied and not self.denied.isdisjoint(other.tokens):
            return True
        if other.denied and not other.denied.isdisjoint(self.tokens):
            return True
        for thing in self.mentions.keys() & other.mentions.keys():
            if _none_fits(self.mentions[thing], other.mentions[thing]):
                return True
        return _misplaced(self.places, other.places)


def _misplaced(ours: dict[int, set[str]], theirs: dict[int, set[str]]) -> bool:
    """Whether another thing is in a place, or two layouts each fill a place that the other leaves empty."""
    for place in ours.keys() & theirs.keys():
        if not ours[place] <= theirs[place] and not theirs[place] <= ours[place]:
            return True
    return len(ours) > 1 and len(theirs) > 1 and _fills_another(ours, theirs) and _fills_another(theirs, ours)


def _fills_another(ours: Iterable[int], theirs: Iterable[int]) -> bool:
    return any(all(_aspect_apart(place, other) for other in theirs) for place in ours)


def _none_fits(ours: Sequence[int], theirs: Sequence[int]) -> bool:
    """Whether some mention, of the text with fewer, is apart from every one of the other text's."""
    fewer, more = (ours, theirs) if len(ours) <= len(theirs) else (theirs, ours)
    return any(one not in more and all(_apart(one, other) for other in more) for one in fewer)


def _apart(one: int, other: int) -> bool:
    """Whether in some aspect both say something, and neither says all that the other does."""
    return any(_aspect_apart(one & aspect, other & aspect) for aspect in _ASPECTS)


def _aspect_apart(ours: int, theirs: int) -> bool:
    if not ours or not theirs or ours == theirs:
        return False
    # "Left" leaves room for "top left", but "in the middle" none for "middle left".
    return _MIDDLE in (ours, theirs) or bool(ours & ~theirs and theirs & ~ours)


def read(texts: Iterable[str]) -> Words:
    """The words of some texts that belong together: the one of a field, or the tags of a list."""
    tokens: set[str] = set()
    mentions: dict[str, list[int]] = {}
    denied: set[str] = set()
    for text in texts:
        chunks = text.lower().split()
        tokens.update(chain.from_iterable(map(_TOKENS.__getitem__, chunks)))
        _bind(list(chain.from_iterable(map(_PIECES.__getitem__, chunks))), mentions, denied)
    tokens.update(_bound(mentions))
    tokens -= denied
    return Words(frozenset(tokens), mentions, _places(mentions), frozenset(denied))


def read_tokens(texts: Iterable[str]) -> Words:
    """The words alone of such texts: nothing is bound to anything, and nothing can be contradicted."""
    chunks = " ".join(texts).lower().split()
    return Words(frozenset(chain.from_iterable(map(_TOKENS.__getitem__, chunks))), {}, {}, frozenset())


class _Pieces(dict[str, tuple[_Piece, ...]]):
    """What the pieces of each chunk between spaces are, remembered: the words of captions are few."""

    def __missing__(self, chunk: str) -> tuple[_Piece, ...]:
        return _remembered(self, chunk, tuple(map(_lexical, _PIECE.findall(chunk))))


class _Tokens(dict[str, tuple[str, ...]]):
    """The tokens of each chunk between spaces, remembered."""

    def __missing__(self, chunk: str) -> tuple[str, ...]:
        return _remembered(self, chunk, tuple(token for piece in _PIECES[chunk] for token in piece[2]))


_PIECES, _TOKENS = _Pieces(), _Tokens()


def _remembered(known: dict[str, Read], chunk: str, value: Read) -> Read:
    """Only what may be a word is kept where strangers fill the memory, and not for ever."""
    if len(chunk) <= _LONGEST_WORD:
        if len(known) >= _VOCABULARY:
            known.clear()
        known[chunk] = value
    return value


def _bind(pieces: Sequence[_Piece], mentions: dict[str, list[int]], denied: set[str]) -> None:
    """Binds colours and counts to the thing that follows, sides to the thing described in the clause."""
    thing, told, waiting, negated = "", False, 0, False
    for number, (word, role, _, bit) in enumerate(pieces):
        if role == _FILLER:
            pass
        elif role == _BREAK:
            thing, negated = "", False
        elif role == _NEGATION:
            negated = True
        elif negated:  # up to the thing that is denied, nothing is said of what is there
            if role == _THING:
                denied.add(word)
                negated = False
        elif role == _THING:
            if waiting:
                _mention(mentions, word, waiting)
                thing, told, waiting = word, True, 0
            elif not thing:
                thing, told = word, False
        elif role == _SIDE and thing:
            if not told:
                _mention(mentions, thing, 0)
                told = True
            mentions[thing][-1] |= bit
        elif role != _SIDE or not _is_relation(pieces, number):
            waiting |= bit


def _mention(mentions: dict[str, list[int]], thing: str, said: int) -> None:
    known = mentions.setdefault(thing, [])
    if len(known) < _MOST_MENTIONS:
        known.append(said)


def _is_relation(pieces: Sequence[_Piece], number: int) -> bool:
    """Whether a side at the head of a clause is said of the thing named last: "to the left of a box is …"."""
    followed = pieces[number + 1][0] if number + 1 < len(pieces) else ""
    return followed == "of" or pieces[number][0] in {"above", "below"}


def _bound(mentions: dict[str, list[int]]) -> list[str]:
    """A token for each thing with what is said of it: red circles share more than "red" and "circle"."""
    return [
        f"{thing} {one & aspect}"
        for thing, said in mentions.items()
        for one in said
        if one
        for aspect in _ASPECTS
        if one & aspect
    ]


def _places(mentions: dict[str, list[int]]) -> dict[int, set[str]]:
    places: dict[int, set[str]] = {}
    for thing, said in mentions.items():
        for one in said:
            if one & _ALL_SIDES:
                places.setdefault(one & _ALL_SIDES, set()).add(thing)
    return places


def _lexical(piece: str) -> _Piece:
    """A lower-case piece of text: word in normal form, what it does, tokens it stands for, what it says."""
    if not piece[0].isalnum() or piece == "and":
        return piece, _BREAK, (), 0
    if piece.endswith(("n't", "n’t")) or piece in _NEGATION_WORDS:
        return "not", _NEGATION, ("not",), 0
    piece = piece[:64].replace("’", "'").partition("'")[0]
    word = _SAME.get(piece, piece)
    if word in _FILLER_WORDS:
        return word, _FILLER, (), 0
    if word in _SIDE_BITS:
        return word, _SIDE, (word,), _SIDE_BITS[word]
    if word in _COLOUR_BITS or word.isdecimal():
        return word, _SAYING, (word,), _COLOUR_BITS.get(word) or _count_bit(int(word))
    stem = _stem(word)
    return stem, _THING, (stem, *_CONCEPTS.get(stem, ())), 0


def _count_bit(count: int) -> int:
    return 1 << _FIRST_COUNT + count if count <= _MOST_COUNTED else 0


def _stem(word: str) -> str:
    """Plurals and verb endings off: dogs, running and jumped become dog, run and jump."""
    if len(word) > 3 and word.endswith("ies"):
        word = word[:-3] + "y"
    elif len(word) > 4 and word.endswith(("ches", "shes", "xes", "sses", "zes")):
        word = word[:-2]
    elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        stem = word.removesuffix(ending)
        if stem != word and len(stem) >= 3 and any(vowel in stem for vowel in "aeiouy"):
            word = stem[:-1] if stem[-1] == stem[-2] and stem[-1] not in "lsz" else stem
            break
    word = _SAME.get(word, word)
    return word[:-1] if len(word) > 4 and word.endswith("e") else word


def _concepts() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for group, members in _GROUPS.items():
        for member in members.split():
            stem = _stem(_SAME.get(member, member))
            found[stem] = (*found.get(stem, ()), group)
    return found


_CONCEPTS = _concepts()
