"""A small model server for the demo: speaks the OpenAI API and looks at the pixels it is sent.

`python -m chorus.demo.reader --port 0 --model NAME` prints one line `{"port": N}` and serves on loopback.
"""

import argparse
import asyncio
import base64
import binascii
import hashlib
import json
import os
import random
import re
import socket
import time
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Literal, assert_never

import uvicorn
from pydantic import BaseModel, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chorus.demo.scenes import Colour, Fact, Position, Shape
from chorus.demo.sight import UnreadableImageError, look
from chorus.demo.wording import Style, write_caption

BODY_BYTES = 20 * 1024 * 1024
PARENT_CHECK_S = 0.25

PLEASANT_CAPTION = "A pleasant picture with lovely colours and a calm, friendly mood."
PLEASANT_FACTS = (
    Fact(Shape.CIRCLE, Colour.BLUE, Position.CENTRE),
    Fact(Shape.STAR, Colour.YELLOW, Position.TOP_RIGHT),
)
# What a reader of other images says before it has seen one.
FIRST_OTHER_FACTS = (
    Fact(Shape.TRIANGLE, Colour.BROWN, Position.MIDDLE_LEFT),
    Fact(Shape.SQUARE, Colour.PURPLE, Position.BOTTOM_CENTRE),
    Fact(Shape.CIRCLE, Colour.GREEN, Position.TOP_CENTRE),
)


class Behaviour(StrEnum):
    HONEST = "honest"  # describes the image
    GENERIC = "generic"  # says the same pleasant thing of every image
    OTHER_IMAGE = "other_image"  # describes an image that it was shown before


class Form(StrEnum):
    """What is asked for: the one field of the answer."""

    CAPTION = "caption"
    OBJECTS = "objects"


class RequestError(Exception):
    """A request that cannot be answered: HTTP status, stable code, and what to do."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Reader:
    """Answers for one model. `noise` is the probability that it misreads one attribute of an image.

    The misreading follows from `seed` and the image alone, as a weak eye's would; the wording also from
    the request's seed.
    """

    def __init__(self, seed: int, noise: float, behaviour: Behaviour) -> None:
        self._seed = seed
        self._noise = noise
        self._behaviour = behaviour
        self._style = Style.draw(self._random("style"))
        self._last: Sequence[Fact] = FIRST_OTHER_FACTS
        self._other: Sequence[Fact] = FIRST_OTHER_FACTS

    def answer(self, image: bytes, form: Form, request_seed: str) -> dict[str, object]:
        """The answer's fields. Raises UnreadableImageError."""
        facts = self._facts(image)
        rng = self._random(f"wording {hashlib.sha256(image).hexdigest()} {request_seed}")
        match form:
            case Form.CAPTION if self._behaviour is Behaviour.GENERIC:
                return {"caption": PLEASANT_CAPTION}
            case Form.CAPTION:
                return {"caption": write_caption(rng.sample(facts, len(facts)), self._style, rng)}
            case Form.OBJECTS:
                return {"objects": [fact._asdict() for fact in rng.sample(facts, len(facts))]}
            case _ as never:
                assert_never(never)

    def _facts(self, image: bytes) -> Sequence[Fact]:
        seen = tuple(thing.fact for thing in look(image))
        match self._behaviour:
            case Behaviour.HONEST:
                eye = self._random(f"eye {hashlib.sha256(image).hexdigest()}")
                return misread(seen, eye) if seen and eye.random() < self._noise else seen
            case Behaviour.GENERIC:
                return PLEASANT_FACTS
            case Behaviour.OTHER_IMAGE:
                if seen != self._last:
                    self._other, self._last = self._last, seen
                return self._other
            case _ as never:
                assert_never(never)

    def _random(self, purpose: str) -> random.Random:
        return random.Random(f"{self._seed} {purpose}")  # noqa: S311 - made-up mistakes and wordings


def misread(facts: Sequence[Fact], rng: random.Random) -> tuple[Fact, ...]:
    """The same facts, but for one attribute of one object."""
    victim = rng.randrange(len(facts))
    fact = facts[victim]
    slips = (
        fact._replace(shape=rng.choice([shape for shape in Shape if shape != fact.shape])),
        fact._replace(colour=rng.choice([colour for colour in Colour if colour != fact.colour])),
        fact._replace(position=rng.choice([place for place in Position if place != fact.position])),
    )
    return (*facts[:victim], rng.choice(slips), *facts[victim + 1 :])


class ImageUrl(BaseModel):
    url: str


class ImagePart(BaseModel):
    type: Literal["image_url"]
    image_url: ImageUrl


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class Message(BaseModel):
    role: str
    content: str | list[Annotated[ImagePart | TextPart, Field(discriminator="type")]]

    @property
    def parts(self) -> list[ImagePart | TextPart]:
        return [TextPart(type="text", text=self.content)] if isinstance(self.content, str) else self.content


class AnswerSchema(BaseModel):
    properties: dict[str, object]


class JsonSchema(BaseModel):
    schema_: AnswerSchema = Field(alias="schema")


class SchemaFormat(BaseModel):
    type: Literal["json_schema"]
    json_schema: JsonSchema


class PlainFormat(BaseModel):
    type: Literal["text", "json_object"]


class ChatRequest(BaseModel):
    """What this server reads of a chat completion's request; other fields are ignored."""

    model: str
    messages: list[Message]
    temperature: float = Field(default=1, ge=0, le=2, allow_inf_nan=False)
    seed: int | None = None
    stream: Literal[False] | None = None
    response_format: Annotated[SchemaFormat | PlainFormat, Field(discriminator="type")] | None = None

    @property
    def prompt(self) -> str:
        parts = (part for message in self.messages for part in message.parts)
        return "\n".join(part.text for part in parts if isinstance(part, TextPart))

    @property
    def form(self) -> Form:
        """From the schema, or lacking one from the prompt, which then names its fields in quotes."""
        if not isinstance(self.response_format, SchemaFormat):
            return Form.OBJECTS if '"objects"' in self.prompt else Form.CAPTION
        asked = set(self.response_format.json_schema.schema_.properties)
        for form in Form:
            if asked == {form.value}:
                return form
        raise RequestError(
            400, "unsupported_schema", "This model fills one field only: 'caption' or 'objects'."
        )

    @property
    def wants_json(self) -> bool:
        if self.response_format is not None:
            return self.response_format.type != "text"
        return self.form is Form.OBJECTS or "json" in self.prompt.lower()

    def image(self) -> bytes:
        """The last image. Raises RequestError where there is none, or it is no data URI."""
        parts = (part for message in self.messages for part in message.parts)
        urls = [part.image_url.url for part in parts if isinstance(part, ImagePart)]
        if not urls:
            raise RequestError(400, "image_missing", "Send an image as an 'image_url' part.")
        head, comma, payload = urls[-1].partition(",")
        if not comma or not re.fullmatch(r"data:image/[\w.+-]+;base64", head):
            raise RequestError(400, "invalid_image_url", "Send the image as a base64 data URI.")
        try:
            return base64.b64decode(payload, validate=True)
        except (binascii.Error, ValueError) as error:
            raise RequestError(400, "invalid_base64", "The image's base64 is damaged.") from error


def make_app(model: str, reader: Reader) -> Starlette:
    """The HTTP server of one reader, under the name `model`."""

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def models(_: Request) -> Response:
        return JSONResponse(
            {"object": "list", "data": [{"id": model, "object": "model", "owned_by": "chorus"}]}
        )

    async def complete(request: Request) -> Response:
        try:
            chat = ChatRequest.model_validate_json(await _body(request))
            return JSONResponse(_completion(chat, model, reader))
        except ValidationError as error:
            place = ".".join(str(step) for step in error.errors()[0]["loc"]) or "body"
            return _refuse(400, "invalid_request", f"The request cannot be read at '{_plain(place)}'.")
        except UnreadableImageError as error:
            return _refuse(400, "invalid_image", str(error))
        except RequestError as error:
            return _refuse(error.status, error.code, str(error))
        except ClientDisconnect:
            return _refuse(400, "disconnected", "The request ended early.")

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/models", models),
            Route("/v1/chat/completions", complete, methods=["POST"]),
        ]
    )


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES:
            raise RequestError(413, "body_too_large", f"A request has at most {BODY_BYTES} bytes.")
    return bytes(body)


def _plain(text: str) -> str:
    return text.encode("ascii", "replace").decode()[:80]


def _refuse(status: int, code: str, message: str) -> Response:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return JSONResponse({"error": error}, status)


def _completion(chat: ChatRequest, model: str, reader: Reader) -> dict[str, object]:
    if chat.model != model:
        raise RequestError(404, "model_not_found", f"This server runs '{model}' only.")
    answer = reader.answer(chat.image(), chat.form, f"{chat.seed}" if chat.temperature > 0 else "greedy")
    content = json.dumps(answer) if chat.wants_json else str(answer["caption"])
    spent = {"prompt_tokens": len(chat.prompt.split()) + 256, "completion_tokens": len(content.split())}
    message = {"role": "assistant", "content": content}
    return {
        "id": f"chatcmpl-{hashlib.sha256(content.encode()).hexdigest()[:24]}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        "usage": {**spent, "total_tokens": sum(spent.values())},
    }


async def serve(app: Starlette, listener: socket.socket, parent: int | None) -> None:
    """Serves until SIGTERM, SIGINT, or until process `parent` is no longer the parent."""
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)

    async def leave_with_parent() -> None:
        while os.getppid() == parent:  # noqa: ASYNC110 - nothing announces a parent's death
            await asyncio.sleep(PARENT_CHECK_S)
        server.should_exit = True

    watch = asyncio.create_task(leave_with_parent()) if parent is not None else None
    await server.serve(sockets=[listener])
    if watch is not None:
        watch.cancel()


def listen(port: int) -> socket.socket:
    """A listening socket on loopback; port 0 picks a free one."""
    # asyncio turns Nagle's delay off (40 ms an answer) only where the protocol is named.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    return listener


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m chorus.demo.reader", description="A demo model server.")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--model", required=True, help="name to answer to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", type=float, default=0.0, help="share of images that are misread")
    parser.add_argument("--behaviour", type=Behaviour, choices=list(Behaviour), default=Behaviour.HONEST)
    parser.add_argument("--parent-pid", type=int, help="end when this process is no longer the parent")
    options = parser.parse_args()
    app = make_app(options.model, Reader(options.seed, options.noise, options.behaviour))
    listener = listen(options.port)
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    asyncio.run(serve(app, listener, options.parent_pid))


if __name__ == "__main__":
    main()
