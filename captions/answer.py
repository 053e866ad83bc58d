"""What a model wrote, turned into an answer or a named refusal."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from captions.perspective import (
    ANSWER_BYTES,
    FieldKind,
    Perspective,
    RefusalCode,
    Refused,
    check_answer,
    clean_text,
    is_refusal,
)
from captions.task import Task

TEXT_CHARACTERS = 4 * ANSWER_BYTES  # room for thinking and escapes around the largest answer
_MAX_STARTS = 16


def encode_answer(answer: Mapping[str, Any]) -> bytes:
    """The bytes that are signed and sent: compact UTF-8 JSON in the order of the fields."""
    return json.dumps(answer, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


class Decoded(NamedTuple):
    """An answer in normal form, and whether its bytes say just that: nothing more, and in no other way."""

    answer: dict[str, Any]
    is_normal: bool


def decode_answer(body: bytes, perspective: Perspective) -> Decoded:
    """Reads and checks bytes that a host sent; takes one JSON object, nothing around it. Raises Refused."""
    if len(body) > 2 * ANSWER_BYTES:
        raise Refused(RefusalCode.TOO_LONG, f"the answer has {len(body)} bytes")
    try:
        value = _DECODER.decode(body.decode())
    except (ValueError, RecursionError):
        raise Refused(RefusalCode.NOT_JSON, "the answer is not one JSON object in UTF-8") from None
    answer = check_answer(value, perspective)
    return Decoded(answer, is_normal=repr(value) == repr(answer))  # which tells 1 from 1.0, and any order


def parse_answer(text: str, task: Task) -> dict[str, Any]:
    """Finds the answer in what a model wrote: bare JSON, or JSON after thinking, in a fence or amid talk.

    Where the perspective wants a single text, plain prose is taken as that text. Raises Refused.
    """
    if len(text) > TEXT_CHARACTERS:
        raise Refused(RefusalCode.TOO_LONG, f"the model wrote {len(text)} characters")
    if not text.strip():
        raise Refused(RefusalCode.EMPTY, "the model wrote nothing")
    for candidate in (text, clean_text(text)):
        try:
            return _checked(_DECODER.decode(candidate), task.perspective)
        except (ValueError, RecursionError):
            continue
    spoken = _without_fence(_without_thinking(clean_text(text)))
    found = _first_object(spoken, task.perspective)
    if found is not None:
        return check_answer(found, task.perspective)
    return _from_prose(spoken, task.perspective)


def _checked(value: object, perspective: Perspective) -> dict[str, Any]:
    return _from_prose(value, perspective) if isinstance(value, str) else check_answer(value, perspective)


def _without_thinking(text: str) -> str:
    # Some chat templates open <think> in the prompt, so that only its end is in the answer.
    spoken = text.rpartition("</think>")[2].strip()
    if not spoken or spoken.startswith("<think>"):
        raise Refused(RefusalCode.EMPTY, "the model only thought: give it more tokens or turn thinking off")
    return spoken


def _without_fence(text: str) -> str:
    if not text.startswith("```"):
        return text
    return text.partition("\n")[2].strip().removesuffix("```").strip()


def _first_object(text: str, perspective: Perspective) -> dict[str, Any] | None:
    """The first JSON object in a text that has a field of the perspective at all."""
    wanted = {field.name for field in perspective.schema_fields}
    start = -1
    for _ in range(_MAX_STARTS):
        start = text.find("{", start + 1)
        if start < 0:
            return None
        try:
            value, _ = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and not wanted.isdisjoint(value):
            return value
    return None


def _from_prose(text: str, perspective: Perspective) -> dict[str, Any]:
    if is_refusal(text):
        raise Refused(RefusalCode.REFUSAL, f"the model declined: {text[:80]}")
    field = perspective.schema_fields[0]
    single = len(perspective.schema_fields) == 1 and field.kind is FieldKind.TEXT and not field.is_list
    # A brace or a leading bracket means JSON that broke, a leading "<" a web page: no captions.
    if not single or "{" in text or "}" in text or text.startswith(("<", "[")):
        raise Refused(RefusalCode.NOT_JSON, "there is no whole JSON object in what the model wrote")
    return check_answer({field.name: text}, perspective)


def _once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise Refused(RefusalCode.SCHEMA, "the answer gives one field twice")
    return value


_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_once_each)
