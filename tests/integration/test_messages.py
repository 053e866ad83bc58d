"""Words reach whom they are for, in order, and not twice while they stand."""

import asyncio
import contextlib
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.engine import Engine

from coordinator.errors import CallRefused, OperatorError
from coordinator.identity import Caller, Identity
from coordinator.keys import open_keys
from coordinator.messages import AT_ONCE, Messages, send, tell_owner, withdraw
from protos import signing, work_pb2
from protos.tier import Tier
from store.database import Transaction

DAY = timedelta(days=1)


@pytest.fixture
def messages(engine: Engine) -> Messages:
    return Messages(engine.db, engine.now)


async def _send(engine: Engine, to: str, text: str) -> int:
    return await send(engine.db, to, text, engine.time + DAY, engine.time)


async def _read(messages: Messages, caller: Caller, last: int = 0) -> list[str]:
    await messages.refresh()
    found = messages.after(last, user_id=caller.user_id, host_id=caller.host_id)
    assert [one.id for one in found] == sorted(one.id for one in found)
    return [one.text for one in found]


async def test_a_message_reaches_whom_it_is_for_and_nobody_else(engine: Engine, messages: Messages):
    ann, anns_other, bob = await engine.host("ann"), await engine.host("ann"), await engine.host("bob")
    for to in ("all", "user:ann", f"host:{anns_other.host_id}", "user:bob"):
        await _send(engine, to, f"to {to}")
    assert await _read(messages, ann) == ["to all", "to user:ann"]
    assert await _read(messages, anns_other) == ["to all", "to user:ann", f"to host:{anns_other.host_id}"]
    assert await _read(messages, bob) == ["to all", "to user:bob"]


async def test_what_was_seen_is_not_delivered_again_and_much_comes_in_parts(
    engine: Engine, messages: Messages
):
    host = await engine.host()
    sent = [await _send(engine, "all", f"number {number}") for number in range(AT_ONCE + 3)]
    assert len(await _read(messages, host)) == AT_ONCE
    rest = [f"number {AT_ONCE + number}" for number in range(3)]
    assert await _read(messages, host, last=sent[AT_ONCE - 1]) == rest
    assert await _read(messages, host, last=sent[-1]) == []


async def test_a_message_that_is_over_or_withdrawn_is_delivered_to_nobody(engine: Engine, messages: Messages):
    host = await engine.host()
    gone = await _send(engine, "all", "withdrawn")
    await _send(engine, "all", "for a day")
    await withdraw(engine.db, gone, engine.time)
    assert await _read(messages, host) == ["for a day"]
    with pytest.raises(OperatorError) as caught:
        await withdraw(engine.db, gone, engine.time)
    assert caught.value.code == "message_unknown"
    engine.pass_time(86_400)
    assert await _read(messages, host) == []


@pytest.mark.parametrize(
    ("to", "text", "code"),
    [
        ("everybody", "x", "message_addressee_invalid"),
        ("host:ann", "x", "message_addressee_invalid"),
        ("user:nobody", "x", "user_unknown"),
        ("host:99", "x", "host_unknown"),
        ("host:99999999999999999999", "x", "host_unknown"),
        ("all", " ", "message_text_invalid"),
        ("all", "a\nb", "message_text_invalid"),
        ("all", "\x1b[2J", "message_text_invalid"),
        ("all", "x" * 1001, "message_text_invalid"),
    ],
)
async def test_a_message_that_cannot_be_sent_says_why(engine: Engine, to: str, text: str, code: str):
    with pytest.raises(OperatorError) as caught:
        await _send(engine, to, text)
    assert caught.value.code == code
    assert await engine.value("SELECT count(*) FROM messages") == 0


async def test_the_same_message_does_not_stand_twice_however_many_send_it(engine: Engine, messages: Messages):
    host = await engine.host("ann")

    async def body(tx: Transaction) -> None:
        await tell_owner(tx, host.host_id, "parked", "it failed.", engine.time)

    await asyncio.gather(*(engine.db.transaction("tell", body) for _ in range(8)))
    assert await _read(messages, host) == [f"Host {host.host_id} (host): it failed."]
    engine.pass_time(8 * 86_400)
    await engine.db.transaction("tell", body)
    assert await engine.value("SELECT count(*) FROM messages") == 2


async def test_an_owner_is_told_of_a_copy_once(engine: Engine, messages: Messages, tmp_path: Path):
    identity = Identity(engine.db, open_keys(tmp_path / "keys", (), engine.time), engine.now)
    key = Ed25519PrivateKey.generate()
    token = await identity.invite("ann", Tier.G80, 1, DAY)
    challenge, public = identity.challenge(), signing.public_bytes(key)
    signature = key.sign(signing.enrolment(challenge, token, public))
    enrolled = await identity.enrol(
        work_pb2.EnrolRequest(
            invite_token=token, public_key=public, challenge=challenge, signature=signature, tier="cpu"
        )
    )
    for sequence, mark in ((2, b"a"), (1, b"b"), (2, b"b")):
        challenge = identity.challenge()
        request = work_pb2.OpenSessionRequest(
            host_id=enrolled.host_id,
            challenge=challenge,
            signature=key.sign(signing.session(challenge, enrolled.host_id)),
            protocol=1,
            sequence=sequence,
            mark=mark * 16,
        )
        with contextlib.suppress(CallRefused):
            await identity.open_session(request)
    [(user_id, code)] = await engine.fetch("SELECT user_id, code FROM messages")
    assert (code, len(await _read(messages, Caller(enrolled.host_id, user_id, Tier.CPU)))) == ("copied", 1)
