"""Model text: whatever a model writes ends as a valid answer or as a named refusal."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captions.answer import TEXT_CHARACTERS, decode_answer, encode_answer, parse_answer
from captions.perspective import Perspective, RefusalCode, Refused, check_answer
from captions.task import Task


def task(*fields: dict[str, Any]) -> Task:
    content = {"name": "p", "prompt": "Look.", "schema_fields": list(fields)}
    return Task.of(Perspective.parse(json.dumps(content)))


CAPTION = task({"name": "caption", "type": "str"})
TWO = task(
    {"name": "caption", "type": "str"},
    {"name": "people", "type": "int"},
    {"name": "tags", "type": "str", "is_list": True},
)
DOG = {"caption": "A dog runs."}


@pytest.mark.parametrize(
    "text",
    [
        '{"caption": "A dog runs."}',
        ' {"caption": "A dog\u0007 runs.\t"} \u0000',
        '<think>\nIt {looks} like a dog.\n</think>\n\n{"caption": "A dog runs."}',
        'It is a dog.</think>{"caption": "A dog runs."}',
        'Sure! Here it is:\n```json\n{"caption": "A dog runs."}\n```\nAnything else?',
        'The set {1, 2} and {"thought": 1} aside: {"caption": "A dog runs."} {"caption": "No."}',
        '{"caption": "A dog runs.", "extra": [1, {"a": NaN}]}',
        "A dog runs.",
        '"A dog runs."',
        "```\nA dog runs.\n```",
    ],
)
def test_an_answer_is_found_wherever_models_put_it(text: str):
    assert parse_answer(text, CAPTION) == DOG


def test_a_raw_line_break_inside_a_text_is_kept():
    assert parse_answer('{"caption": "A dog\n runs."}', CAPTION) == {"caption": "A dog\n runs."}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", RefusalCode.EMPTY),
        (" \n\t ", RefusalCode.EMPTY),
        ("<think>hm, a dog", RefusalCode.EMPTY),
        ("<think>hm</think>", RefusalCode.EMPTY),
        ('{"caption": "A dog', RefusalCode.NOT_JSON),
        ('{"caption": "A dog runs.", oops', RefusalCode.NOT_JSON),
        ("<html><body>502 Bad Gateway</body></html>", RefusalCode.NOT_JSON),
        ("[]", RefusalCode.SCHEMA),
        ("3", RefusalCode.SCHEMA),
        ("null", RefusalCode.SCHEMA),
        ('{"caption": "A dog.", "caption": "A cat."}', RefusalCode.SCHEMA),
        ('{"caption": ' + "9" * 5_000 + "}", RefusalCode.NOT_JSON),
        ('{"caption": ' + "[" * 20_000, RefusalCode.NOT_JSON),
        ("[" * 50_000, RefusalCode.NOT_JSON),
        ("I'm sorry, but I can't help with that.", RefusalCode.REFUSAL),
        ('{"caption": "I\'m sorry, but I can\'t help with that."}', RefusalCode.REFUSAL),
        ("x" * (TEXT_CHARACTERS + 1), RefusalCode.TOO_LONG),
    ],
)
def test_what_is_no_answer_is_refused_by_code(text: str, code: RefusalCode):
    with pytest.raises(Refused) as refusal:
        parse_answer(text, CAPTION)
    assert refusal.value.code == code


def test_prose_is_not_taken_where_more_than_one_text_is_wanted():
    with pytest.raises(Refused, match="not_json"):
        parse_answer("A dog runs.", TWO)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["caption", "people", "tags", "x"]), inner, max_size=4)
    ),
)
wrapped = st.tuples(
    st.sampled_from(["", "<think>", "</think>", "```json\n", "{", "Sure: ", '"', "\x00"]),
    anything.map(json.dumps) | st.text(),
    st.sampled_from(["", "\n```", "}", "</think>", '"', " ok"]),
).map("".join)


@given(st.text() | wrapped)
def test_no_text_crashes_the_parser(text: str):
    for asked in (CAPTION, TWO):
        answer = None
        with suppress(Refused):
            answer = parse_answer(text, asked)
        if answer is not None:
            assert decode_answer(encode_answer(answer), asked.perspective) == (answer, True)


@given(st.binary(max_size=300) | wrapped.map(lambda text: text.encode(errors="replace")))
def test_no_bytes_of_a_host_crash_the_reader(body: bytes):
    answer = None
    with suppress(Refused):
        answer, _ = decode_answer(body, TWO.perspective)
    if answer is not None:
        assert check_answer(answer, TWO.perspective) == answer


def test_a_host_sends_one_object_and_nothing_around_it():
    assert decode_answer(encode_answer(DOG), CAPTION.perspective) == (DOG, True)
    for body in (b'Sure: {"caption": "A dog."}', b"A dog.", b"\xff", b"[" * 40_000):
        with pytest.raises(Refused, match="not_json"):
            decode_answer(body, CAPTION.perspective)
    with pytest.raises(Refused, match="too_long"):
        decode_answer(b" " * 70_000, CAPTION.perspective)
