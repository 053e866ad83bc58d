"""The demo's model servers see, err as told, survive hostile requests and leave with their parent."""

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captions.answer import parse_answer
from captions.perspective import Perspective, answer_schema
from captions.task import Task
from chorus.demo import reader as readers
from chorus.demo.reader import Behaviour, Form, Reader
from chorus.demo.report import judge_caption, judge_objects
from chorus.demo.scenes import make_scenes, render

SCENES = make_scenes(30, seed=21)
PICTURES = [render(scene) for scene in SCENES]
FOLDER = Path(readers.__file__).parent / "perspectives"


def _task(name: str) -> Task:
    return Task.of(Perspective.parse((FOLDER / f"{name}.json").read_bytes()))


CAPTION, OBJECTS = _task("scene_caption"), _task("scene_objects")


@contextlib.contextmanager
def _server(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "chorus.demo.reader", "--model", "eye", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
        finally:
            process.kill()


@pytest.fixture(scope="module")
def client() -> Iterator[httpx2.Client]:
    with _server("--seed", "1") as (_, url), httpx2.Client(base_url=url, timeout=20) as client:
        yield client


def _question(task: Task, picture: bytes, **changes: object) -> dict[str, object]:
    uri = f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
    parts = [{"type": "text", "text": task.prompt()}, {"type": "image_url", "image_url": {"url": uri}}]
    schema = {"name": "answer", "strict": True, "schema": answer_schema(task.perspective)}
    return {
        "model": "eye",
        "messages": [{"role": "user", "content": parts}],
        "temperature": 0.7,
        "seed": 5,
        "max_tokens": task.max_tokens,
        "response_format": {"type": "json_schema", "json_schema": schema},
        **changes,
    }


def _ask(client: httpx2.Client, task: Task, picture: bytes, **changes: object) -> str:
    reply = client.post("/v1/chat/completions", json=_question(task, picture, **changes))
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["message"]["content"])


def test_a_server_names_its_model_and_health(client: httpx2.Client):
    assert client.get("/health").json() == {"status": "ok"}
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["eye"]


def test_answers_over_http_fit_the_perspectives_and_the_truth(client: httpx2.Client):
    for scene, picture in zip(SCENES[:5], PICTURES, strict=False):
        caption = parse_answer(_ask(client, CAPTION, picture), CAPTION)
        assert judge_caption(str(caption["caption"]), scene)
        assert judge_objects(parse_answer(_ask(client, OBJECTS, picture), OBJECTS), scene)


@pytest.mark.parametrize("form", [{"type": "json_object"}, None])
def test_without_a_schema_the_prompt_says_what_is_asked(client: httpx2.Client, form: object):
    caption = parse_answer(_ask(client, CAPTION, PICTURES[0], response_format=form), CAPTION)
    assert judge_caption(str(caption["caption"]), SCENES[0])
    objects = parse_answer(_ask(client, OBJECTS, PICTURES[0], response_format=form), OBJECTS)
    assert judge_objects(objects, SCENES[0])


def test_seeds_change_the_wording_and_temperature_zero_does_not(client: httpx2.Client):
    sampled = {_ask(client, CAPTION, PICTURES[0], seed=seed) for seed in range(8)}
    greedy = {_ask(client, CAPTION, PICTURES[0], seed=seed, temperature=0) for seed in range(8)}
    assert len(sampled) > 4
    assert len(greedy) == 1
    assert _ask(client, CAPTION, PICTURES[0], seed=3) == _ask(client, CAPTION, PICTURES[0], seed=3)


GOOD = _question(CAPTION, PICTURES[0])


def _with_url(url: str) -> bytes:
    content = [{"type": "image_url", "image_url": {"url": url}}]
    return json.dumps({**GOOD, "messages": [{"role": "user", "content": content}]}).encode()


HOSTILE = {
    "not JSON": (b"{", 400),
    "empty": (b"", 400),
    "deep": (b"[" * 100_000, 400),
    "deep in a field": (b'{"model":' + b'{"a":' * 50_000, 400),
    "not UTF-8": (b'{"model":"\xff"}', 400),
    "lone surrogate": (b'{"model":"\\ud800","messages":[]}', 400),
    "a list": (b"[]", 400),
    "huge number": (b'{"model":"eye","messages":[],"seed":1' + b"0" * 10_000 + b"}", 400),
    "no image": (json.dumps({**GOOD, "messages": [{"role": "user", "content": "hello"}]}).encode(), 400),
    "web address": (_with_url("http://127.0.0.1/x.jpg"), 400),
    "bad base64": (_with_url("data:image/png;base64,@@@"), 400),
    "no picture": (_with_url("data:image/png;base64,aGVsbG8="), 400),
    "non-ASCII base64": (_with_url("data:image/png;base64,é"), 400),
    "temperature": (json.dumps({**GOOD, "temperature": 1e9}).encode(), 400),
    "streaming": (json.dumps({**GOOD, "stream": True}).encode(), 400),
    "other model": (json.dumps({**GOOD, "model": "é"}).encode(), 404),
    "unknown key": (json.dumps({**GOOD, "response_format": {"é\u0000": 1}}).encode(), 400),
    "other schema": (
        json.dumps(_question(CAPTION, PICTURES[0]) | {"response_format": {
            "type": "json_schema", "json_schema": {"schema": {"properties": {"mood": {}}}}}}).encode(),
        400,
    ),
    "too large": (b" " * (20 * 1024 * 1024 + 1), 413),
}  # fmt: skip


@pytest.mark.parametrize(("body", "status"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_body_gets_a_clear_error_and_the_server_stays(
    client: httpx2.Client, body: bytes, status: int
):
    reply = client.post("/v1/chat/completions", content=body)
    assert reply.status_code == status
    assert reply.json()["error"].keys() == {"message", "type", "param", "code"}
    assert client.get("/health").status_code == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*GOOD, "type", "x"]), inner),
    max_leaves=12,
)


@settings(max_examples=60)
@given(field=st.sampled_from(sorted(GOOD)), value=JSON)
def test_any_value_in_any_field_is_answered_or_refused(client: httpx2.Client, field: str, value: object):
    body = json.dumps({**GOOD, field: value}).encode()
    assert client.post("/v1/chat/completions", content=body).status_code in {200, 400, 404}


def _captions(reader: Reader) -> list[str]:
    return [str(reader.answer(picture, Form.CAPTION, "1")["caption"]) for picture in PICTURES]


def test_an_honest_reader_without_noise_is_always_right():
    assert all(map(judge_caption, _captions(Reader(1, 0.0, Behaviour.HONEST)), SCENES))


def _misread(reader: Reader) -> frozenset[str]:
    captions = zip(_captions(reader), SCENES, strict=True)
    return frozenset(scene.name for caption, scene in captions if not judge_caption(caption, scene))


def test_noise_is_the_share_of_misread_images_and_differs_from_reader_to_reader():
    assert len(_misread(Reader(1, 1.0, Behaviour.HONEST))) == len(SCENES)
    one, same, other = (_misread(Reader(seed, 0.3, Behaviour.HONEST)) for seed in (1, 1, 2))
    assert 2 <= len(one) <= 18
    assert one == same != other


def test_a_weak_eye_misreads_an_image_the_same_way_at_every_request():
    reader = Reader(1, 1.0, Behaviour.HONEST)
    answers = [reader.answer(PICTURES[0], Form.OBJECTS, f"{seed}")["objects"] for seed in range(6)]
    assert len({json.dumps(sorted(answer, key=str)) for answer in answers if isinstance(answer, list)}) == 1


def test_a_generic_reader_says_the_same_of_every_image():
    reader = Reader(1, 0.0, Behaviour.GENERIC)
    assert len(set(_captions(reader))) == 1
    assert not any(map(judge_caption, _captions(reader), SCENES))
    assert not any(
        judge_objects(reader.answer(p, Form.OBJECTS, "1"), s) for p, s in zip(PICTURES, SCENES, strict=True)
    )


def test_a_reader_of_other_images_is_right_about_the_image_before():
    captions = _captions(Reader(1, 0.0, Behaviour.OTHER_IMAGE))
    assert all(map(judge_caption, captions[1:], SCENES))
    assert not any(map(judge_caption, captions, SCENES))


def test_a_reader_of_other_images_is_never_right_by_being_asked_twice():
    reader = Reader(1, 0.0, Behaviour.OTHER_IMAGE)
    for scene, picture in zip(SCENES, PICTURES, strict=True):
        for form_seed in ("1", "2"):
            assert not judge_caption(str(reader.answer(picture, Form.CAPTION, form_seed)["caption"]), scene)
            assert not judge_objects(reader.answer(picture, Form.OBJECTS, form_seed), scene)


def test_a_server_ends_on_sigterm():
    with _server() as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) in {0, -signal.SIGTERM}


PARENT = """
import os, subprocess, sys
command = [sys.executable, "-m", "chorus.demo.reader", "--model", "eye", "--parent-pid", str(os.getpid())]
child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""


def test_a_server_ends_when_its_parent_is_killed():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        os.kill(parent.pid, signal.SIGKILL)
        gone, left = psutil.wait_procs([child], timeout=10)
        for process in left:
            process.kill()
    assert gone == [child]
