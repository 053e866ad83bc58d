"""A perspective: a named prompt and the shape of its answer, in graphcap's file format."""

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal, Self, assert_never

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

FILE_BYTES = 64 * 1024
MAX_FIELDS = 64
MAX_DEPTH = 4
MAX_TOKENS = 4096

# What the schema asks of a model. A text on its own may be longer than one inside a list.
SCHEMA_TEXT = 1_000
SCHEMA_ITEM_TEXT = 200
SCHEMA_ITEMS = 16
NUMBER_LIMIT = 1_000_000

# What is taken from a server that does not enforce schemas.
ANSWER_TEXT = 4_000
ANSWER_ITEMS = 64
ANSWER_BYTES = 32 * 1024

# Printable ASCII without `"`, `\`, `[` and `]`: no character needs an escape in JSON or in any
# server's reading of regular expressions. The first is no space, so that no text is blank.
_INK = "[!#-Z^-~]"
_INK_OR_SPACE = "[ !#-Z^-~]"

# Characters that no text needs: bidirectional overrides, byte order marks, invisible separators.
_INVISIBLE = frozenset("\u200b\u200e\u200f\u2028\u2029\u2060\ufeff") | {
    chr(code) for start, end in ((0x202A, 0x202F), (0x2066, 0x206A)) for code in range(start, end)
}

_CANNOT = r"(?:can(?:no|['’])?t|unable|not able|won['’]?t)"
_REFUSAL = re.compile(
    r"\W*(?:"
    rf"(?:i ?['’]?m|i am|we are) (?:\w+ )?sorry\b.{{0,40}}?\b{_CANNOT}"
    rf"|(?:sorry|unfortunately|(?:my )?apologies)\b.{{0,20}}?\bi(?:['’]m| am)? {_CANNOT}"
    r"|as an? (?:ai|artificial|language|text-based)\b"
    rf"|i(?:['’]m| am)? {_CANNOT} (?:to )?(?:\w+ )?(?:help|assist|comply|fulfil|process|view|access"
    r"|analy[sz]e|open|display|do that|provide|caption|describe)"
    r"|i (?:don['’]?t|do not) (?:actually )?see (?:an|any) (?:image|picture|photo)"
    r"|(?:no|there is no) (?:image|picture|photo) (?:(?:was|is|has been) )?(?:provided|attached|given)"
    r")",
    re.IGNORECASE | re.DOTALL,
)


class PerspectiveError(ValueError):
    """A perspective file that cannot be used; the message names the field and says what to change."""


class RefusalCode(StrEnum):
    """Why an answer was not taken: stable, for machines."""

    EMPTY = "empty"  # nothing was said, in all or in one field
    NOT_JSON = "not_json"  # no JSON object could be found
    SCHEMA = "schema"  # an object, but not of the perspective's shape
    TOO_LONG = "too_long"  # beyond what a caption can need
    REFUSAL = "refusal"  # the model declined: "I'm sorry, I can't …"


class Refused(Exception):  # noqa: N818 - the protocol's word for it, as in "a result is refused"
    """An answer that is not taken. `code` is stable; `detail` is for a person and names the field."""

    def __init__(self, code: RefusalCode, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class FieldKind(StrEnum):
    """What one value of a field is, whatever its file calls it."""

    TEXT = "text"
    CHOICE = "choice"
    INTEGER = "integer"
    NUMBER = "number"
    TRUTH = "truth"
    OBJECT = "object"


class SchemaField(BaseModel):
    """One field of an answer. `enum` is our own extension: the only texts that the field may hold."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")
    type: Literal["str", "int", "float", "bool", "dict"]
    description: str = Field(default="", max_length=1_000)
    is_list: bool = False
    is_complex: bool = False
    fields: tuple["SchemaField", ...] = ()
    enum: tuple[str, ...] = Field(default=(), max_length=64)

    @field_validator("fields", "enum", mode="before")
    @classmethod
    def _null_is_none_given(cls, value: object) -> object:
        return () if value is None else value

    @model_validator(mode="after")
    def _shape_is_whole(self) -> Self:
        if (self.type == "dict" or self.is_complex) and not self.fields:
            raise ValueError("is an object without `fields`: list them, or make it a str")
        if self.enum and (self.type != "str" or self.fields):
            raise ValueError("has an `enum`, which only a plain str may have")
        if any(not choice or clean_text(choice) != choice or len(choice) > 200 for choice in self.enum):
            raise ValueError("has a choice in `enum` that is empty, longer than 200 or not clean text")
        if len({choice.casefold() for choice in self.enum}) < len(self.enum):
            raise ValueError("has the same choice twice in `enum`")
        _refuse_twins(self.fields)
        return self

    @cached_property
    def kind(self) -> FieldKind:
        """A field with sub-fields is an object, even where the file calls it a str."""
        if self.fields:
            return FieldKind.OBJECT
        match self.type:
            case "str":
                return FieldKind.CHOICE if self.enum else FieldKind.TEXT
            case "int":
                return FieldKind.INTEGER
            case "float":
                return FieldKind.NUMBER
            case "bool":
                return FieldKind.TRUTH
            case "dict":
                return FieldKind.OBJECT
            case _ as never:
                assert_never(never)

    @cached_property
    def is_confidence(self) -> bool:
        """Whether this number is the model's own confidence, in [0, 1]."""
        return self.kind is FieldKind.NUMBER and "confidence" in self.name.lower()


class TableColumn(BaseModel):
    """How graphcap prints one column; kept, not used."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    style: str = ""


class Perspective(BaseModel):
    """A perspective as graphcap's library files have it; keys that we do not know are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")
    display_name: str = ""
    version: str = Field(default="1", min_length=1, max_length=32)
    prompt: str = Field(min_length=1, max_length=16_000)
    schema_fields: tuple[SchemaField, ...] = Field(min_length=1)
    table_columns: tuple[TableColumn, ...] = ()
    context_template: str = ""
    module: str = "default"
    type: str = "perspective"
    tags: tuple[str, ...] = ()
    description: str = ""
    deprecated: bool = False
    replacement: str | None = None
    priority: int = 100

    @model_validator(mode="after")
    def _is_bounded(self) -> Self:
        _refuse_twins(self.schema_fields)
        depths = [depth for depth, _ in _walk(self.schema_fields)]
        if len(depths) > MAX_FIELDS:
            raise ValueError(f"has {len(depths)} fields: {MAX_FIELDS} is the most")
        if max(depths) > MAX_DEPTH:
            raise ValueError(f"nests fields {max(depths)} deep: {MAX_DEPTH} is the most")
        return self

    @classmethod
    def parse(cls, text: str | bytes) -> "Perspective":
        """Reads a perspective file (JSON, at most 64 KiB). Raises PerspectiveError, naming the field."""
        if len(text) > FILE_BYTES:
            raise PerspectiveError(f"the perspective is longer than {FILE_BYTES} bytes")
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise PerspectiveError(_first_fault(error)) from None


def _refuse_twins(fields: tuple[SchemaField, ...]) -> None:
    names = [field.name for field in fields]
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise ValueError(f"names a field twice: {', '.join(twins)}")


def _walk(fields: tuple[SchemaField, ...], depth: int = 1) -> Iterator[tuple[int, SchemaField]]:
    for field in fields:
        yield depth, field
        yield from _walk(field.fields, depth + 1)


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(step) for step in fault["loc"]) or "the perspective"
    return f"{place}: {fault['msg'].removeprefix('Value error, ')}"


def answer_schema(perspective: Perspective) -> dict[str, Any]:
    """The strict JSON schema that a model's answer is asked to keep, in the form every server takes."""
    return _object_schema(perspective.schema_fields, SCHEMA_TEXT)


def _object_schema(fields: tuple[SchemaField, ...], text: int) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {field.name: _field_schema(field, text) for field in fields},
        "required": [field.name for field in fields],
        "additionalProperties": False,
    }


def _field_schema(field: SchemaField, text: int) -> dict[str, Any]:
    if field.is_list:
        return {"type": "array", "items": _value_schema(field, SCHEMA_ITEM_TEXT), "maxItems": SCHEMA_ITEMS}
    return _value_schema(field, text)


def _value_schema(field: SchemaField, text: int) -> dict[str, Any]:
    match field.kind:
        case FieldKind.TEXT:
            return {"type": "string", "pattern": f"^{_INK}{_INK_OR_SPACE}{{0,{text - 1}}}$"}
        case FieldKind.CHOICE:
            return {"type": "string", "enum": list(field.enum)}
        case FieldKind.INTEGER:
            return {"type": "integer", "minimum": -NUMBER_LIMIT, "maximum": NUMBER_LIMIT}
        case FieldKind.NUMBER:
            low, high = _number_range(field)
            return {"type": "number", "minimum": low, "maximum": high}
        case FieldKind.TRUTH:
            return {"type": "boolean"}
        case FieldKind.OBJECT:
            return _object_schema(field.fields, SCHEMA_ITEM_TEXT)
        case _ as never:
            assert_never(never)


def _number_range(field: SchemaField) -> tuple[int, int]:
    return (0, 1) if field.is_confidence else (-NUMBER_LIMIT, NUMBER_LIMIT)


def max_tokens(perspective: Perspective) -> int:
    """Tokens that hold the largest answer the schema allows, at 3 characters a token; at most 4,096."""
    characters = _object_size(perspective.schema_fields, SCHEMA_TEXT)
    return min(MAX_TOKENS, max(64, math.ceil(characters / 3)))


def _object_size(fields: tuple[SchemaField, ...], text: int) -> int:
    return 2 + sum(len(field.name) + 6 + _field_size(field, text) for field in fields)


def _field_size(field: SchemaField, text: int) -> int:
    if field.is_list:
        return 2 + SCHEMA_ITEMS * (2 + _value_size(field, SCHEMA_ITEM_TEXT))
    return _value_size(field, text)


def _value_size(field: SchemaField, text: int) -> int:
    match field.kind:
        case FieldKind.TEXT:
            return text + 2
        case FieldKind.CHOICE:
            return 2 + max(len(choice) for choice in field.enum)
        case FieldKind.INTEGER | FieldKind.NUMBER:
            return 12
        case FieldKind.TRUTH:
            return 5
        case FieldKind.OBJECT:
            return _object_size(field.fields, SCHEMA_ITEM_TEXT)
        case _ as never:
            assert_never(never)


def clean_text(text: str) -> str:
    """NFC, without control, surrogate and invisible characters, tabs as spaces, stripped; lines are kept."""
    if text.isascii() and text.isprintable():
        return text.strip()
    text = text.replace("\r\n", "\n").replace("\t", " ")
    kept = "".join(character for character in text if character == "\n" or _is_wanted(character))
    return unicodedata.normalize("NFC", kept).strip()


def _is_wanted(character: str) -> bool:
    return unicodedata.category(character) not in {"Cc", "Cs"} and character not in _INVISIBLE


def is_refusal(text: str) -> bool:
    """Whether a text starts as a model starts when it declines to answer."""
    return _REFUSAL.match(text) is not None


def check_answer(answer: object, perspective: Perspective) -> dict[str, Any]:
    """The answer in normal form: the perspective's fields in its order, texts cleaned, others dropped.

    Independent of the schema's ASCII pattern; bounds are wider. Raises Refused on anything else.
    """
    checked = _check_object(answer, perspective.schema_fields, "answer")
    size = _size_of(checked)
    if size > ANSWER_BYTES:
        raise Refused(RefusalCode.TOO_LONG, f"the answer has {size} bytes: {ANSWER_BYTES} is the most")
    return checked


def _check_object(value: object, fields: tuple[SchemaField, ...], place: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise Refused(RefusalCode.SCHEMA, f"{place} has to be an object")
    for field in fields:
        if field.name not in value:
            raise Refused(RefusalCode.SCHEMA, f"{place} lacks {field.name}")
    return {field.name: _check_field(value[field.name], field, f"{place}.{field.name}") for field in fields}


def _check_field(value: object, field: SchemaField, place: str) -> object:
    if not field.is_list:
        return _check_value(value, field, place)
    if not isinstance(value, list):
        raise Refused(RefusalCode.SCHEMA, f"{place} has to be a list")
    if len(value) > ANSWER_ITEMS:
        raise Refused(RefusalCode.TOO_LONG, f"{place} has {len(value)} items: {ANSWER_ITEMS} is the most")
    return [_check_value(item, field, place) for item in value]


def _check_value(value: object, field: SchemaField, place: str) -> object:
    match field.kind:
        case FieldKind.TEXT:
            return _check_text(value, place)
        case FieldKind.CHOICE:
            return _check_choice(value, field, place)
        case FieldKind.INTEGER:
            return int(_check_number(value, field, place, whole=True))
        case FieldKind.NUMBER:
            return float(_check_number(value, field, place, whole=False))
        case FieldKind.TRUTH:
            if not isinstance(value, bool):
                raise Refused(RefusalCode.SCHEMA, f"{place} has to be true or false")
            return value
        case FieldKind.OBJECT:
            return _check_object(value, field.fields, place)
        case _ as never:
            assert_never(never)


def _check_text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise Refused(RefusalCode.SCHEMA, f"{place} has to be a text")
    if len(value) > ANSWER_TEXT:
        raise Refused(RefusalCode.TOO_LONG, f"{place} has {len(value)} characters: {ANSWER_TEXT} is the most")
    text = clean_text(value)
    if not any(character.isalnum() for character in text):
        raise Refused(RefusalCode.EMPTY, f"{place} says nothing")
    if is_refusal(text):
        raise Refused(RefusalCode.REFUSAL, f"{place}: the model declined: {text[:80]}")
    return text


def _check_choice(value: object, field: SchemaField, place: str) -> str:
    if isinstance(value, str) and len(value) <= ANSWER_TEXT:
        said = clean_text(value).casefold()
        for choice in field.enum:
            if choice.casefold() == said:
                return choice
    raise Refused(RefusalCode.SCHEMA, f"{place} has to be one of {', '.join(field.enum)}")


def _check_number(value: object, field: SchemaField, place: str, *, whole: bool) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refused(RefusalCode.SCHEMA, f"{place} has to be a number")
    low, high = _number_range(field)
    if not low <= value <= high:
        raise Refused(RefusalCode.SCHEMA, f"{place} has to be between {low} and {high}")
    if whole and value != int(value):
        raise Refused(RefusalCode.SCHEMA, f"{place} has to be a whole number")
    return value


def _size_of(value: object) -> int:
    match value:
        case str():
            return len(value.encode()) + 2
        case dict():
            return sum(len(name) + 3 + _size_of(item) for name, item in value.items())
        case list():
            return sum(1 + _size_of(item) for item in value)
        case _:
            return 8
