"""Enrolment: an invite lets in exactly as many as it says, and a key is one host for ever."""

import asyncio
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.engine import Engine

from coordinator.errors import CallRefused
from coordinator.identity import Identity
from coordinator.keys import open_keys
from protos import signing, work_pb2
from protos.tier import Tier

DAY = timedelta(days=1)


@pytest.fixture
def identity(engine: Engine, tmp_path: Path) -> Identity:
    return Identity(engine.db, open_keys(tmp_path / "keys", (), engine.time), engine.now)


def _request(
    identity: Identity, token: str, key: Ed25519PrivateKey, user: str = "ann", tier: str = "24g"
) -> work_pb2.EnrolRequest:
    challenge, public = identity.challenge(), signing.public_bytes(key)
    signature = key.sign(signing.enrolment(challenge, token, public))
    return work_pb2.EnrolRequest(
        invite_token=token,
        public_key=public,
        challenge=challenge,
        signature=signature,
        user_name=user,
        host_name="desk",
        tier=tier,
    )


async def _enrol(
    identity: Identity, token: str, key: Ed25519PrivateKey | None = None, user: str = "ann", tier: str = "24g"
) -> work_pb2.EnrolResponse | str:
    """The response, or the name of the refusal's code."""
    try:
        return await identity.enrol(
            _request(identity, token, key or Ed25519PrivateKey.generate(), user, tier)
        )
    except CallRefused as refused:
        return work_pb2.ErrorCode.Name(refused.code)


async def _open(
    identity: Identity,
    host_id: int,
    key: Ed25519PrivateKey,
    protocol: int = 1,
    sequence: int = 0,
    mark: bytes = b"",
) -> bytes | str:
    """The session token, or the name of the refusal's code."""
    challenge = identity.challenge()
    request = work_pb2.OpenSessionRequest(
        host_id=host_id,
        challenge=challenge,
        signature=key.sign(signing.session(challenge, host_id)),
        protocol=protocol,
        sequence=sequence,
        mark=mark,
    )
    try:
        return (await identity.open_session(request)).session_token
    except CallRefused as refused:
        return work_pb2.ErrorCode.Name(refused.code)


async def test_an_invite_of_five_lets_exactly_five_of_twenty_in(engine: Engine, identity: Identity):
    token = await identity.invite(None, Tier.G80, 5, DAY)
    outcomes = await asyncio.gather(*(_enrol(identity, token) for _ in range(20)))
    kinds = Counter(o if isinstance(o, str) else "in" for o in outcomes)
    assert kinds == {"in": 5, "INVITE_INVALID": 15}
    assert await engine.value("SELECT count(*) FROM hosts") == 5
    assert await engine.value("SELECT uses_left FROM invites") == 0


async def test_a_token_is_kept_by_its_hash_alone(engine: Engine, identity: Identity):
    token = await identity.invite(None, Tier.G80, 5, DAY)
    stored = str(await engine.fetch("SELECT invites::text FROM invites"))
    assert token not in stored
    assert token.encode().hex() not in stored


async def test_unknown_expired_and_spent_invites_are_refused_alike(engine: Engine, identity: Identity):
    spent = await identity.invite(None, Tier.G80, 1, DAY)
    expired = await identity.invite(None, Tier.G80, 1, DAY)
    await _enrol(identity, spent)
    engine.pass_time(86_400)
    outcomes = [await _enrol(identity, token) for token in ("", "unknown", "\0", spent, expired)]
    assert outcomes == ["INVITE_INVALID"] * 5
    assert await engine.value("SELECT count(*) FROM users") == 1


async def test_the_same_key_again_is_the_same_host_and_spends_nothing(engine: Engine, identity: Identity):
    token, key = await identity.invite(None, Tier.G80, 2, DAY), Ed25519PrivateKey.generate()
    first, again = await _enrol(identity, token, key), await _enrol(identity, token, key, user="other")
    assert first == again
    assert await engine.value("SELECT uses_left FROM invites") == 1


async def test_the_same_key_many_times_at_once_is_one_host(engine: Engine, identity: Identity):
    for round_ in range(1, 7):  # the first round only opens the connections
        token, key = await identity.invite(None, Tier.G80, 1, DAY), Ed25519PrivateKey.generate()
        outcomes = await asyncio.gather(*(_enrol(identity, token, key) for _ in range(8)))
        assert len({o if isinstance(o, str) else o.host_id for o in outcomes}) == 1
        assert not isinstance(outcomes[0], str)
        assert await engine.value("SELECT count(*) FROM hosts") == round_


async def test_a_name_that_is_taken_gets_a_suffix(engine: Engine, identity: Identity):
    token = await identity.invite(None, Tier.G80, 9, DAY)
    outcomes = [await _enrol(identity, token) for _ in range(3)]
    names = [o.user_name for o in outcomes if not isinstance(o, str)]
    assert names[0] == "ann"
    assert all(name.startswith("ann-") and len(name) == 10 for name in names[1:])
    assert await engine.value("SELECT count(DISTINCT user_id) FROM hosts") == 3


async def test_two_who_wish_the_same_name_at_once_are_two_users(engine: Engine, identity: Identity):
    token = await identity.invite(None, Tier.G80, 9, DAY)
    outcomes = await asyncio.gather(*(_enrol(identity, token) for _ in range(6)))
    assert not [o for o in outcomes if isinstance(o, str)]
    assert len({name for (name,) in await engine.fetch("SELECT name FROM users")}) == 6


async def test_an_invite_for_a_user_makes_hosts_of_that_user_whatever_they_wish(
    engine: Engine, identity: Identity
):
    token = await identity.invite("bob", Tier.G80, 2, DAY)
    outcomes = [await _enrol(identity, token, user="ann") for _ in range(2)]
    assert {o.user_name for o in outcomes if not isinstance(o, str)} == {"bob"}
    assert await engine.value("SELECT count(*) FROM users") == 1


async def test_a_host_is_no_larger_than_its_invite_and_itself(engine: Engine, identity: Identity):
    for cap, said in ((Tier.G8, "80g"), (Tier.G80, "8g")):
        await _enrol(identity, await identity.invite(None, cap, 1, DAY), tier=said)
    assert await engine.fetch("SELECT DISTINCT tier_cap FROM hosts") == [(Tier.G8,)]


async def test_names_are_fit_to_be_shown(engine: Engine, identity: Identity):
    token = await identity.invite(None, Tier.G80, 9, DAY)
    for wish in ("\0\x1b[31m\u202e ann \n", "", "\0", "x" * 5000):
        assert not isinstance(await _enrol(identity, token, user=wish), str)
    names = [name for (name,) in await engine.fetch("SELECT name FROM users ORDER BY id")]
    assert names == ["[31m ann", "volunteer", f"volunteer-{names[2][-6:]}", "x" * 40]


async def test_a_session_opens_for_the_hosts_key_alone(identity: Identity):
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    enrolled = await _enrol(identity, await identity.invite(None, Tier.G80, 1, DAY), key)
    assert not isinstance(enrolled, str)
    token = await _open(identity, enrolled.host_id, key)
    assert isinstance(token, bytes)
    assert identity.caller(token).host_id == enrolled.host_id
    assert await _open(identity, enrolled.host_id, other) == "SIGNATURE_INVALID"
    assert await _open(identity, enrolled.host_id, key, protocol=0) == "CLIENT_TOO_OLD"
    assert [await _open(identity, host_id, key) for host_id in (0, 2**63, 2**64 - 1)] == ["HOST_UNKNOWN"] * 3


async def _host(identity: Identity) -> tuple[int, Ed25519PrivateKey]:
    key = Ed25519PrivateKey.generate()
    enrolled = await _enrol(identity, await identity.invite(None, Tier.G80, 1, DAY), key)
    assert not isinstance(enrolled, str)
    return enrolled.host_id, key


async def test_a_copied_client_falls_behind_and_stays_out_while_the_original_goes_on(identity: Identity):
    host = await _host(identity)
    for sequence in (1, 2):
        assert isinstance(await _open(identity, *host, sequence=sequence, mark=bytes([sequence] * 16)), bytes)
    twins = b"twin" * 4
    outcomes = [await _open(identity, *host, sequence=sequence, mark=twins) for sequence in (2, 2, 1, 2)]
    assert outcomes == ["HOST_COPIED"] * 4
    assert isinstance(await _open(identity, *host, sequence=3, mark=b"original" * 2), bytes)
    assert await _open(identity, *host, sequence=3, mark=twins) == "HOST_COPIED"


async def test_a_session_whose_answer_was_lost_may_be_asked_for_again(identity: Identity):
    host = await _host(identity)
    asked = {"sequence": 7, "mark": b"m" * 16}
    assert all([isinstance(await _open(identity, *host, **asked), bytes) for _ in range(3)])


async def test_of_two_copies_that_ask_at_once_one_goes_on(engine: Engine, identity: Identity):
    host = await _host(identity)
    for sequence in range(1, 9):
        marks = [bytes([number] * 16) for number in range(4)]
        calls = (_open(identity, *host, sequence=sequence, mark=mark) for mark in marks)
        outcomes = Counter(isinstance(outcome, bytes) for outcome in await asyncio.gather(*calls))
        assert outcomes == {True: 1, False: 3}
    assert await engine.value("SELECT sequence FROM hosts") == 8


async def test_a_client_that_does_not_count_is_let_in_as_before(identity: Identity):
    host = await _host(identity)
    await _open(identity, *host, sequence=5, mark=bytes(16))
    assert isinstance(await _open(identity, *host), bytes)
    assert await _open(identity, *host, sequence=4, mark=bytes(16)) == "HOST_COPIED"


async def test_a_stranger_cannot_move_a_hosts_sequence(engine: Engine, identity: Identity):
    host_id, key = await _host(identity)
    stranger = Ed25519PrivateKey.generate()
    far = {"sequence": 2**62, "mark": bytes(16)}
    assert await _open(identity, host_id, stranger, **far) == "SIGNATURE_INVALID"
    assert await engine.value("SELECT sequence FROM hosts") == 0
    for sequence, mark in ((2**63, bytes(16)), (2**64 - 1, bytes(16)), (1, b""), (1, bytes(17))):
        assert await _open(identity, host_id, key, sequence=sequence, mark=mark) == "INVALID_REQUEST"


async def test_a_revoked_host_is_out_at_once(engine: Engine, identity: Identity):
    key = Ed25519PrivateKey.generate()
    enrolled = await _enrol(identity, await identity.invite(None, Tier.G80, 1, DAY), key)
    assert not isinstance(enrolled, str)
    token = await _open(identity, enrolled.host_id, key)
    assert isinstance(token, bytes)
    await engine.fetch("UPDATE hosts SET state = 'revoked' RETURNING id")

    assert await _open(identity, enrolled.host_id, key) == "HOST_REVOKED"
    await identity.refresh()
    with pytest.raises(CallRefused) as refused:
        identity.caller(token)
    assert refused.value.code == work_pb2.HOST_REVOKED


async def test_the_key_of_a_host_that_is_not_there_is_refused(identity: Identity):
    with pytest.raises(CallRefused) as refused:
        await identity.public_key(12345)
    assert refused.value.code == work_pb2.HOST_UNKNOWN
