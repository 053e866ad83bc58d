"""How far two answers agree: texts by their words, facts by being equal, lists by their best pairing."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias, assert_never

from captions.background import Background
from captions.perspective import FieldKind, Perspective, SchemaField
from captions.words import Words, read, read_tokens

# The odds that two answers describe one image, by their similarity: _LEAST + (similarity / _EVEN) ** 2.
# Fitted to pairs of captions by real models.
_LEAST, _EVEN = 0.12, 0.12
_CONTRADICTED = 0.05  # the most similarity that a contradiction leaves
_MOST_PAIRED = 16  # items of a list: all are compared with all, and lists may hold lists


@dataclass(frozen=True, slots=True)
class Fact:
    """A choice or a truth: equal, or contradicted."""

    value: str


@dataclass(frozen=True, slots=True)
class Amount:
    """A number: the closer, the more alike."""

    value: float


@dataclass(frozen=True, slots=True)
class Facts:
    """A list whose items are made of facts and numbers alone, each written as one token."""

    items: Counter[str]


@dataclass(frozen=True, slots=True)
class Items:
    """A list of objects that hold texts."""

    values: tuple["Value", ...]


@dataclass(frozen=True, slots=True)
class Record:
    """An object: the values of its fields, confidences left out."""

    values: tuple["Value", ...]


_Checked: TypeAlias = Any  # of the shape that `check_answer` has assured
Value = Words | Fact | Amount | Facts | Items | Record


@dataclass(frozen=True, slots=True)
class Features:
    """An answer prepared for comparison, once.

    `tokens` is all that it says, for the background. `is_open` tells an answer in the model's own words, or
    a list of things, from a mere choice among few values, which other images' answers share anyway.
    """

    value: Value
    tokens: frozenset[str]
    is_open: bool


def features(answer: Mapping[str, Any], perspective: Perspective, *, lexical: bool = False) -> Features:
    """Prepares an answer that `check_answer` has passed.

    With `lexical` texts are compared by their words alone, which is cheaper: who is red and what stands left
    of what makes no difference.
    """
    value = _record(answer, perspective.schema_fields, read_tokens if lexical else read)
    return Features(value, _tokens(value, ""), _is_open(value))


_Reader = Callable[[Iterable[str]], Words]


def _record(answer: Mapping[str, Any], fields: Sequence[SchemaField], reader: _Reader) -> Value:
    values = tuple(_field(answer[field.name], field, reader) for field in fields if not field.is_confidence)
    return values[0] if len(values) == 1 else Record(values)


def _field(value: _Checked, field: SchemaField, reader: _Reader) -> Value:
    if not field.is_list:
        return _value(value, field, reader)
    if field.kind is FieldKind.TEXT:
        return reader(value)
    if _is_factual(field):
        return Facts(Counter(_written(item, field) for item in value))
    return Items(tuple(_value(item, field, reader) for item in value))


def _is_factual(field: SchemaField) -> bool:
    if field.kind is FieldKind.OBJECT:
        return all(_is_factual(inner) and not inner.is_list for inner in field.fields)
    return field.kind is not FieldKind.TEXT


def _written(value: _Checked, field: SchemaField) -> str:
    if field.kind is FieldKind.OBJECT:
        return "; ".join(
            f"{f.name}: {_written(value[f.name], f)}" for f in field.fields if not f.is_confidence
        )
    return str(value)


def _value(value: _Checked, field: SchemaField, reader: _Reader) -> Value:
    match field.kind:
        case FieldKind.TEXT:
            return reader((value,))
        case FieldKind.CHOICE | FieldKind.TRUTH:
            return Fact(str(value))
        case FieldKind.INTEGER | FieldKind.NUMBER:
            return Amount(float(value))
        case FieldKind.OBJECT:
            return _record(value, field.fields, reader)
        case _ as never:
            assert_never(never)


def _tokens(value: Value, place: str) -> frozenset[str]:
    match value:
        case Words():
            return value.tokens
        case Fact() | Amount():
            return frozenset((f"{place}={value.value}",))
        case Facts():
            return frozenset(f"{place}={item}" for item in value.items or ("nothing",))
        case Items():
            return frozenset().union(*(_tokens(item, place) for item in value.values))
        case Record():
            inner = (_tokens(one, f"{place}.{number}") for number, one in enumerate(value.values))
            return frozenset().union(*inner)
        case _ as never:
            assert_never(never)


def _is_open(value: Value) -> bool:
    match value:
        case Words():
            return bool(value.tokens)
        case Fact() | Amount():
            return False
        case Facts():
            return bool(value.items)
        case Items() | Record():
            return any(map(_is_open, value.values))
        case _ as never:
            assert_never(never)


def agreement_odds(a: Features, b: Features, background: Background) -> float:
    """The odds that the answers describe one image, not two: 0.12 with nothing shared, 70 where equal."""
    similarity, contradicted = _alike(a.value, b.value, background)
    if contradicted:
        similarity = min(similarity, _CONTRADICTED)
    return _LEAST + (similarity / _EVEN) ** 2


def answer_agreement(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    perspective: Perspective,
    background: Background | None = None,
) -> float:
    """The probability, in [0, 1], that two checked answers describe one image, field by field."""
    background = background or Background(Random(0))  # noqa: S311 - never drawn from: nothing is added
    odds = agreement_odds(features(a, perspective), features(b, perspective), background)
    return odds / (1 + odds)


def text_agreement(a: str, b: str, background: Background | None = None) -> float:
    """The probability, in [0, 1], that two texts describe one image, where one or two is as likely."""
    background = background or Background(Random(0))  # noqa: S311 - never drawn from: nothing is added
    ours, theirs = read((a,)), read((b,))
    odds = agreement_odds(
        Features(ours, ours.tokens, is_open=True), Features(theirs, theirs.tokens, is_open=True), background
    )
    return odds / (1 + odds)


def _alike(a: Value, b: Value, background: Background) -> tuple[float, bool]:
    """Similarity in [0, 1], and whether the values cannot both be true."""
    match a, b:
        case Words(), Words():
            alike = _words_alike(a, b, background)
            return alike, alike > _CONTRADICTED and a.contradicts(b)
        case Fact(), Fact():
            return float(a.value == b.value), a.value != b.value
        case Amount(), Amount():
            return _amounts_alike(a.value, b.value), False
        case Facts(), Facts():
            return _facts_alike(a.items, b.items)
        case Items(), Items():
            return _items_alike(a.values, b.values, background), False
        case Record(), Record():
            pairs = [
                _alike(ours, theirs, background) for ours, theirs in zip(a.values, b.values, strict=True)
            ]
            mean = sum(alike for alike, _ in pairs) / max(1, len(pairs))
            return mean, any(apart for _, apart in pairs)
        case _:
            raise TypeError("answers of two perspectives cannot be compared")


def _amounts_alike(a: float, b: float) -> float:
    """1 where equal, 0 from a quarter apart: three and four are not alike."""
    return max(0.0, 1 - 4 * abs(a - b) / (max(abs(a), abs(b)) or 1))


def _words_alike(a: Words, b: Words, background: Background) -> float:
    weight = background.weights.__getitem__
    whole = sum(map(weight, a.tokens)) * sum(map(weight, b.tokens))
    if not whole:
        return float(a.tokens == b.tokens)
    return min(1.0, sum(map(weight, a.tokens & b.tokens)) / math.sqrt(whole))


def _facts_alike(a: Counter[str], b: Counter[str]) -> tuple[float, bool]:
    if a == b:
        return 1.0, False
    shared = (a & b).total()
    return (2 * shared / (a.total() + b.total())) ** 4, shared < min(a.total(), b.total())


def _items_alike(a: Sequence[Value], b: Sequence[Value], background: Background) -> float:
    if not a and not b:
        return 1.0
    pairs = []
    for i, ours in enumerate(a[:_MOST_PAIRED]):
        for j, theirs in enumerate(b[:_MOST_PAIRED]):
            alike, apart = _alike(ours, theirs, background)
            pairs.append((min(alike, _CONTRADICTED) if apart else alike, i, j))
    free_a, free_b, total = set(range(len(a))), set(range(len(b))), 0.0
    for alike, i, j in sorted(pairs, reverse=True):
        if i in free_a and j in free_b:
            free_a.remove(i)
            free_b.remove(j)
            total += alike
    return 2 * total / (len(a) + len(b))
