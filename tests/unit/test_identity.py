"""Sealed tokens: whatever is not exactly ours and fresh is refused, and always in the same words."""

import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from coordinator.errors import CallRefused
from coordinator.identity import CHALLENGE_LIFETIME, SESSION_LIFETIME, Identity
from coordinator.keys import Keys
from protos import signing, work_pb2
from protos.tier import Tier
from store.database import Database

NOW = datetime(2026, 1, 1, tzinfo=UTC)
UNUSED = Path("unused")


def _keys(secret: bytes) -> Keys:
    return Keys(UNUSED, UNUSED, b"", Ed25519PrivateKey.from_private_bytes(bytes(32)), secret)


class Clock:
    def __init__(self) -> None:
        self.time = NOW

    def __call__(self) -> datetime:
        return self.time


OURS, THEIRS = _keys(b"o" * 32), _keys(b"t" * 32)
# Nothing is opened: no test here may reach a database.
NOWHERE = Database.connect("postgresql://nobody@127.0.0.1:1/none")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _identity(clock: Clock, keys: Keys = OURS) -> Identity:
    return Identity(NOWHERE, keys, clock)


def _token(keys: Keys, expires: datetime, host: int = 7, purpose: str = "session") -> bytes:
    body = struct.pack(">QQBd", host, 11, Tier.G24, expires.timestamp())
    return body + keys.mac(purpose, body)


def _refusal(token: bytes | None, clock: Clock) -> tuple[int, str]:
    with pytest.raises(CallRefused) as refused:
        _identity(clock).caller(token)
    return refused.value.code, str(refused.value)


GOOD = _token(OURS, NOW + SESSION_LIFETIME)


def test_a_good_token_names_its_caller(clock: Clock):
    caller = _identity(clock).caller(GOOD)
    assert (caller.host_id, caller.user_id, caller.tier_cap) == (7, 11, Tier.G24)


def test_bad_tokens_of_every_kind_are_refused_alike(clock: Clock):
    bad = {
        "missing": None,
        "empty": b"",
        "truncated": GOOD[:-1],
        "without its seal": GOOD[:25],
        "lengthened": GOOD + b"\0",
        "foreign": _token(THEIRS, NOW + SESSION_LIFETIME),
        "for another purpose": _token(OURS, NOW + SESSION_LIFETIME, purpose="challenge"),
        "expired": _token(OURS, NOW),
        "a challenge": _identity(clock).challenge(),
    }
    refusals = {name: _refusal(token, clock) for name, token in bad.items()}
    assert set(refusals.values()) == {refusals["missing"]}
    assert refusals["missing"][0] == work_pb2.SESSION_INVALID


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_token_altered_in_any_byte_is_refused(place: int, change: int):
    altered = bytearray(GOOD)
    altered[place] ^= change
    assert _refusal(bytes(altered), Clock())[0] == work_pb2.SESSION_INVALID


@given(st.binary(max_size=200))
def test_random_bytes_open_nothing(junk: bytes):
    assert _refusal(junk, Clock())[0] == work_pb2.SESSION_INVALID
    assert _enrol(Clock(), junk).code == work_pb2.CHALLENGE_INVALID


def test_a_session_ends_with_its_time(clock: Clock):
    clock.time = NOW + SESSION_LIFETIME - timedelta(seconds=1)
    assert _identity(clock).caller(GOOD).host_id == 7
    clock.time = NOW + SESSION_LIFETIME
    assert _refusal(GOOD, clock)[0] == work_pb2.SESSION_INVALID


def _enrol(clock: Clock, challenge: bytes) -> CallRefused:
    """How an enrolment with this challenge and no signature ends, in this process alone."""
    coroutine = _identity(clock).enrol(work_pb2.EnrolRequest(challenge=challenge, tier="cpu"))
    with pytest.raises(CallRefused) as refused:
        coroutine.send(None)
    return refused.value


def test_a_fresh_challenge_is_taken_and_then_the_signature_is_asked_for(clock: Clock):
    challenge = _identity(clock).challenge()
    clock.time += CHALLENGE_LIFETIME - timedelta(seconds=1)
    assert _enrol(clock, challenge).code == work_pb2.SIGNATURE_INVALID


def test_bad_challenges_of_every_kind_are_refused_alike(clock: Clock):
    fresh = _identity(clock).challenge()
    old_clock = Clock()
    old_clock.time = NOW - CHALLENGE_LIFETIME
    bad = (
        b"",
        fresh[:-1],
        fresh + b"\0",
        bytes([fresh[0] ^ 1]) + fresh[1:],
        _identity(clock, THEIRS).challenge(),
        _identity(old_clock).challenge(),
        GOOD,
    )
    refusals = {(refused.code, str(refused)) for refused in (_enrol(clock, challenge) for challenge in bad)}
    assert {code for code, _ in refusals} == {work_pb2.CHALLENGE_INVALID}
    assert len(refusals) == 1


def test_challenges_never_repeat(clock: Clock):
    identity = _identity(clock)
    assert len({identity.challenge() for _ in range(100)}) == 100


def test_an_enrolment_signed_for_another_token_or_key_is_refused(clock: Clock):
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    challenge = _identity(clock).challenge()
    public = signing.public_bytes(key)
    for signer, token in ((other, "token"), (key, "another token")):
        request = work_pb2.EnrolRequest(
            challenge=challenge,
            invite_token="token",
            public_key=public,
            signature=signer.sign(signing.enrolment(challenge, token, public)),
            tier="cpu",
        )
        with pytest.raises(CallRefused) as refused:
            _identity(clock).enrol(request).send(None)
        assert refused.value.code == work_pb2.SIGNATURE_INVALID
