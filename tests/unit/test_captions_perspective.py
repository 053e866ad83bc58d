"""Perspectives: graphcap's files load as they are, their shape is enforced, hostile answers are refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captions.perspective import (
    ANSWER_ITEMS,
    ANSWER_TEXT,
    FILE_BYTES,
    MAX_TOKENS,
    Perspective,
    PerspectiveError,
    RefusalCode,
    Refused,
    answer_schema,
    check_answer,
    clean_text,
    is_refusal,
    max_tokens,
)

LIBRARY = Path(__file__).parents[3] / "shared" / "data" / "graphcap_perspectives"
FILES = sorted(LIBRARY.glob("*/*.json"))


def perspective(*fields: dict[str, Any]) -> Perspective:
    return Perspective.parse(json.dumps({"name": "p", "prompt": "Look.", "schema_fields": list(fields)}))


CAPTION = perspective({"name": "caption", "type": "str"})
OBJECTS = perspective(
    {
        "name": "objects",
        "type": "dict",
        "is_list": True,
        "fields": [
            {"name": "shape", "type": "str", "enum": ["circle", "square"]},
            {"name": "count", "type": "int"},
            {"name": "confidence", "type": "float"},
            {"name": "lit", "type": "bool"},
        ],
    }
)
OBJECT = {"shape": "circle", "count": 2, "confidence": 0.5, "lit": True}


@pytest.mark.skipif(not FILES, reason="needs ../shared/data/graphcap_perspectives")
def test_all_of_graphcaps_library_loads_and_nested_fields_are_enforced():
    library = {path.stem: Perspective.parse(path.read_bytes()) for path in FILES}
    assert len(library) == 13
    nodes = answer_schema(library["locality_graph"])["properties"]["nodes"]
    assert nodes["items"]["required"] == ["id", "label"]
    tags = answer_schema(library["graph_caption"])["properties"]["tags_list"]["items"]
    assert tags["properties"]["confidence"] == {"type": "number", "minimum": 0, "maximum": 1}
    with pytest.raises(Refused, match="nodes has to be an object"):
        check_answer(
            {"nodes": ["a dog"], "edges": [], "composition_summary": "A dog."}, library["locality_graph"]
        )


def walk(schema: dict[str, Any]):
    yield schema
    for inner in schema.get("properties", {}).values():
        yield from walk(inner)
    if "items" in schema:
        yield from walk(schema["items"])


@pytest.mark.parametrize("given_perspective", [CAPTION, OBJECTS])
def test_every_part_of_a_schema_is_strict_and_bounded(given_perspective: Perspective):
    for part in walk(answer_schema(given_perspective)):
        match part["type"]:
            case "object":
                assert part["required"] == list(part["properties"])
                assert part["additionalProperties"] is False
            case "array":
                assert part["maxItems"] > 0
            case "string":
                assert "pattern" in part or "enum" in part
            case "number" | "integer":
                assert part["minimum"] < part["maximum"]
            case other:
                assert other == "boolean"


def test_the_pattern_takes_a_plain_caption_and_nothing_that_json_must_escape():
    pattern = re.compile(answer_schema(CAPTION)["properties"]["caption"]["pattern"])
    assert pattern.fullmatch("A dog's ball, 3 m away (left).")
    for text in ("", " blank first", 'a "quote"', "a\\b", "two\nlines", "naïve", "x" * 1_001):
        assert not pattern.fullmatch(text)


def test_the_largest_legal_answer_fits_the_tokens_and_the_cap_holds():
    assert 1_000 / 4 < max_tokens(CAPTION) < 1_000
    many = perspective(*({"name": f"f{i}", "type": "str", "is_list": True} for i in range(20)))
    assert max_tokens(many) == MAX_TOKENS


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"prompt": None}, "prompt"),
        ({"schema_fields": []}, "schema_fields"),
        ({"schema_fields": [{"name": "a", "type": "text"}]}, "schema_fields.0.type"),
        ({"schema_fields": [{"name": "a b", "type": "str"}]}, "schema_fields.0.name"),
        ({"schema_fields": [{"name": "a", "type": "dict"}]}, "schema_fields.0: is an object without"),
        ({"schema_fields": [{"name": "a", "type": "int", "enum": ["1"]}]}, "schema_fields.0: has an `enum`"),
        ({"schema_fields": [{"name": "a", "type": "str", "enum": ["x", "X"]}]}, "the same choice twice"),
        ({"schema_fields": [{"name": "a", "type": "str"}] * 2}, "names a field twice: a"),
        ({"schema_fields": [{"name": f"a{i}", "type": "str"} for i in range(65)]}, "64 is the most"),
    ],
)
def test_a_bad_file_is_refused_by_the_name_of_its_field(change: dict[str, Any], named: str):
    content = {"name": "p", "prompt": "Look.", "schema_fields": [{"name": "a", "type": "str"}], **change}
    with pytest.raises(PerspectiveError, match=re.escape(named)):
        Perspective.parse(json.dumps(content))


def test_endless_nesting_and_endless_files_are_refused():
    field: dict[str, Any] = {"name": "a", "type": "str"}
    for _ in range(4):
        field = {"name": "a", "type": "dict", "fields": [field]}
    with pytest.raises(PerspectiveError, match="4 is the most"):
        perspective(field)
    with pytest.raises(PerspectiveError):
        Perspective.parse(b'{"schema_fields":' + b'[{"fields":' * 5_000)
    with pytest.raises(PerspectiveError, match="longer than"):
        Perspective.parse(" " * (FILE_BYTES + 1))


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_no_file_crashes_the_parser(text: str | bytes):
    with pytest.raises(PerspectiveError):
        Perspective.parse(text)


def test_an_answer_comes_out_in_normal_form():
    answer = check_answer({"extra": 1, "caption": "\u0000 Cafe\u0301\tter\ud800race \u202e"}, CAPTION)
    assert answer == {"caption": "Caf\u00e9 terrace"}
    assert check_answer({"objects": [OBJECT | {"shape": " Circle ", "count": 2.0}]}, OBJECTS) == {
        "objects": [OBJECT]
    }


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ([], RefusalCode.SCHEMA),
        ({}, RefusalCode.SCHEMA),
        ({"caption": None}, RefusalCode.SCHEMA),
        ({"caption": 3}, RefusalCode.SCHEMA),
        ({"caption": " … "}, RefusalCode.EMPTY),
        ({"caption": "\ud800"}, RefusalCode.EMPTY),
        ({"caption": "x" * (ANSWER_TEXT + 1)}, RefusalCode.TOO_LONG),
        ({"caption": "I'm sorry, but I can't help with that."}, RefusalCode.REFUSAL),
    ],
)
def test_a_bad_caption_is_refused_by_code(answer: object, code: RefusalCode):
    with pytest.raises(Refused) as refusal:
        check_answer(answer, CAPTION)
    assert refusal.value.code == code


@pytest.mark.parametrize(
    "change",
    [
        {"shape": "star"},
        {"count": True},
        {"count": 1.5},
        {"count": 10**400},
        {"confidence": float("nan")},
        {"confidence": 1.1},
        {"confidence": float("inf")},
        {"lit": 1},
    ],
)
def test_a_value_of_another_kind_or_out_of_bounds_is_refused(change: dict[str, object]):
    with pytest.raises(Refused) as refusal:
        check_answer({"objects": [OBJECT | change]}, OBJECTS)
    assert refusal.value.code == RefusalCode.SCHEMA


def test_too_many_items_and_too_many_bytes_are_refused():
    with pytest.raises(Refused, match="too_long"):
        check_answer({"objects": [OBJECT] * (ANSWER_ITEMS + 1)}, OBJECTS)
    wide = perspective(*({"name": f"f{i}", "type": "str"} for i in range(9)))
    with pytest.raises(Refused, match="too_long"):
        check_answer({f"f{i}": "x" * ANSWER_TEXT for i in range(9)}, wide)


@given(st.text(max_size=60))
def test_cleaning_twice_changes_nothing_more(text: str):
    assert clean_text(clean_text(text)) == clean_text(text)


@pytest.mark.parametrize(
    ("text", "declined"),
    [
        ("I’m sorry, I cannot view images.", True),
        ("As an AI language model, I have no eyes.", True),
        ("Unfortunately, I am unable to see it.", True),
        ("I can't describe the image", True),
        ("A sorry-looking dog can't jump over the fence.", False),
        ("I cannot see the left half of the sign.", False),
        ("As a man runs, a dog follows.", False),
    ],
)
def test_a_declining_model_is_told_from_a_caption(text: str, declined: bool):
    assert is_refusal(text) is declined
