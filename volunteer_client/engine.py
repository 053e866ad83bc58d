"""Asks the volunteer's model endpoint, in the lowest form that every OpenAI-compatible server takes."""

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Self
from urllib.parse import urlsplit

import httpx2

from captions.answer import encode_answer, parse_answer
from captions.perspective import Refused, answer_schema
from captions.task import Task
from volunteer_client.endpoint_error import JobWrong, SetupWrong, Trouble, Wait, classify, hidden_error

FIRST_TIMEOUT_S = 300.0  # a first request may load the model
LEAST_TIMEOUT_S = 60.0
PROBE_TIMEOUT_S = 10.0
BODY_BYTES = 4_000_000

_KINDS = {"vllm": "vllm", "llamacpp": "llama-server", "library": "ollama", "organization_owner": "lm-studio"}


class Form(Enum):
    """How JSON is asked for: from the strictest to what every server takes."""

    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    PROMPT_ONLY = "prompt_only"


@dataclass(frozen=True, slots=True)
class Answered:
    """A checked answer: canonical JSON, the model that the endpoint named, and how it came about."""

    body: bytes
    model: str
    seed: int
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class _Reply:
    text: str
    model: str
    was_cut: bool
    only_thought: bool


class Engine:
    """One endpoint and one model. Learns which form of request works, and how long answers take."""

    def __init__(
        self,
        endpoint: str,
        model: str,
        api_key: str | None,
        *,
        seed: int,
        temperature: float | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
        headers: dict[str, str] | None = None,
    ) -> None:
        import openai  # 0.3 s and 20 MB: only where a model is asked

        host = urlsplit(endpoint).hostname or ""
        # A proxy set for the world must not catch calls to a model on this very machine.
        http = openai.DefaultAsyncHttpxClient(trust_env=host not in {"127.0.0.1", "::1", "localhost"})
        self._client = openai.AsyncOpenAI(
            base_url=endpoint,
            api_key=api_key or "none",
            max_retries=0,
            http_client=http,
            default_headers=headers,
        )
        # Not from OPENAI_* variables: they are meant for another server than the volunteer's.
        self._client.organization = self._client.project = None
        self._api_key = api_key
        self._model = model
        self._seed = seed
        self._temperature = temperature
        self._now = now
        self._clock = clock
        self._form = Form.JSON_SCHEMA
        self._form_is_proven = False
        self._slowest_s: float | None = None
        self.kind = "openrouter" if host.endswith("openrouter.ai") else "openai-compatible"

    async def close(self) -> None:
        """Ends the connections."""
        await self._client.close()

    async def probe(self) -> Trouble | None:
        """Whether the endpoint is there and takes the key; None where it may be asked."""
        payload = await self._exchange("models", None, PROBE_TIMEOUT_S)
        match payload:
            case Wait() | SetupWrong(code="endpoint_key" | "endpoint_credit"):
                return payload
            case {"data": [{"owned_by": str(owner)}, *_]}:
                self.kind = _KINDS.get(owner, self.kind)
                return None
            case _:  # servers without a list of models may still answer
                return None

    async def ask(self, task: Task, prompt: str, jpeg: bytes, unit: str) -> Answered | Trouble:
        """One answer to a task about an image, checked; once more with a new seed after a bad one."""
        started = self._clock()
        trouble: Trouble | None = None
        max_tokens = task.max_tokens
        for attempt in range(2):
            seed = self._seed_of(unit, attempt)
            reply = await self._complete(task, prompt, jpeg, seed, max_tokens)
            if isinstance(reply, JobWrong) and reply.is_seed:
                trouble = reply
                continue
            if not isinstance(reply, _Reply):
                return trouble if trouble and isinstance(reply, JobWrong) else reply
            try:
                body = encode_answer(parse_answer(reply.text, task))
            except Refused as refused:
                trouble = _bad_answer(refused, reply)
                if reply.was_cut or reply.only_thought:
                    max_tokens = 2 * task.max_tokens
                continue
            elapsed = self._clock() - started
            self._slowest_s = max(self._slowest_s or 0.0, elapsed)
            return Answered(body, reply.model or self._model, seed, elapsed)
        return trouble or JobWrong("answer_missing", "the model gave no answer")

    def _seed_of(self, unit: str, attempt: int) -> int:
        """Repeatable for one volunteer's seed, different for units and attempts; 31 bits, as servers take."""
        digest = hashlib.sha256(f"{self._seed}/{unit}/{attempt}".encode()).digest()
        return int.from_bytes(digest[:4], "big") >> 1

    async def _complete(
        self, task: Task, prompt: str, jpeg: bytes, seed: int, max_tokens: int
    ) -> _Reply | Trouble:
        """Asks in the known form; before one is proven, in the next form when this one is refused."""
        forms = [self._form] if self._form_is_proven else list(Form)[list(Form).index(self._form) :]
        first: Trouble | None = None
        for form in forms:
            request = self._request(task, prompt, jpeg, seed, max_tokens, form)
            timeout = (
                FIRST_TIMEOUT_S if self._slowest_s is None else max(LEAST_TIMEOUT_S, 10 * self._slowest_s)
            )
            payload = await self._exchange("chat/completions", request, timeout)
            if isinstance(payload, JobWrong) and payload.is_form:
                first = first or payload
                continue
            if isinstance(payload, JobWrong | SetupWrong | Wait):
                return payload
            self._form, self._form_is_proven = form, True
            return _read_reply(payload)
        return first or JobWrong("endpoint_refused", "no form of request was taken")

    def _request(
        self, task: Task, prompt: str, jpeg: bytes, seed: int, max_tokens: int, form: Form
    ) -> dict[str, Any]:
        url = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
        content = [{"type": "text", "text": prompt}, {"type": "image_url", "image_url": {"url": url}}]
        request: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": max_tokens,
            "temperature": task.temperature if self._temperature is None else self._temperature,
            "seed": seed,
        }
        if task.top_p is not None:
            request["top_p"] = task.top_p
        if form is Form.JSON_SCHEMA:
            schema = {"name": "answer", "strict": True, "schema": answer_schema(task.perspective)}
            request["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif form is Form.JSON_OBJECT:
            request["response_format"] = {"type": "json_object"}
        return request

    async def _exchange(self, path: str, request: dict[str, Any] | None, timeout_s: float) -> object:
        """One HTTP exchange: the decoded body of an answer, or a Trouble."""
        import openai  # late, as above

        options: Any = {"timeout": timeout_s}
        try:
            async with asyncio.timeout(timeout_s):
                response = await (
                    self._client.get(path, cast_to=httpx2.Response, options=options)
                    if request is None
                    else self._client.post(path, body=request, cast_to=httpx2.Response, options=options)
                )
        except openai.APIStatusError as error:
            return self._classify(error.status_code, error.response)
        except (openai.APIConnectionError, TimeoutError) as error:
            name = type(error.__cause__ or error).__name__
            return Wait("endpoint_unreachable", f"no answer from the endpoint ({name})")
        return self._understood(response)

    def _understood(self, response: httpx2.Response) -> object:
        try:
            payload = json.loads(response.content) if len(response.content) <= BODY_BYTES else None
        except (ValueError, RecursionError):
            payload = None
        if payload is None:
            if self._form_is_proven:
                return Wait("endpoint_odd", "the endpoint answered with something other than JSON")
            return SetupWrong(
                "endpoint_odd",
                "The address answers, but not as an OpenAI-compatible server. "
                "Check --endpoint: it usually ends in /v1.",
            )
        status = hidden_error(payload)
        return payload if status is None else self._classify(status, response)

    def _classify(self, status: int, response: httpx2.Response) -> Trouble:
        body = response.content[:20_000].decode("utf-8", "replace")
        if self._api_key:
            body = body.replace(self._api_key, "[key]")
        return classify(status, body, response.headers, self._now(), self._model)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _read_reply(payload: object) -> _Reply:
    """The model's text, from any of the shapes that servers give it; empty where there is none."""
    model, text, finish, thought = "", "", "", False
    if isinstance(payload, dict):
        model = str(payload.get("model") or "")[:200]
        match payload.get("choices"):
            case [{"message": {**message}, **choice}, *_]:
                finish = str(choice.get("finish_reason") or "")
                thought = bool(message.get("reasoning") or message.get("reasoning_content"))
                text = _text_of(message.get("content"))
            case _:
                pass
    return _Reply(text, model, was_cut=finish == "length", only_thought=thought and not text)


def _text_of(content: object) -> str:
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _bad_answer(refused: Refused, reply: _Reply) -> JobWrong:
    if reply.only_thought:
        return JobWrong("only_thought", "thinking used up the tokens: turn the model's thinking off")
    if reply.was_cut:
        return JobWrong("answer_cut", f"the answer is longer than allowed ({refused.detail})")
    return JobWrong(f"answer_{refused.code}", refused.detail)
