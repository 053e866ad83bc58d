"""What the client's tests talk to: a coordinator played over TLS, images over HTTPS, a model over HTTP."""

import asyncio
import datetime
import hashlib
import io
import json
import os
import ssl
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image
from support.plain import TASK

from protos import signing, work_pb2
from protos.invite import PRIVATE_SERVER_NAME
from protos.work_pb2_grpc import CoordinatorServicer, add_CoordinatorServicer_to_server
from volunteer_client.configure import Enrolment, Home

LEASE_S = 30
Context = grpc.aio.ServicerContext


class Authority:
    """A private CA and one server certificate."""

    def __init__(self, folder: Path) -> None:
        ca_key, self.ca = self._certificate("CA", None, None)
        key, cert = self._certificate(PRIVATE_SERVER_NAME, ca_key, self.ca)
        self.ca_der = self.ca.public_bytes(serialization.Encoding.DER)
        self.key = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        self.cert = cert.public_bytes(serialization.Encoding.PEM)
        (folder / "server.pem").write_bytes(self.key + self.cert)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / "server.pem")

    def _certificate(
        self, name: str, issuer_key: ec.EllipticCurvePrivateKey | None, issuer: x509.Certificate | None
    ) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        signer = issuer_key or key
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
            )
        )
        if issuer is None:
            usage = dict.fromkeys(
                (
                    "digital_signature",
                    "content_commitment",
                    "key_encipherment",
                    "data_encipherment",
                    "key_agreement",
                    "encipher_only",
                    "decipher_only",
                ),
                False,
            )
            builder = builder.add_extension(
                x509.KeyUsage(**usage, key_cert_sign=True, crl_sign=True), critical=True
            )
        return key, builder.sign(signer, hashes.SHA256())


class Counterpart(CoordinatorServicer):
    """Plays the coordinator for these tests only: remembers everything, misbehaves on request."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.signing_key = Ed25519PrivateKey.generate()
        self.task = TASK
        self.waiting: list[work_pb2.Unit] = []
        self.leased: dict[int, work_pb2.Unit] = {}
        self.stored: dict[int, work_pb2.Result] = {}
        self.acks: Counter[str] = Counter()
        self.released: dict[int, str] = {}
        self.calls: Counter[str] = Counter()
        self.refuse_with: dict[str, str] = {}
        self.hang_on = ""
        self.lose_acks = 0
        self.messages: list[work_pb2.Message] = []
        self.lose_sessions = 0
        self.sequences: list[tuple[int, bytes]] = []
        self.lose_leases = 0
        self.resumed: list[set[int]] = []
        self.resent_at_once = 256
        self.stop_ids: set[int] = set()
        self.unreadable_ids: set[int] = set()
        self.sessions: set[bytes] = set()
        self.host_key = b""
        self.lease_s = LEASE_S
        self.changed = asyncio.Condition()
        self.images: dict[str, bytes] = {}
        self.image_gets: Counter[str] = Counter()
        self.image_port = 0
        self.address = ""

    def add_units(self, count: int, start: int = 1) -> None:
        for number in range(start, start + count):
            buffer = io.BytesIO()
            Image.new("RGB", (64, 64), (number * 7 % 256, number // 36, 90)).save(buffer, "JPEG")
            data = buffer.getvalue()
            name = hashlib.sha256(data).hexdigest()
            self.images[f"/{name}"] = data
            unit = work_pb2.Unit(
                campaign_id=1,
                unit_id=number,
                kind="caption",
                task_digest=self.task.digest,
                image_hash=bytes.fromhex(name),
                image_url=f"https://127.0.0.1:{self.image_port}/{name}",
            )
            message = signing.unit(1, number, "caption", self.task.digest, unit.image_hash, "")
            unit.signature = self.signing_key.sign(message)
            self.waiting.append(unit)

    def enrolment(self, key: Ed25519PrivateKey) -> Enrolment:
        self.host_key = signing.public_bytes(key)
        public = signing.public_bytes(self.signing_key)
        return Enrolment((self.address,), self.authority.ca_der, public, 7, "ann", "box", "cpu")

    async def until(self, condition: Callable[[], object], timeout_s: float = 20) -> None:
        async with asyncio.timeout(timeout_s), self.changed:
            await self.changed.wait_for(condition)

    async def _begin(self, name: str, context: Context, *, session: bool = True) -> None:
        self.calls[name] += 1
        async with self.changed:
            self.changed.notify_all()
        if name == self.hang_on:
            await asyncio.Event().wait()
        if name in self.refuse_with:
            await self._fail(context, self.refuse_with[name])
        token = dict(context.invocation_metadata()).get("chorus-session-bin")
        if session and token not in self.sessions:
            await self._fail(context, "SESSION_INVALID")

    async def _fail(self, context: Context, code: str) -> None:
        if not code:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        context.set_trailing_metadata((("chorus-error", code),))
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"told to say {code}")

    async def Challenge(  # noqa: N802  # the wire's
        self, _request: work_pb2.ChallengeRequest, context: Context
    ) -> work_pb2.ChallengeResponse:
        await self._begin("Challenge", context, session=False)
        return work_pb2.ChallengeResponse(challenge=b"c" * 16)

    async def Enrol(self, request: work_pb2.EnrolRequest, context: Context) -> work_pb2.EnrolResponse:  # noqa: N802  # the wire's
        await self._begin("Enrol", context, session=False)
        message = signing.enrolment(request.challenge, request.invite_token, request.public_key)
        if request.invite_token != "good" or not signing.verify(
            request.public_key, request.signature, message
        ):
            await self._fail(context, "INVITE_INVALID")
        self.host_key = request.public_key
        return work_pb2.EnrolResponse(
            host_id=7, user_name=request.user_name, coordinator_key=signing.public_bytes(self.signing_key)
        )

    async def OpenSession(  # noqa: N802  # the wire's
        self, request: work_pb2.OpenSessionRequest, context: Context
    ) -> work_pb2.OpenSessionResponse:
        await self._begin("OpenSession", context, session=False)
        message = signing.session(request.challenge, request.host_id)
        if not signing.verify(self.host_key, request.signature, message):
            await self._fail(context, "SIGNATURE_INVALID")
        self.sequences.append((request.sequence, request.mark))
        if self.lose_sessions:
            self.lose_sessions -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        token = b"session%d" % self.calls["OpenSession"]
        self.sessions.add(token)
        return work_pb2.OpenSessionResponse(session_token=token, lifetime_s=600)

    async def Resume(self, request: work_pb2.ResumeRequest, context: Context) -> work_pb2.ResumeResponse:  # noqa: N802  # the wire's
        await self._begin("Resume", context)
        self.resumed.append({ref.unit_id for ref in request.held})
        known = self.leased.keys() | self.stored.keys()
        stop = [ref for ref in request.held if ref.unit_id not in known]
        lost = sorted(self.leased.keys() - self.resumed[-1])
        units = [self.leased[unit_id] for unit_id in lost[: self.resent_at_once]]
        return work_pb2.ResumeResponse(
            leases=[self._batch(units)] if units else [], stop=stop, more=len(lost) > len(units)
        )

    def _batch(self, units: list[work_pb2.Unit]) -> work_pb2.LeaseBatch:
        lease = work_pb2.LeaseBatch(units=units, lease_s=self.lease_s)
        if units:
            lease.tasks.append(work_pb2.Task(digest=self.task.digest, body=self.task.body()))
        lease.signature = self.signing_key.sign(signing.lease_batch(7, self.lease_s, units))
        return lease

    async def Work(self, request: work_pb2.WorkRequest, context: Context) -> work_pb2.WorkResponse:  # noqa: N802  # the wire's
        await self._begin("Work", context)
        if request.results:
            hashed = [signing.result(result) for result in request.results]
            if not signing.verify(self.host_key, request.signature, signing.result_batch(7, hashed)):
                await self._fail(context, "SIGNATURE_INVALID")
        if self.unreadable_ids & {result.unit_id for result in request.results}:
            await self._fail(context, "INVALID_REQUEST")
        acks = [self._store(result) for result in request.results]
        if request.results and self.lose_acks:
            self.lose_acks -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        units = [self.waiting.pop(0) for _ in range(min(request.want, len(self.waiting)))]
        self.leased.update({unit.unit_id: unit for unit in units})
        async with self.changed:
            self.changed.notify_all()
        if self.lose_leases and units:
            self.lose_leases -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        new = [
            one for one in self.messages if request.HasField("last_message") and one.id > request.last_message
        ]
        return work_pb2.WorkResponse(
            messages=new,
            acks=acks,
            lease=self._batch(units),
            idle_reason="" if units else "no_work",
            retry_ms=50,
        )

    def _store(self, result: work_pb2.Result) -> work_pb2.Ack:
        before = self.stored.get(result.unit_id)
        if before is None and result.unit_id in self.leased:
            self.stored[result.unit_id] = result
            del self.leased[result.unit_id]
            is_failure = result.WhichOneof("outcome") == "failure"
            status = work_pb2.FAILURE_NOTED if is_failure else work_pb2.STORED
        elif before == result:
            status = work_pb2.DUPLICATE
        else:
            status = work_pb2.REFUSED
        self.acks[work_pb2.ResultStatus.Name(status)] += 1
        return work_pb2.Ack(campaign_id=1, unit_id=result.unit_id, status=status, reason="")

    async def Renew(self, request: work_pb2.RenewRequest, context: Context) -> work_pb2.RenewResponse:  # noqa: N802  # the wire's
        await self._begin("Renew", context)
        stop = [ref for ref in request.units if ref.unit_id in self.stop_ids]
        kept = [ref for ref in request.units if ref.unit_id not in self.stop_ids]
        return work_pb2.RenewResponse(renewed=kept, stop=stop, lease_s=self.lease_s)

    async def Release(self, request: work_pb2.ReleaseRequest, context: Context) -> work_pb2.ReleaseResponse:  # noqa: N802  # the wire's
        await self._begin("Release", context)
        for ref in request.units:
            self.leased.pop(ref.unit_id, None)
            self.released[ref.unit_id] = request.reason
        async with self.changed:
            self.changed.notify_all()
        return work_pb2.ReleaseResponse(released=len(request.units))

    async def Standing(  # noqa: N802  # the wire's
        self, _request: work_pb2.StandingRequest, context: Context
    ) -> work_pb2.StandingResponse:
        await self._begin("Standing", context)
        task = work_pb2.TaskStanding(
            campaign="street",
            perspective="caption",
            model="[m]",
            agreed=5,
            unchecked=2,
            credit=3.5,
            credit_each=0.5,
        )
        return work_pb2.StandingResponse(
            user_name="ann", host_name="box", agreed=5, credit=2.5, messages=self.messages, tasks=[task]
        )


@asynccontextmanager
async def http_server(
    answer: Callable[[str, bytes], Awaitable[tuple[int, bytes]]], context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """A small HTTP/1.1 server, one request a connection; gives its port."""

    serving: set[asyncio.Task] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        with (
            closing(writer),
            suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError),
        ):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(
                (
                    int(line.split(":")[1])
                    for line in head.split("\r\n")
                    if line.lower().startswith("content-length")
                ),
                0,
            )
            status, body = await answer(head.split(" ")[1], await reader.readexactly(length))
            writer.write(
                b"HTTP/1.1 %d X\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
            )
            writer.write(body)
            await writer.drain()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


class Model:
    """An OpenAI-compatible endpoint that answers when it is allowed to."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.in_flight: set[str] = set()
        self.asked_twice_at_once = False
        self.allowed = asyncio.Semaphore(10_000)
        self.status = 200
        self.text = '{"caption": "A plain coloured square."}'
        self.url = ""

    def answer_all(self) -> None:
        for _ in range(1000):
            self.allowed.release()

    async def answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        if not path.endswith("/chat/completions"):
            return 200, b'{"data": [{"id": "m", "owned_by": "vllm"}]}'
        image = json.loads(body)["messages"][0]["content"][1]["image_url"]["url"]
        self.asked_twice_at_once |= image in self.in_flight
        self.in_flight.add(image)
        self.asked[image] += 1
        try:
            await self.allowed.acquire()
        finally:
            self.in_flight.discard(image)
        if self.status != 200:
            return self.status, b'{"error": {"message": "no"}}'
        reply = {"model": "m-real", "choices": [{"message": {"content": self.text}, "finish_reason": "stop"}]}
        return 200, json.dumps(reply).encode()


@asynccontextmanager
async def client_process(
    home: Home, model: Model, *options: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from chorus.volunteer_commands import app; app()",
        *("run", "--endpoint", model.url, "--model", "m", "--home", str(home.folder), "--json-log", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "GRPC_VERBOSITY": "NONE"},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        output, _ = await process.communicate()
        print(output.decode())  # shown by pytest when the test fails


def spooled(home: Home, part: str) -> int:
    return len([path for path in (home.spool_folder / part).glob("*") if not path.name.startswith(".")])


async def read_until(process: asyncio.subprocess.Process, text: str) -> None:
    async with asyncio.timeout(20):
        while text not in (line := (await process.stdout.readline()).decode()):
            assert line, f"the client ended before it said {text!r}"


@asynccontextmanager
async def serving_counterpart(folder: Path) -> AsyncIterator[Counterpart]:
    """A played coordinator with its images, on loopback ports."""
    authority = Authority(folder)
    played = Counterpart(authority)

    async def image(path: str, _body: bytes) -> tuple[int, bytes]:
        played.image_gets[path] += 1
        return (200, played.images[path]) if path in played.images else (404, b"")

    server = grpc.aio.server()
    add_CoordinatorServicer_to_server(played, server)
    credentials = grpc.ssl_server_credentials([(authority.key, authority.cert)])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    played.address = f"127.0.0.1:{port}"
    await server.start()
    async with http_server(image, authority.context) as image_port:
        played.image_port = image_port
        yield played
    await server.stop(None)


@asynccontextmanager
async def serving_model() -> AsyncIterator[Model]:
    """A model endpoint on a loopback port."""
    served = Model()
    async with http_server(served.answer) as port:
        served.url = f"http://127.0.0.1:{port}/v1"
        yield served


def joined_home(folder: Path, counterpart: Counterpart) -> Home:
    """A home that has joined the played coordinator."""
    home = Home(folder)
    with home.lock():
        home.enrol(counterpart.enrolment(home.key_or_new()))
    return home
