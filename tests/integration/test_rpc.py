"""The work server over real TLS: whatever a stranger sends ends in a stable code, and others are served."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from support.engine import Engine, caption

from coordinator import fleet
from coordinator.clock import now
from coordinator.identity import Identity
from coordinator.keys import keys_of
from coordinator.messages import send
from coordinator.rpc import MAX_REFS, MAX_RESULTS, MAX_WANT
from coordinator.server import work_server
from coordinator.settings import Settings
from protos import signing, work_pb2, work_pb2_grpc
from protos.invite import PRIVATE_SERVER_NAME
from protos.tier import Tier

U32, U64 = 2**32 - 1, 2**64 - 1


class Volunteer:
    """A bare client: no retries, no manners."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.stub = work_pb2_grpc.CoordinatorStub(channel)
        self.key = Ed25519PrivateKey.generate()
        self.host_id = 0
        self.coordinator_key = b""
        self.token = b""

    async def call(self, method: str, request: Message, token: bytes | None = None) -> Any:
        """The response; a failed call raises grpc.aio.AioRpcError."""
        session = (("chorus-session-bin", self.token if token is None else token),)
        return await getattr(self.stub, method)(request, metadata=session, timeout=20)

    async def outcome(self, method: str, request: Message, token: bytes | None = None) -> str:
        """ "ok", or the code in the trailing metadata; "" where a failed call has none."""
        try:
            await self.call(method, request, token)
        except grpc.aio.AioRpcError as error:
            return str(dict(error.trailing_metadata() or ()).get("chorus-error", ""))
        return "ok"

    async def enrolment(self, invite: str, **fields: str) -> work_pb2.EnrolRequest:
        challenge = (await self.call("Challenge", work_pb2.ChallengeRequest())).challenge
        public = signing.public_bytes(self.key)
        signature = self.key.sign(signing.enrolment(challenge, invite, public))
        said = {"invite_token": invite, "user_name": "ann", "host_name": "desk", "tier": "24g"} | fields
        return work_pb2.EnrolRequest(public_key=public, challenge=challenge, signature=signature, **said)

    async def session(self, **fields: Any) -> work_pb2.OpenSessionRequest:
        challenge = (await self.call("Challenge", work_pb2.ChallengeRequest())).challenge
        signature = self.key.sign(signing.session(challenge, self.host_id))
        said = {"host_id": self.host_id, "protocol": 1, "client_version": "test"} | fields
        return work_pb2.OpenSessionRequest(challenge=challenge, signature=signature, **said)

    async def join(self, invite: str) -> None:
        enrolled = await self.call("Enrol", await self.enrolment(invite))
        self.host_id, self.coordinator_key = enrolled.host_id, enrolled.coordinator_key
        self.token = (await self.call("OpenSession", await self.session())).session_token

    def signed(self, results: list[work_pb2.Result], **fields: Any) -> work_pb2.WorkRequest:
        message = signing.result_batch(self.host_id, [signing.result(result) for result in results])
        return work_pb2.WorkRequest(results=results, signature=self.key.sign(message), **fields)

    async def lease(self, want: int = 1, **fields: Any) -> list[work_pb2.Unit]:
        response = await self.call("Work", work_pb2.WorkRequest(want=want, tier="24g", **fields))
        return list(response.lease.units)


def _answer(unit: work_pb2.Unit, body: bytes | None = None, **fields: Any) -> work_pb2.Result:
    said = json.dumps({"caption": caption(5)}).encode() if body is None else body
    answer = work_pb2.Answer(body=said, **{"model": "m", "endpoint": "test", **fields})
    return work_pb2.Result(campaign_id=unit.campaign_id, unit_id=unit.unit_id, answer=answer)


@pytest.fixture
def settings(data_folder: Path) -> Settings:
    return Settings(data=data_folder, port=0, images_port=0, pool=4)


@asynccontextmanager
async def _channel(settings: Settings, port: int) -> AsyncIterator[grpc.aio.Channel]:
    ca = x509.load_der_x509_certificate(keys_of(settings).ca_der).public_bytes(serialization.Encoding.PEM)
    name = (("grpc.ssl_target_name_override", PRIVATE_SERVER_NAME),)
    credentials = grpc.ssl_channel_credentials(ca)
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, name) as channel:
        yield channel


@pytest.fixture
async def port(settings: Settings, engine: Engine, database_url: str) -> AsyncIterator[int]:
    """A server with one campaign of 6 units."""
    await engine.images(await engine.campaign(), 6)
    async with work_server(settings, database_url) as listening:
        yield listening


@pytest.fixture
async def invite(settings: Settings, engine: Engine) -> str:
    identity = Identity(engine.db, keys_of(settings), now)
    return await identity.invite(None, Tier.G80, 100, timedelta(days=1))


@pytest.fixture
async def volunteer(settings: Settings, port: int, invite: str) -> AsyncIterator[Volunteer]:
    async with _channel(settings, port) as channel:
        joined = Volunteer(channel)
        await joined.join(invite)
        yield joined


async def test_a_volunteer_joins_leases_returns_and_sees_its_standing(volunteer: Volunteer, engine: Engine):
    response = await volunteer.call("Work", work_pb2.WorkRequest(want=2, tier="24g"))
    batch = response.lease
    assert len(batch.units) == 2
    message = signing.lease_batch(volunteer.host_id, batch.lease_s, batch.units)
    assert signing.verify(volunteer.coordinator_key, batch.signature, message)
    assert {unit.task_digest for unit in batch.units} == {task.digest for task in batch.tasks}

    request = volunteer.signed([_answer(unit) for unit in batch.units])
    acks = [(await volunteer.call("Work", request)).acks for _ in range(2)]
    assert [ack.status for ack in acks[0]] == [work_pb2.STORED] * 2
    assert [ack.status for ack in acks[1]] == [work_pb2.DUPLICATE] * 2
    standing = await volunteer.call("Standing", work_pb2.StandingRequest())
    assert (standing.user_name, standing.host_name, standing.waiting) == ("ann", "desk", 2)
    assert await engine.value("SELECT count(*) FROM results") == 2


async def test_forgotten_leases_are_sent_again_signed_and_can_be_answered(volunteer: Volunteer):
    units = await volunteer.lease(3)
    kept, *forgotten = units
    refs = [work_pb2.UnitRef(campaign_id=unit.campaign_id, unit_id=unit.unit_id) for unit in (kept,)]
    strange = work_pb2.UnitRef(campaign_id=U32, unit_id=U64)
    response = await volunteer.call("Resume", work_pb2.ResumeRequest(held=[*refs, strange]))
    [batch] = response.leases
    assert [unit.unit_id for unit in batch.units] == [unit.unit_id for unit in forgotten]
    assert [unit.signature for unit in batch.units] == [unit.signature for unit in forgotten]
    message = signing.lease_batch(volunteer.host_id, batch.lease_s, batch.units)
    assert signing.verify(volunteer.coordinator_key, batch.signature, message)
    assert (list(response.stop), response.more) == ([strange], False)
    acks = (await volunteer.call("Work", volunteer.signed([_answer(unit) for unit in batch.units]))).acks
    assert [ack.status for ack in acks] == [work_pb2.STORED] * 2


async def test_messages_come_with_work_to_those_who_ask_for_them(volunteer: Volunteer, engine: Engine):
    sent = await send(engine.db, "user:ann", "Thank you.", now() + timedelta(days=1), now())
    said: list[work_pb2.Message] = []
    async with asyncio.timeout(20):
        while not said:
            request = work_pb2.WorkRequest(want=1, tier="24g", wait_ms=500, last_message=0)
            said = list((await volunteer.call("Work", request)).messages)
    assert [(one.id, one.code, one.text) for one in said] == [(sent, "operator", "Thank you.")]
    seen = await volunteer.call("Work", work_pb2.WorkRequest(last_message=sent))
    old_client = await volunteer.call("Work", work_pb2.WorkRequest())
    standing = await volunteer.call("Standing", work_pb2.StandingRequest())
    assert [list(seen.messages), list(old_client.messages), list(standing.messages)] == [[], [], said]


async def test_what_a_host_signed_is_kept_and_verifies_later(volunteer: Volunteer, engine: Engine):
    units = await volunteer.lease(2)
    await volunteer.call("Work", volunteer.signed([_answer(unit) for unit in units]))
    [(hashes, signature, public_key)] = await engine.fetch(
        "SELECT r.hashes, r.signature, h.public_key FROM returns r JOIN hosts h ON h.id = r.host_id"
    )
    listed = [hashes[place : place + 32] for place in range(0, len(hashes), 32)]
    assert signing.verify(public_key, signature, signing.result_batch(volunteer.host_id, listed))
    stored = {digest for (digest,) in await engine.fetch("SELECT hash FROM results")}
    assert stored == set(listed)


async def test_calls_that_are_refused_whole_say_why_by_a_stable_code(volunteer: Volunteer, invite: str):
    unit = (await volunteer.lease())[0]
    wrongly_signed = volunteer.signed([_answer(unit)])
    wrongly_signed.results[0].answer.model = "another"
    too_many = volunteer.signed([_answer(unit)] * (MAX_RESULTS + 1))
    refs = [work_pb2.UnitRef(campaign_id=1, unit_id=1)] * (MAX_REFS + 1)
    other = Volunteer(volunteer.channel)
    altered_key = await other.enrolment(invite)
    altered_key.public_key = signing.public_bytes(volunteer.key)
    cases: dict[str, tuple[str, Message, bytes | None, str]] = {
        "no session": ("Work", work_pb2.WorkRequest(want=1, tier="cpu"), b"", "SESSION_INVALID"),
        "renew, no session": ("Renew", work_pb2.RenewRequest(), b"", "SESSION_INVALID"),
        "resume, no session": ("Resume", work_pb2.ResumeRequest(), b"", "SESSION_INVALID"),
        "too many to resume": ("Resume", work_pb2.ResumeRequest(held=refs), None, "BATCH_TOO_LARGE"),
        "release, no session": ("Release", work_pb2.ReleaseRequest(), b"", "SESSION_INVALID"),
        "standing, no session": ("Standing", work_pb2.StandingRequest(), b"", "SESSION_INVALID"),
        "altered session": ("Standing", work_pb2.StandingRequest(), volunteer.token[:-1], "SESSION_INVALID"),
        "wrong signature": ("Work", wrongly_signed, None, "SIGNATURE_INVALID"),
        "no signature": ("Work", work_pb2.WorkRequest(results=[_answer(unit)]), None, "SIGNATURE_INVALID"),
        "too many results": ("Work", too_many, None, "BATCH_TOO_LARGE"),
        "too many to renew": ("Renew", work_pb2.RenewRequest(units=refs), None, "BATCH_TOO_LARGE"),
        "too many to release": ("Release", work_pb2.ReleaseRequest(units=refs), None, "BATCH_TOO_LARGE"),
        "unknown tier": ("Work", work_pb2.WorkRequest(want=1, tier="13g"), None, "INVALID_REQUEST"),
        "too many perspectives": (
            "Work",
            work_pb2.WorkRequest(want=1, tier="24g", perspectives=["p"] * 65),
            None,
            "INVALID_REQUEST",
        ),
        "no tier": ("Work", work_pb2.WorkRequest(want=1), None, "INVALID_REQUEST"),
        "huge tier": ("Work", work_pb2.WorkRequest(want=1, tier="x" * 10**6), None, "INVALID_REQUEST"),
        "neither answer nor failure": (
            "Work",
            volunteer.signed([work_pb2.Result(campaign_id=1, unit_id=1)]),
            None,
            "INVALID_REQUEST",
        ),
        "enrolment, tier": ("Enrol", await other.enrolment(invite, tier="13g"), b"", "INVALID_REQUEST"),
        "enrolment, invite": ("Enrol", await other.enrolment("x"), b"", "INVITE_INVALID"),
        "enrolment, key": ("Enrol", altered_key, b"", "SIGNATURE_INVALID"),
        "enrolment, nothing": ("Enrol", work_pb2.EnrolRequest(), b"", "CHALLENGE_INVALID"),
        "session, nothing": ("OpenSession", work_pb2.OpenSessionRequest(), b"", "CLIENT_TOO_OLD"),
        "session, old client": ("OpenSession", await volunteer.session(protocol=0), b"", "CLIENT_TOO_OLD"),
        "session, challenge": (
            "OpenSession",
            work_pb2.OpenSessionRequest(protocol=1),
            b"",
            "CHALLENGE_INVALID",
        ),
        "session, host 0": ("OpenSession", await volunteer.session(host_id=0), b"", "HOST_UNKNOWN"),
        "session, host 2^63": ("OpenSession", await volunteer.session(host_id=2**63), b"", "HOST_UNKNOWN"),
        "session, host 2^64-1": ("OpenSession", await volunteer.session(host_id=U64), b"", "HOST_UNKNOWN"),
        "session, other host": (
            "OpenSession",
            await other.session(host_id=volunteer.host_id),
            b"",
            "SIGNATURE_INVALID",
        ),
    }
    codes = {name: await volunteer.outcome(*case[:3]) for name, case in cases.items()}
    assert codes == {name: case[3] for name, case in cases.items()}
    assert await volunteer.outcome("Work", volunteer.signed([_answer(unit)])) == "ok"


async def test_ids_beyond_every_range_name_nothing_and_harm_nothing(volunteer: Volunteer, engine: Engine):
    ids = [(0, 0), (1, 0), (U32, 1), (1, U64), (2**31, 2**63), (2**31 - 1, 2**63 - 1), (U32, U64)]
    units = [work_pb2.Unit(campaign_id=campaign, unit_id=unit) for campaign, unit in ids]
    failures = [
        work_pb2.Result(campaign_id=campaign, unit_id=unit, failure="model_refused: no")
        for campaign, unit in ids
    ]
    refs = [work_pb2.UnitRef(campaign_id=campaign, unit_id=unit) for campaign, unit in ids]

    answered = await volunteer.call("Work", volunteer.signed([_answer(unit) for unit in units]))
    failed = await volunteer.call("Work", volunteer.signed(failures))
    renewed = await volunteer.call("Renew", work_pb2.RenewRequest(units=refs))
    released = await volunteer.call("Release", work_pb2.ReleaseRequest(units=refs))

    for acks in (answered.acks, failed.acks):
        assert [(ack.campaign_id, ack.unit_id) for ack in acks] == ids
        assert {ack.status for ack in acks} == {work_pb2.REFUSED}
        assert all(ack.reason.split(":")[0] in {"unknown_unit", "not_leased"} for ack in acks)
    assert (list(renewed.renewed), released.released) == ([], 0)
    assert len(await volunteer.lease()) == 1
    assert await engine.value("SELECT count(*) FROM results") == 0


HOSTILE = (
    "\0",
    "a\0b",
    "\x1b[2J\r\n",
    "\u202egnp.exe",
    "\U0010ffff",
    "'; DROP TABLE units; --",
    "%s%(x)s",
    "x" * 100_000,
)


WITH_TEXT: dict[str, type[Message]] = {
    "Enrol": work_pb2.EnrolRequest,
    "OpenSession": work_pb2.OpenSessionRequest,
    "Work": work_pb2.WorkRequest,
    "Release": work_pb2.ReleaseRequest,
}


def _text_fields(message: Descriptor, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every string field, those of inner messages too."""
    for field in message.fields:
        if field.message_type is not None:
            yield from _text_fields(field.message_type, (*path, field.name))
        elif field.type == field.TYPE_STRING:
            yield (*path, field.name)


async def _request_with(
    volunteer: Volunteer, invite: str, kind: type[Message], path: tuple[str, ...], text: str
) -> Message:
    """A request that is right but for one string."""
    if kind is work_pb2.EnrolRequest:
        newcomer = Volunteer(volunteer.channel)
        if path == ("invite_token",):
            return await newcomer.enrolment(text)
        return await newcomer.enrolment(invite, **{path[0]: text})
    match path:
        case ("results", "failure"):
            result = _answer((await volunteer.lease())[0])
            result.failure = text
            return volunteer.signed([result])
        case ("results", "answer", field):
            return volunteer.signed([_answer((await volunteer.lease())[0], **{field: text})])
        case ("tier",) | ("perspectives",) | ("model",):
            said = {
                "tier": "cpu",
                "perspectives": ["x"],
                path[0]: [text] if path[0] == "perspectives" else text,
            }
            return work_pb2.WorkRequest(want=1, **said)
        case ("client_version",):
            return await volunteer.session(client_version=text)
        case ("reason",):
            unit = (await volunteer.lease())[0]
            ref = work_pb2.UnitRef(campaign_id=unit.campaign_id, unit_id=unit.unit_id)
            return work_pb2.ReleaseRequest(units=[ref], reason=text)
        case _:
            raise AssertionError(f"a string field that this test does not know: {path}")


async def test_hostile_text_in_any_field_is_stored_clean_or_refused_in_words(
    volunteer: Volunteer, invite: str, engine: Engine
):
    campaign = engine.campaigns.running()[0]
    await engine.images(campaign, 60)
    expected = {("invite_token",): "INVITE_INVALID", ("tier",): "INVALID_REQUEST"}
    wrong = []
    for method, kind in WITH_TEXT.items():
        for path in _text_fields(kind.DESCRIPTOR):
            for text in HOSTILE:
                code = await volunteer.outcome(
                    method, await _request_with(volunteer, invite, kind, path, text)
                )
                if code != expected.get(path, "ok"):
                    wrong.append((method, path, text[:20], code))
    assert not wrong
    columns = (
        "SELECT model FROM results UNION SELECT endpoint FROM results UNION SELECT detail FROM past_leases"
    )
    stored = [text for (text,) in await engine.fetch(f"{columns} UNION SELECT name FROM hosts")]  # noqa: S608 (fixed text)
    assert all(text.isprintable() and len(text) <= 300 for text in stored)


BODIES = {
    b"": "not_json",
    b"\xff\xfe\xfd": "not_json",
    b'{"caption": "\xc3"}': "not_json",
    b'{"caption": NaN}': "",
    b"[" * 60_000: "not_json",
    b'{"caption": 7}': "",
    b'{"caption": "' + b"x" * 1_000_000 + b'"}': "too_long",
}


async def test_an_answer_that_is_none_is_refused_by_reason_and_its_replica_waits_again(
    volunteer: Volunteer, engine: Engine
):
    waiting = await engine.value("SELECT count(*) FROM ready")
    units = await volunteer.lease(6)
    for (body, reason), unit in zip(BODIES.items(), [*units, units[0]], strict=True):
        [ack] = (await volunteer.call("Work", volunteer.signed([_answer(unit, body)]))).acks
        code, words = ack.reason.split(": ", 1)
        assert ack.status == work_pb2.REFUSED
        assert code in {"invalid", "not_leased"}
        assert code == "not_leased" or words.startswith(reason), (body[:20], ack.reason)
        assert len(ack.reason) < 1000
    assert await engine.value("SELECT count(*) FROM results") == 0
    assert await engine.value("SELECT count(*) FROM ready WHERE lane = 0") == waiting


async def test_a_caption_with_nul_escapes_is_stored_without_them(volunteer: Volunteer, engine: Engine):
    [unit] = await volunteer.lease()
    body = b'{"caption":"a dog\\u0000 on a \\ud800beach by the sea"}'
    [ack] = (await volunteer.call("Work", volunteer.signed([_answer(unit, body)]))).acks
    assert ack.status == work_pb2.STORED
    assert "\0" not in (await engine.value("SELECT answer FROM results"))["caption"]


async def test_figures_at_their_limits_are_stored(volunteer: Volunteer, engine: Engine):
    one, two = await volunteer.lease(2)
    results = [_answer(one, seed=2**63 - 1, elapsed_ms=U32), _answer(two, seed=-(2**63))]
    acks = (await volunteer.call("Work", volunteer.signed(results))).acks
    assert [ack.status for ack in acks] == [work_pb2.STORED] * 2
    assert await engine.value("SELECT max(elapsed_ms) FROM results") == 2**31 - 1


async def test_a_server_that_starts_while_the_database_recovers_waits_for_it(
    settings: Settings, engine: Engine, postgres: str, database_url: str
):
    name = await engine.value("SELECT current_database()")
    async with await psycopg.AsyncConnection.connect(postgres, autocommit=True) as operator:
        await operator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        with structlog.testing.capture_logs() as said:
            serving = work_server(settings, database_url)
            started = asyncio.create_task(serving.__aenter__())
            async with asyncio.timeout(20):
                while not any(line["event"] == "database_awaited" for line in said):  # noqa: ASYNC110 (a list)
                    await asyncio.sleep(0.01)
            assert not started.done()
            await operator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
            async with _channel(settings, await started) as channel:
                assert (await Volunteer(channel).call("Challenge", work_pb2.ChallengeRequest())).challenge
            await serving.__aexit__(None, None, None)


async def test_a_greedy_host_gets_a_bounded_batch(volunteer: Volunteer, engine: Engine):
    await engine.images(engine.campaigns.running()[0], MAX_WANT + 50)
    leased: list[work_pb2.Unit] = []
    while not leased:
        # A claim starts at a random place of its shelf, and the server's picture of it is a moment old.
        leased = await volunteer.lease(U32, wait_ms=2000)
    assert 0 < len(leased) <= MAX_WANT
    assert len({(unit.unit_id, unit.lane) for unit in leased}) == len(leased)


async def test_bytes_that_are_no_message_are_refused_by_a_code_as_anything_malformed(volunteer: Volunteer):
    # Bytes that end too early, a length beyond every memory, a field that does not exist; no UTF-8 in a text.
    junk = (b"\xff" * 50, b"\x0a\xff\xff\xff\xff\x0f", bytes(1000))
    newcomer = b"\x2a\x02\xff\xfe"  # EnrolRequest.user_name
    for method in ("Enrol", "OpenSession", "Work", "Renew", "Release"):
        raw = volunteer.channel.unary_unary(f"/chorus.v1.Coordinator/{method}")
        for content in junk:
            call = raw(content, metadata=(("chorus-session-bin", volunteer.token),), timeout=20)
            assert dict(await call.trailing_metadata())["chorus-error"] == "INVALID_REQUEST"
    call = volunteer.channel.unary_unary("/chorus.v1.Coordinator/Enrol")(newcomer, timeout=20)
    assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert len(await volunteer.lease()) == 1


async def test_a_message_too_large_to_read_is_refused_and_the_channel_lives(volunteer: Volunteer):
    request = work_pb2.WorkRequest(want=1, tier="cpu", perspectives=["x" * (9 * 1024 * 1024)])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await volunteer.call("Work", request)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(await volunteer.lease()) == 1


async def test_nobody_is_served_in_the_clear_nor_under_a_strangers_certificate(
    volunteer: Volunteer, port: int, data_folder: Path
):
    stranger = keys_of(Settings(data=data_folder / "stranger")).ca_der
    pem = x509.load_der_x509_certificate(stranger).public_bytes(serialization.Encoding.PEM)
    name = (("grpc.ssl_target_name_override", PRIVATE_SERVER_NAME),)
    target = f"127.0.0.1:{port}"
    channels = (
        grpc.aio.insecure_channel(target),
        grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(pem), name),
    )
    for channel in channels:
        async with channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await work_pb2_grpc.CoordinatorStub(channel).Challenge(
                    work_pb2.ChallengeRequest(), timeout=10
                )
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert len(await volunteer.lease()) == 1


async def test_a_waiting_call_is_answered_soon_after_work_arrives(volunteer: Volunteer, engine: Engine):
    assert len(await volunteer.lease(6)) == 6
    waiting = asyncio.create_task(volunteer.lease(1, wait_ms=60_000))
    done, _ = await asyncio.wait([waiting], timeout=0.3)
    assert not done
    await engine.images(engine.campaigns.running()[0], 1)
    begun = time.monotonic()
    assert len(await asyncio.wait_for(waiting, 10)) == 1
    assert time.monotonic() - begun < 5


async def test_a_call_that_is_hung_up_while_it_waits_swallows_no_work(
    volunteer: Volunteer, settings: Settings, port: int, invite: str, engine: Engine
):
    assert len(await volunteer.lease(6)) == 6
    async with _channel(settings, port) as channel:
        second = Volunteer(channel)
        await second.join(invite)
        assert len(await second.lease(6, wait_ms=20_000)) == 6
        request = work_pb2.WorkRequest(want=1, tier="24g", wait_ms=60_000)
        hung_up = volunteer.stub.Work(request, metadata=(("chorus-session-bin", volunteer.token),))
        await volunteer.call("Challenge", work_pb2.ChallengeRequest())
        waiting = asyncio.create_task(second.lease(1, wait_ms=60_000))
        hung_up.cancel()
        await volunteer.call("Challenge", work_pb2.ChallengeRequest())
        await engine.images(engine.campaigns.running()[0], 1)
        assert len(await asyncio.wait_for(waiting, 20)) == 1
    assert await engine.value("SELECT count(*) FROM leases") == 13


async def test_an_idle_host_is_told_why_and_when_to_come_back(volunteer: Volunteer, engine: Engine):
    request = work_pb2.WorkRequest(want=1, tier="24g", perspectives=["nobody has it"])
    response = await volunteer.call("Work", request)
    assert (response.idle_reason, response.retry_ms > 0) == ("no_work_for_perspectives", True)
    await engine.fetch("UPDATE campaigns SET state = 'paused' RETURNING id")
    async with asyncio.timeout(10):
        while response.idle_reason != "paused_by_operator":
            response = await volunteer.call("Work", work_pb2.WorkRequest(want=1, tier="24g", wait_ms=200))
    assert not response.lease.units


async def test_a_throttled_or_parked_host_is_told_why_and_for_how_long(volunteer: Volunteer, engine: Engine):
    async def told(reason: str) -> work_pb2.WorkResponse:
        async with asyncio.timeout(20):
            while True:
                request = work_pb2.WorkRequest(want=5, tier="24g", wait_ms=200)
                response = await volunteer.call("Work", request)
                if response.idle_reason == reason:
                    return response

    insert = "INSERT INTO host_quotas VALUES (%s, 2, 0, 0, NULL, '') RETURNING 1"
    await engine.fetch(insert, volunteer.host_id)
    throttled = await told("over_quota")
    assert (len(throttled.lease.units), throttled.retry_ms >= 2000) == (0, True)
    held = await engine.value("SELECT count(*) FROM leases")
    await fleet.park(engine.db, volunteer.host_id, timedelta(minutes=5), "", now())
    parked = await told("parked")
    assert 200_000 < parked.retry_ms <= 300_000
    assert await engine.value("SELECT count(*) FROM leases") == held
    await fleet.release(engine.db, volunteer.host_id, now())
    await told("over_quota")


async def test_a_fault_of_ours_is_unavailable_and_passes(
    volunteer: Volunteer, database_url: str, engine: Engine
):
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE leases RENAME TO hidden")
        code = await volunteer.outcome("Work", work_pb2.WorkRequest(want=1, tier="24g"))
        connection.execute("ALTER TABLE hidden RENAME TO leases")
    assert code == "UNAVAILABLE"
    assert len(await volunteer.lease()) == 1
    assert await engine.value("SELECT count(*) FROM leases") == 1


async def test_the_log_tells_whose_call_was_refused_and_of_nobody_else(volunteer: Volunteer):
    context = structlog.contextvars.merge_contextvars
    with structlog.testing.capture_logs(processors=[context]) as told:
        with pytest.raises(grpc.aio.AioRpcError):
            await volunteer.call("Work", work_pb2.WorkRequest(want=1, tier="huge"))
        token, volunteer.token = volunteer.token, b""
        with pytest.raises(grpc.aio.AioRpcError):
            await volunteer.call("Standing", work_pb2.StandingRequest())
        volunteer.token = token
        strange = work_pb2.Result(campaign_id=1, unit_id=2**40, failure="none of mine")
        await volunteer.call("Work", volunteer.signed([strange]))
    lines = [line for line in told if line["event"] in {"call_refused", "results_refused"}]
    assert [(line["event"], line.get("host_id")) for line in lines] == [
        ("call_refused", volunteer.host_id),
        ("call_refused", None),
        ("results_refused", volunteer.host_id),
    ]
    assert lines[0]["code"] == "INVALID_REQUEST"
    assert lines[2]["units"] == [f"1/{2**40}"]
