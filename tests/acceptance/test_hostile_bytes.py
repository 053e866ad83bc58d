"""Whatever bytes strangers and volunteers send: nobody falls, faults are theirs, the log stays small."""

import asyncio
import contextlib
import json
import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import ground
from support.street import Street
from support.waiting import wait_until
from support.wire import METHODS, RawHost, messages

from coordinator.policy import Policy
from protos import signing, work_pb2

pytestmark = pytest.mark.long
HOSTS = 20
LONGEST_LINE, MOST_LOG = 20_000, 2_000_000


def _examples(count: int) -> settings:
    """So many, which take half a minute at most."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=count, deadline=None, database=None, suppress_health_check=slow)


THEIR_FAULT = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,  # larger than a message may be
}


@pytest.fixture(scope="module")
def street(open_folder: Path) -> Iterator[Street]:
    """A coordinator whose only campaign believes whoever answers, so that all that is taken is booked."""
    folder = Path(tempfile.mkdtemp(dir=open_folder))
    folder.chmod(0o711)
    with Street(folder, "--workers", "2") as running:
        yield running


@pytest.fixture(scope="module")
def hosts(street: Street) -> Iterator[list[RawHost]]:
    """So many hosts with sessions that none is parked for its bad answers."""
    policy = Policy(replication=1, max_voices=1, cross_check="lexical", lease_s=3600, max_failures=100)
    enrolled = asyncio.run(ground.lay(street.database_url, 20_000, HOSTS, policy))
    address, ca = f"127.0.0.1:{street.port}", (street.data / "keys" / "ca.pem").read_bytes()
    with contextlib.ExitStack() as open_ones:
        yield [open_ones.enter_context(RawHost(address, ca, *one)) for one in enrolled]


@pytest.fixture(scope="module")
def host(hosts: list[RawHost]) -> RawHost:
    """The first of them, which the test of answers leaves alone."""
    return hosts[0]


@pytest.fixture(autouse=True, scope="module")
def _unharmed(street: Street) -> Iterator[None]:
    """What holds after all that was sent."""
    roles = ("work", "images", "upkeep")
    before = {role: street.servers(role) for role in roles}
    yield
    assert {role: street.servers(role) for role in roles} == before, "a process died"
    undone = "SELECT count(*) FROM settled"
    wait_until(lambda: street.rows(undone) == [(0,)], 60)
    assert httpx2.get(f"http://127.0.0.1:{street.metrics_port}/readyz").status_code == 200
    for file in (street.data / "logs").iterdir():
        written = file.read_bytes()
        assert len(written) < MOST_LOG, file
        for line in written.splitlines():
            assert len(line) < LONGEST_LINE, line[:2000]
            assert line.startswith(b"{"), (file, line[:2000])
            event = json.loads(line)
            assert event["event"] not in {"call_failed", "step_failed"}, event
            assert event["level"] in {"info", "warning"}, event


def _say(host: RawHost, method: str, request: bytes, session: bytes | None = None) -> bytes:
    """Calls; what is refused has to be the caller's fault."""
    try:
        return host.call(method, request, session)
    except grpc.RpcError as error:
        if error.code() not in THEIR_FAULT:
            raise
        return b""


def _impatient(message: Any) -> Any:
    if isinstance(message, work_pb2.WorkRequest):
        message.wait_ms %= 20
    return message


MESSAGES = {method: messages(kind.DESCRIPTOR).map(_impatient) for method, kind in METHODS.items()}


@_examples(4000)
@given(
    called=st.sampled_from(sorted(METHODS)).flatmap(
        lambda method: st.tuples(st.just(method), MESSAGES[method])
    ),
    signed=st.booleans(),
    session=st.none() | st.binary(max_size=80),
)
def test_any_message_is_answered(
    host: RawHost, called: tuple[str, Any], signed: bool, session: bytes | None
) -> None:
    method, message = called
    if signed:
        match message:
            case work_pb2.WorkRequest():
                host.sign(message)
            case work_pb2.OpenSessionRequest():
                message.host_id, message.challenge = host.id, host.challenge()
                message.signature = host.key.sign(signing.session(message.challenge, host.id))
            case work_pb2.EnrolRequest():
                message.public_key, message.challenge = signing.public_bytes(host.key), host.challenge()
                proof = signing.enrolment(message.challenge, message.invite_token, message.public_key)
                message.signature = host.key.sign(proof)
            case _:
                pass
    _say(host, method, message.SerializeToString(), session)


@_examples(4000)
@given(method=st.sampled_from(sorted(METHODS)), request=st.binary(max_size=300))
def test_any_bytes_instead_of_a_message_are_answered(host: RawHost, method: str, request: bytes) -> None:
    _say(host, method, request)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
CHARACTERS = st.characters() | st.sampled_from("\x00\ud800\udfff\u202e\ufffe\U0001f600")
CAPTIONS = st.text(CHARACTERS, min_size=1, max_size=300).map(lambda text: {"caption": f"A red boat {text}"})
BODIES = st.one_of(
    CAPTIONS.map(lambda answer: json.dumps(answer).encode()),
    CAPTIONS.map(lambda answer: json.dumps(answer, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    st.builds(lambda value: json.dumps({"caption": value}).encode(), JSON),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.integers(1, 100_000).map(lambda depth: b'{"caption":' + b"[" * depth),
    st.binary(max_size=200),
)
ANSWERS = st.builds(
    work_pb2.Answer,
    body=BODIES,
    model=st.text(max_size=400),
    endpoint=st.text(max_size=400),
    seed=st.integers(-(2**63), 2**63 - 1),
    elapsed_ms=st.integers(0, 2**32 - 1),
)


@_examples(1000)
@given(answers=st.lists(ANSWERS, min_size=1, max_size=8), turn=st.integers(1, HOSTS - 1))
def test_any_answer_to_a_leased_unit_is_acknowledged(
    hosts: list[RawHost], answers: list[Any], turn: int
) -> None:
    host = hosts[turn]
    asked = work_pb2.WorkRequest(want=len(answers), tier="80g")
    leased = work_pb2.WorkResponse.FromString(_say(host, "Work", asked.SerializeToString())).lease.units
    assert leased, "the host gets no work"
    told = work_pb2.WorkRequest()
    for unit, answer in zip(leased, answers, strict=False):
        told.results.add(campaign_id=unit.campaign_id, unit_id=unit.unit_id, answer=answer)
    host.sign(told)
    acks = work_pb2.WorkResponse.FromString(_say(host, "Work", told.SerializeToString())).acks
    assert len(acks) == len(told.results)
    assert {ack.status for ack in acks} <= {work_pb2.STORED, work_pb2.REFUSED}


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAMES = st.builds(
    lambda kind, flags, stream, payload, lie: (
        (len(payload) + lie).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
    ),
    kind=st.integers(0, 12),
    flags=st.integers(0, 255),
    stream=st.integers(0, 5) | st.integers(0, 2**32 - 1),
    payload=st.binary(max_size=80),
    lie=st.sampled_from((0, 0, 0, 1, 70_000)),
)
REQUESTS = st.builds(
    lambda method, target, version, headers, body: b"".join(
        (method, b" ", target, b" HTTP/", version, b"\r\n", *headers, b"\r\n", body)
    ),
    method=st.sampled_from((b"GET", b"HEAD", b"POST", b"OPTIONS", b"CONNECT")) | st.binary(max_size=8),
    target=st.sampled_from((b"/", b"/images/", b"/metrics", b"/readyz", b"/images/%00", b"/images/../../x"))
    | st.builds(lambda path: b"/images/" + path, st.binary(max_size=80))
    | st.builds(lambda digest, query: b"/images/%s?expires=%s&mac=x" % (digest.hex().encode(), query),
                st.binary(max_size=40), st.binary(max_size=20)),
    version=st.sampled_from((b"1.1", b"1.0", b"2.0", b"9")),
    headers=st.lists(
        st.sampled_from((b"Host: x\r\n", b"Connection: close\r\n", b"Transfer-Encoding: chunked\r\n",
                         b"Content-Length: 99999999999999\r\n", b"Content-Length: -1\r\n",
                         b"Range: bytes=5-1\r\n", b"Upgrade: websocket\r\n", b"Accept-Encoding: gzip\r\n"))
        | st.binary(max_size=100).map(lambda line: line + b"\r\n"),
        max_size=6,
    ),
    body=st.binary(max_size=100),
)  # fmt: skip
STREAMS = st.one_of(
    st.binary(max_size=2000),
    REQUESTS,
    st.lists(FRAMES, max_size=8).map(lambda frames: PREFACE + b"".join(frames)),
)


@_examples(1500)
@given(door=st.sampled_from(("work", "images", "metrics")), tls=st.booleans(), sent=STREAMS)
def test_any_stream_at_any_port_is_survived(street: Street, door: str, tls: bool, sent: bytes) -> None:
    port = {"work": street.port, "images": street.images_port, "metrics": street.metrics_port}[door]
    answer = b""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as plain:
        plain.settimeout(0.02)
        with contextlib.ExitStack() as wrapped:
            connection: socket.socket = plain
            if tls and door != "metrics":
                plain.settimeout(5)
                connection = wrapped.enter_context(_context(door).wrap_socket(plain))
                connection.settimeout(0.02)
            connection.sendall(sent)
            answer = connection.recv(65_536)
    assert not answer.startswith((b"HTTP/1.1 5", b"HTTP/1.0 5")), answer


def _context(door: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if door == "work":
        context.set_alpn_protocols(["h2"])
    return context
