"""Tasks: named by what they hold, and a prompt that says which JSON is wanted."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captions.perspective import Perspective
from captions.task import BODY_BYTES, Task, TaskError

PERSPECTIVE = Perspective.parse(
    json.dumps(
        {
            "name": "p",
            "prompt": "Look at the café. ",
            "schema_fields": [
                {"name": "caption", "type": "str", "description": "One sentence"},
                {
                    "name": "tags",
                    "type": "dict",
                    "is_list": True,
                    "fields": [
                        {"name": "kind", "type": "str", "enum": ["animal", "thing"]},
                        {"name": "confidence", "type": "float"},
                    ],
                },
            ],
        }
    )
)


def test_a_task_survives_the_wire_with_its_digest():
    task = Task.of(PERSPECTIVE, temperature=0.7)
    again = Task.parse(task.body())
    assert again == task
    canonical = json.dumps(json.loads(task.body()), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert task.body() == canonical.encode()
    assert again.digest == task.digest == hashlib.sha256(task.body()).digest()


def test_any_change_of_what_is_asked_changes_the_digest():
    task = Task.of(PERSPECTIVE)
    others = [
        Task.of(PERSPECTIVE, temperature=0.31),
        Task.of(PERSPECTIVE, top_p=0.9),
        task.model_copy(update={"max_tokens": 7}),
        Task.of(PERSPECTIVE.model_copy(update={"prompt": "Look."})),
    ]
    assert len({other.body() for other in (task, *others)}) == 5


def test_the_prompt_says_which_json_is_wanted():
    assert Task.of(PERSPECTIVE).prompt() == (
        "Look at the café.\n\n"
        "Answer with one JSON object and nothing else. It has all of these fields:\n"
        '- "caption": text. One sentence\n'
        '- "tags": a list of objects with the fields below\n'
        '  - "kind": text, only one of: animal, thing\n'
        '  - "confidence": number from 0 to 1'
    )


def test_parameters_of_a_later_version_are_refused_not_ignored():
    with pytest.raises(TaskError, match="update the client"):
        Task.of(PERSPECTIVE).prompt('{"context": "a title"}')


def test_a_task_too_long_or_out_of_bounds_is_refused():
    with pytest.raises(TaskError, match="is the most"):
        Task.parse(b" " * (BODY_BYTES + 1))
    body = json.loads(Task.of(PERSPECTIVE).body()) | {"temperature": 9}
    with pytest.raises(TaskError, match="less than or equal to 2"):
        Task.parse(json.dumps(body).encode())


@given(st.binary(max_size=200))
def test_no_body_crashes_the_parser(body: bytes):
    with pytest.raises(TaskError):
        Task.parse(body)
