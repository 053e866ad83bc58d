"""The engine against a real HTTP server that answers as the many kinds of servers do."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.plain import TASK

from volunteer_client.endpoint_error import JobWrong, SetupWrong, Trouble, Wait, classify, hidden_error
from volunteer_client.engine import Answered, Engine

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
GOOD = '{"caption": "A dog runs on the grass."}'


def reply(content: object, finish: str = "stop", **message: object) -> tuple[int, object]:
    choice = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    return 200, {"model": "what-really-ran", "choices": [choice]}


class Server:
    """Gives its scripted answers in turn, the last one for ever; remembers what it was asked."""

    def __init__(self) -> None:
        self.script: list[tuple[int, object]] = []
        self.requests: list[dict[str, object]] = []
        self.headers: list[str] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(length.group(1)) if length else 0)
            self.headers.append(head)
            self.requests.append(json.loads(body) if body else {})
            status, answer = self.script[0] if len(self.script) == 1 else self.script.pop(0)
            if status == 0:  # a connection that breaks
                return
            text = answer if isinstance(answer, str) else json.dumps(answer)
            data = text.encode()
            writer.write(
                b"HTTP/1.1 %d X\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (status, len(data))
            )
            writer.write(data)
            await writer.drain()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    scripted = Server()
    listening = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    scripted.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    yield scripted
    listening.close()


async def ask(
    server: Server, *script: tuple[int, object], times: int = 1, key: str | None = None
) -> Answered | Trouble:
    server.script = list(script)
    async with Engine(server.url, "wanted", key, seed=1, now=lambda: NOW) as engine:
        for _ in range(times):
            outcome = await engine.ask(TASK, TASK.prompt(), b"jpeg", "1/1")
    return outcome


async def test_the_lowest_common_form_is_sent_and_nothing_else(server: Server):
    outcome = await ask(server, reply(GOOD), key="secret-key")
    assert isinstance(outcome, Answered)
    assert (outcome.body, outcome.model) == (b'{"caption":"A dog runs on the grass."}', "what-really-ran")
    [request] = server.requests
    assert set(request) == {"model", "messages", "max_tokens", "temperature", "seed", "response_format"}
    [message] = request["messages"]
    assert [part["type"] for part in message["content"]] == ["text", "image_url"]
    assert message["content"][1]["image_url"] == {"url": "data:image/jpeg;base64,anBlZw=="}
    assert request["response_format"]["json_schema"]["strict"] is True
    assert 0 <= request["seed"] < 2**31
    assert "bearer secret-key" in server.headers[0].lower()


@pytest.mark.parametrize(
    "content",
    [
        f"```json\n{GOOD}\n```",
        f"<think>It may be a dog.</think>\n{GOOD}",
        [{"type": "text", "text": GOOD}],
        GOOD.replace(" dog", "\x01 dog"),
    ],
)
async def test_answers_in_every_dress_are_read(server: Server, content: object):
    assert isinstance(await ask(server, reply(content)), Answered)


async def test_a_bad_answer_is_asked_for_once_more_with_another_seed(server: Server):
    assert isinstance(await ask(server, reply("{}"), reply(GOOD)), Answered)
    first, second = server.requests
    assert first["seed"] != second["seed"]
    assert first["max_tokens"] == second["max_tokens"]


async def test_two_bad_answers_are_a_failure_with_a_reason(server: Server):
    outcome = await ask(server, reply("{}"))
    assert isinstance(outcome, JobWrong)
    assert outcome.code.startswith("answer_")
    assert len(server.requests) == 2


async def test_a_cut_answer_gets_twice_the_room_once(server: Server):
    outcome = await ask(server, reply(GOOD[:20], "length"))
    assert isinstance(outcome, JobWrong)
    assert outcome.code == "answer_cut"
    first, second = server.requests
    assert second["max_tokens"] == 2 * first["max_tokens"]


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
async def test_thinking_that_ate_the_budget_is_named(server: Server, field: str):
    outcome = await ask(server, reply(None, "length", **{field: "Let me see."}))
    assert isinstance(outcome, JobWrong)
    assert outcome.code == "only_thought"


async def test_the_form_of_request_falls_back_and_is_remembered(server: Server):
    refusal = (400, {"error": "'response_format.type' must be 'json_schema' or 'text'"})
    outcome = await ask(server, refusal, refusal, reply(GOOD), times=2)
    assert isinstance(outcome, Answered)
    forms = [request.get("response_format", {}).get("type") for request in server.requests]
    assert forms == ["json_schema", "json_object", None, None]


async def test_a_job_that_no_form_helps_fails_and_proves_nothing(server: Server):
    too_long = (400, {"error": {"message": "maximum context length is 4096 tokens", "code": 400}})
    outcome = await ask(server, too_long, too_long, too_long, reply(GOOD))
    assert isinstance(outcome, JobWrong)
    outcome = await ask(server, reply(GOOD))
    assert isinstance(outcome, Answered)
    assert server.requests[-1]["response_format"]["type"] == "json_schema"


async def test_once_a_form_has_worked_a_refusal_is_the_jobs(server: Server):
    outcome = await ask(server, reply(GOOD), (400, {"error": {"message": "bad"}}), times=2)
    assert isinstance(outcome, JobWrong)
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [0, 429, 503])
async def test_trouble_that_passes_is_not_the_models_error(server: Server, status: int):
    assert isinstance(await ask(server, (status, "")), Wait)
    assert len(server.requests) == 1


async def test_an_endpoint_that_is_not_there_is_waited_for():
    async with Engine("http://127.0.0.1:1/v1", "m", None, seed=1) as engine:
        assert isinstance(await engine.probe(), Wait)
        outcome = await engine.ask(TASK, TASK.prompt(), b"jpeg", "1/1")
    assert isinstance(outcome, Wait)
    assert outcome.code == "endpoint_unreachable"


async def test_a_page_instead_of_an_api_is_a_wrong_address(server: Server):
    outcome = await ask(server, (200, "<html>Welcome</html>"))
    assert isinstance(outcome, SetupWrong)
    assert outcome.code == "endpoint_odd"


async def test_the_key_is_never_repeated(server: Server):
    outcome = await ask(
        server, (401, {"error": {"message": "Incorrect API key: top-secret"}}), key="top-secret"
    )
    assert isinstance(outcome, SetupWrong)
    assert "top-secret" not in outcome.advice


@pytest.mark.parametrize(
    ("owner", "kind"), [("vllm", "vllm"), ("library", "ollama"), ("me", "openai-compatible")]
)
async def test_the_kind_of_server_is_known_without_its_address(server: Server, owner: str, kind: str):
    server.script = [(200, {"data": [{"id": "m", "owned_by": owner}]})]
    async with Engine(server.url, "m", None, seed=1) as engine:
        assert await engine.probe() is None
        assert engine.kind == kind


@pytest.mark.parametrize(
    "payload",
    [
        {},
        [],
        None,
        5,
        {"choices": []},
        {"choices": [5]},
        {"choices": [{"message": "x"}]},
        {"choices": {"a": 1}},
    ],
)
async def test_a_reply_of_any_shape_is_a_bad_answer_and_no_crash(server: Server, payload: object):
    assert isinstance(await ask(server, (200, payload)), JobWrong | SetupWrong)


CUT = "The model produced output that does not match the expected peg-native format"
VISION = "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, {"error": "Unauthorized"}, SetupWrong),
        (401, {"error": {"message": "Invalid API Key", "type": "authentication_error"}}, SetupWrong),
        (402, {"error": {"code": 402, "message": "Insufficient credits"}}, SetupWrong),
        (404, {"error": {"message": "model 'x' not found, try pulling it first", "code": None}}, SetupWrong),
        (404, {"error": {"message": "No endpoints found that support image input", "code": 404}}, SetupWrong),
        (400, [{"error": {"code": 400, "message": "API key not valid."}}], SetupWrong),
        (400, {"error": {"message": "x/y is not a valid model ID", "code": 400}}, SetupWrong),
        (500, {"error": {"code": 500, "message": VISION, "type": "server_error"}}, SetupWrong),
        (400, {"error": {"message": "At most 0 image(s): x is not a multimodal model"}}, SetupWrong),
        (400, {"error": {"message": "maximum context length", "type": "BadRequestError"}}, JobWrong),
        (400, [{"error": {"code": 400, "message": 'Unknown name "foo": Cannot find field.'}}], JobWrong),
        (413, "<html>413 Request Entity Too Large</html>", JobWrong),
        (422, {"detail": [{"loc": ["body"], "msg": "field required"}]}, JobWrong),
        (500, {"error": {"code": 500, "message": "failed to decode image bytes"}}, JobWrong),
        (500, {"error": {"code": 500, "message": CUT}}, JobWrong),
        (429, [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}], Wait),
        (500, {"error": {"message": "CUDA error"}}, Wait),
        (502, "<html><body>502 Bad Gateway</body></html>", Wait),
        (503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}, Wait),
        (529, "", Wait),
    ],
)  # fmt: skip
def test_errors_of_every_server_are_told_apart(status: int, body: object, kind: type):
    text = body if isinstance(body, str) else json.dumps(body)
    assert isinstance(classify(status, text, {}, NOW, "m"), kind)


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"retry-after": "7"}, {}, 7.0),
        ({"retry-after": "Fri, 20 Nov 2026 12:00:30 GMT"}, {}, 30.0),
        ({"retry-after": "Fri, 20 Nov 2026 11:00:00 GMT"}, {}, 0.0),
        ({"retry-after": "9" * 9}, {}, 86400.0),
        ({"retry-after": "soon"}, {}, 0.0),
        ({}, [{"error": {"details": [5, {"retryDelay": "12.5s"}]}}], 12.5),
        ({}, {"error": {"details": "none"}}, None),
    ],
)
def test_the_wait_that_a_server_asks_for_is_kept(
    headers: dict[str, str], body: object, seconds: float | None
):
    trouble = classify(429, json.dumps(body), headers, NOW, "m")
    assert isinstance(trouble, Wait)
    assert trouble.retry_after_s == seconds


def test_an_error_inside_http_200_is_an_error():
    assert hidden_error({"error": {"code": 429, "message": "slow down"}}) == 429
    assert hidden_error({"error": "broken"}) == 500
    assert hidden_error({"choices": [], "error": None}) is None


@given(status=st.integers(400, 599), body=st.text(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["error", "message", "code", "details", "retryDelay"]), inner),
).map(json.dumps), header=st.text(max_size=30))  # fmt: skip
def test_no_error_body_crashes_the_client(status: int, body: str, header: str):
    assert isinstance(classify(status, body, {"retry-after": header}, NOW, "m"), JobWrong | SetupWrong | Wait)
