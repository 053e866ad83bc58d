"""The only network of the client besides the model endpoint: calls to the coordinator, and image fetching."""

import asyncio
import hashlib
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from random import Random
from typing import Any, TypeVar
from urllib.parse import urlsplit

import grpc
import grpc.aio
import httpx2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import Message

from protos import signing, work_pb2
from protos.invite import PRIVATE_SERVER_NAME
from volunteer_client.backoff import Backoff
from volunteer_client.configure import Enrolment
from volunteer_client.lease import Ref
from volunteer_client.memory import Memory

PROTOCOL = 1
CALL_TIMEOUT_S = 20.0
IMAGE_BYTES = 20_000_000
IMAGE_TRIES = 3
IMAGE_TIMEOUT_S = 60.0

_TRUST = {
    "invite": "Ask the operators for a new invite.",
    "host": "Join again with a new invite and --force.",
}
ADVICE = {
    "INVALID_REQUEST": "The coordinator could not read the call. Update the client.",
    "INVITE_INVALID": f"The coordinator does not take this invite. {_TRUST['invite']}",
    "CHALLENGE_INVALID": "The coordinator's challenge ran out; check this machine's network, then try again.",
    "SIGNATURE_INVALID": f"The coordinator does not know this host's key. {_TRUST['host']}",
    "SESSION_INVALID": "The session ended.",
    "HOST_UNKNOWN": f"The coordinator does not know this host. {_TRUST['host']}",
    "HOST_COPIED": (
        "This folder is a copy of another one that has gone on since, or an older state of itself. "
        "Join again with a new invite and --force; nothing is lost."
    ),
    "HOST_REVOKED": "The operators have stopped this host. Ask them why.",
    "CLIENT_TOO_OLD": "The coordinator needs a newer client. Update it, then start again.",
    "UNIMPLEMENTED": "The coordinator is older than this client and does not know the call.",
    "BATCH_TOO_LARGE": "The coordinator takes only smaller batches.",
    "UNAVAILABLE": "The coordinator cannot answer now.",
}
_Response = TypeVar("_Response", bound=Message)
_Value = TypeVar("_Value")
_OF_THE_CALLER = frozenset({"SESSION_INVALID", "CHALLENGE_INVALID"})  # no other address would help
_TRANSIENT = _OF_THE_CALLER | {"UNAVAILABLE"}


class CoordinatorError(Exception):
    """A call that gave no answer. `code` is an ErrorCode's name; the text says what to do."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{ADVICE.get(code, 'The coordinator refused the call.')} ({detail})")
        self.code = code
        self.detail = detail


class AwayError(CoordinatorError):
    """No coordinator could be reached, or none could answer: try again later."""


class RejectedError(CoordinatorError):
    """The coordinator refuses; the same call will be refused again."""


class Channels:
    """TLS channels to a coordinator's addresses, tried in order from the one that worked last."""

    def __init__(self, addresses: Sequence[str], ca_der: bytes | None) -> None:
        self._addresses = list(addresses)
        self._credentials = grpc.ssl_channel_credentials(_pem(ca_der))
        self._options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", 32 << 20),
            # Our own back-off decides when to try again.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if ca_der is not None:
            self._options.append(("grpc.ssl_target_name_override", PRIVATE_SERVER_NAME))
        self._open: dict[str, grpc.aio.Channel] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def call(
        self,
        method: str,
        request: Message,
        response: type[_Response],
        *,
        timeout_s: float,
        token: bytes = b"",
    ) -> _Response:
        """One call, by fail-over. Raises AwayError after every address, RejectedError at a refusal."""
        away: AwayError | None = None
        for address in tuple(self._addresses):
            try:
                return await self._call_at(address, method, request, response, timeout_s, token)
            except AwayError as error:
                if error.code in _OF_THE_CALLER:
                    raise
                away = error
                self._addresses.append(self._addresses.pop(self._addresses.index(address)))
        raise away or AwayError("UNAVAILABLE", "no address is known")

    async def close(self) -> None:
        """Ends every channel."""
        channels = list(self._open.values())
        self._open.clear()
        await asyncio.gather(*(channel.close(None) for channel in channels), *self._closing)

    async def _call_at(
        self,
        address: str,
        method: str,
        request: Message,
        response: type[_Response],
        timeout_s: float,
        token: bytes,
    ) -> _Response:
        channel = self._open.get(address)
        if channel is None:
            channel = grpc.aio.secure_channel(address, self._credentials, self._options)
            self._open[address] = channel
        remote = channel.unary_unary(
            f"/chorus.v1.Coordinator/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        metadata = (("chorus-session-bin", token),) if token else None
        try:
            return await remote(request, timeout=timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                self._replace(address, channel)
            raise _understood(error, address) from None

    def _replace(self, address: str, channel: grpc.aio.Channel) -> None:
        """A connection that swallows calls may be dead without knowing it: the next call opens another."""
        if self._open.get(address) is channel:
            del self._open[address]
            task = asyncio.ensure_future(channel.close(CALL_TIMEOUT_S))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


class Coordinator:
    """Calls of an enrolled host; opens a session when there is none and again when one ends.

    With a memory its sessions are numbered, so that only one of two copies of a home goes on.
    """

    def __init__(self, enrolment: Enrolment, key: Ed25519PrivateKey, memory: Memory | None = None) -> None:
        self._host_id = enrolment.host_id
        self._key = key
        self._memory = memory
        self._channels = Channels(enrolment.addresses, enrolment.ca_der)
        self._token = b""
        self._opening = asyncio.Lock()

    async def work(
        self,
        results: Sequence[work_pb2.Result],
        *,
        want: int,
        tier: str,
        perspectives: Sequence[str],
        model: str = "",
        wait_ms: int = 0,
    ) -> work_pb2.WorkResponse:
        """Returns results, leases up to `want` units; safe to repeat. Raises AwayError or RejectedError."""
        signed = signing.result_batch(self._host_id, [signing.result(result) for result in results])
        request = work_pb2.WorkRequest(
            results=results,
            signature=self._key.sign(signed) if results else b"",
            want=want,
            tier=tier,
            perspectives=perspectives,
            model=model,
            wait_ms=wait_ms,
            last_message=None if self._memory is None else self._memory.message,
        )
        return await self._call("Work", request, work_pb2.WorkResponse, CALL_TIMEOUT_S + wait_ms / 1000)

    async def resume(self, held: Sequence[Ref]) -> work_pb2.ResumeResponse:
        """Tells what is held, hears what was forgotten. Raises AwayError or RejectedError."""
        request = work_pb2.ResumeRequest(held=[ref.message() for ref in held])
        return await self._call("Resume", request, work_pb2.ResumeResponse)

    async def renew(self, refs: Sequence[Ref]) -> work_pb2.RenewResponse:
        """Keeps leases alive. Raises AwayError or RejectedError."""
        request = work_pb2.RenewRequest(units=[ref.message() for ref in refs])
        return await self._call("Renew", request, work_pb2.RenewResponse)

    async def release(self, refs: Sequence[Ref], reason: str) -> None:
        """Hands leases back unfinished. Raises AwayError or RejectedError."""
        request = work_pb2.ReleaseRequest(units=[ref.message() for ref in refs], reason=reason)
        await self._call("Release", request, work_pb2.ReleaseResponse)

    async def standing(self) -> work_pb2.StandingResponse:
        """What the coordinator believes of this host. Raises AwayError or RejectedError."""
        return await self._call("Standing", work_pb2.StandingRequest(), work_pb2.StandingResponse)

    async def showed(self, message: int) -> None:
        """Remembers that a message was shown; where the disk fails, until the end of this run."""
        if self._memory is not None:
            with suppress(OSError):
                await asyncio.to_thread(self._memory.showed, message)

    async def close(self) -> None:
        """Ends the connections."""
        await self._channels.close()

    async def _call(
        self, method: str, request: Message, response: type[_Response], timeout_s: float = CALL_TIMEOUT_S
    ) -> _Response:
        token = self._token or await self._open_session(b"")
        try:
            return await self._channels.call(method, request, response, timeout_s=timeout_s, token=token)
        except AwayError as error:
            if error.code != "SESSION_INVALID":
                raise
        token = await self._open_session(token)
        return await self._channels.call(method, request, response, timeout_s=timeout_s, token=token)

    async def _open_session(self, ended: bytes) -> bytes:
        """A token other than the ended one; calls that fail together open one session together."""
        async with self._opening:
            if self._token != ended:
                return self._token
            sequence, mark = await self._remember(Memory.next_session) or (0, b"")
            challenge = await _challenge(self._channels)
            request = work_pb2.OpenSessionRequest(
                host_id=self._host_id,
                challenge=challenge,
                signature=self._key.sign(signing.session(challenge, self._host_id)),
                protocol=PROTOCOL,
                client_version=version("chorus-captions"),
                sequence=sequence,
                mark=mark,
            )
            opened = await self._channels.call(
                "OpenSession", request, work_pb2.OpenSessionResponse, timeout_s=CALL_TIMEOUT_S
            )
            await self._remember(Memory.opened)
            self._token = opened.session_token
            return self._token

    async def _remember(self, step: Callable[[Memory], _Value]) -> _Value | None:
        """A step of the memory, None without one. Raises AwayError where the disk fails."""
        if self._memory is None:
            return None
        try:
            return await asyncio.to_thread(step, self._memory)
        except OSError as error:
            raise AwayError("UNAVAILABLE", f"the home folder does not take its memory: {error}") from None


async def enrol(
    channels: Channels, key: Ed25519PrivateKey, invite_token: str, *, user: str, name: str, tier: str
) -> work_pb2.EnrolResponse:
    """Turns an invite and a key into a host. Raises AwayError or RejectedError."""
    challenge = await _challenge(channels)
    public_key = signing.public_bytes(key)
    request = work_pb2.EnrolRequest(
        invite_token=invite_token,
        public_key=public_key,
        challenge=challenge,
        signature=key.sign(signing.enrolment(challenge, invite_token, public_key)),
        user_name=user,
        host_name=name,
        tier=tier,
    )
    return await channels.call("Enrol", request, work_pb2.EnrolResponse, timeout_s=CALL_TIMEOUT_S)


async def _challenge(channels: Channels) -> bytes:
    request = work_pb2.ChallengeRequest()
    response = await channels.call("Challenge", request, work_pb2.ChallengeResponse, timeout_s=CALL_TIMEOUT_S)
    return response.challenge


def _pem(ca_der: bytes | None) -> bytes | None:
    return None if ca_der is None else ssl.DER_cert_to_PEM_cert(ca_der).encode()


def _understood(error: grpc.aio.AioRpcError, address: str) -> CoordinatorError:
    """What a failed call means: without a Chorus error code it never reached a coordinator's own words."""
    code = dict(error.trailing_metadata() or ()).get("chorus-error", "")
    name = code.decode("ascii", "replace") if isinstance(code, bytes) else code
    words = error.details() or error.code().name
    # Without a code it is gRPC that speaks, at length and with the cause at the end.
    detail = f"{address}: {(words if name else words.rpartition(': ')[2])[:300]}"
    if not name and error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return RejectedError("UNIMPLEMENTED", detail)
    if not name or name in _TRANSIENT:
        return AwayError(name or "UNAVAILABLE", detail)
    return RejectedError(name, detail)


class ImageError(Exception):
    """An image that could not be had. `code` is stable; `is_lasting` where another try gives the same."""

    def __init__(self, code: str, detail: str, *, is_lasting: bool) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.is_lasting = is_lasting


class Images:
    """Fetches images by hash, from the coordinator (pinned CA) or from elsewhere (public roots)."""

    def __init__(
        self,
        ca_der: bytes | None,
        *,
        random: Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        timeout = httpx2.Timeout(15.0)
        self._public = httpx2.AsyncClient(timeout=timeout)
        self._clients = [self._public]
        if ca_der is not None:
            context = ssl.create_default_context(cadata=ca_der)
            context.check_hostname = False  # the CA is the coordinator's own alone: it vouches, not the name
            self._clients.insert(0, httpx2.AsyncClient(timeout=timeout, verify=context))
        self._by_host: dict[str, httpx2.AsyncClient] = {}
        self._random = random
        self._sleep = sleep

    async def fetch(self, url: str, image_hash: bytes) -> bytes:
        """The bytes whose SHA-256 is `image_hash`, at most 20 MB. Raises ImageError."""
        backoff = Backoff(self._random, most_s=10.0)
        for attempt in range(1, IMAGE_TRIES + 1):
            try:
                async with asyncio.timeout(IMAGE_TIMEOUT_S):
                    data = await self._get(url)
                if hashlib.sha256(data).digest() == image_hash:
                    return data
                trouble = ImageError("image_hash_wrong", "the bytes are of another image", is_lasting=True)
            except ImageError as error:
                if error.is_lasting:
                    raise
                trouble = error
            except (httpx2.HTTPError, OSError, TimeoutError) as error:
                trouble = ImageError("image_unreachable", type(error).__name__, is_lasting=False)
            if attempt < IMAGE_TRIES:
                await self._sleep(backoff.failed())
        raise trouble

    async def close(self) -> None:
        """Ends the connections."""
        await asyncio.gather(*(client.aclose() for client in self._clients))

    async def _get(self, url: str) -> bytes:
        try:
            parts = urlsplit(url)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ImageError("image_url_invalid", "not an http or https URL", is_lasting=True)
        known = self._by_host.get(parts.netloc)
        for client in [known] if known else self._clients:
            try:
                data = await _download(client, url)
            except httpx2.ConnectError:
                if client is self._public or known:
                    raise
            else:
                self._by_host[parts.netloc] = client
                return data
        raise ImageError("image_unreachable", "no connection", is_lasting=False)


async def _download(client: httpx2.AsyncClient, url: str) -> bytes:
    # Identity only: a compressed body could unpack to more than the cap.
    async with client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as response:
        if response.status_code in {404, 410}:
            raise ImageError("image_gone", f"HTTP {response.status_code}", is_lasting=True)
        if response.status_code != 200:
            raise ImageError("image_unreachable", f"HTTP {response.status_code}", is_lasting=False)
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > IMAGE_BYTES:
                raise ImageError("image_too_large", f"over {IMAGE_BYTES} bytes", is_lasting=True)
        return bytes(body)
