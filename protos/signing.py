"""The exact bytes that are signed, and the Ed25519 calls that sign and check them.

Every message is SHA-256 over a domain word and length-prefixed fields, so that no two different
messages share bytes and neither side depends on how protobuf happens to serialise.
"""

import hashlib
import struct
from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protos import work_pb2


def _digest(domain: str, fields: Sequence[bytes]) -> bytes:
    prefixed = [part for field in fields for part in (struct.pack(">I", len(field)), field)]
    return hashlib.sha256(domain.encode() + b"".join(prefixed)).digest()


def enrolment(challenge: bytes, invite_token: str, public_key: bytes) -> bytes:
    """32 bytes that a new host signs to prove that it holds the key that it enrols."""
    return _digest("chorus.enrol.v1", (challenge, invite_token.encode(), public_key))


def session(challenge: bytes, host_id: int) -> bytes:
    """32 bytes that a host signs to open a session."""
    return _digest("chorus.session.v1", (challenge, struct.pack(">Q", host_id)))


def unit(
    campaign_id: int, unit_id: int, kind: str, task_digest: bytes, image_hash: bytes, params: str
) -> bytes:
    """32 bytes that the coordinator signs when a unit is born: all that decides what a model is asked."""
    ids = struct.pack(">IQ", campaign_id, unit_id)
    return _digest("chorus.unit.v1", (ids, kind.encode(), task_digest, image_hash, params.encode()))


def lease_batch(host_id: int, lease_s: int, units: Sequence[work_pb2.Unit]) -> bytes:
    """32 bytes that the coordinator signs: these replicas are this host's for so many seconds."""
    head = struct.pack(">QI", host_id, lease_s)
    body = b"".join(struct.pack(">IQI", u.campaign_id, u.unit_id, u.lane) for u in units)
    return _digest("chorus.lease.v1", (head, body))


def result(message: work_pb2.Result) -> bytes:
    """32-byte hash of one result; what a batch's signature is made of."""
    ids = struct.pack(">IQ", message.campaign_id, message.unit_id)
    if message.WhichOneof("outcome") == "failure":
        return _digest("chorus.failure.v1", (ids, message.failure.encode()))
    answer = message.answer
    figures = struct.pack(">qI", answer.seed, answer.elapsed_ms)
    texts = (answer.body, answer.model.encode(), answer.endpoint.encode())
    return _digest("chorus.result.v1", (ids, *texts, figures))


def result_batch(host_id: int, hashes: Sequence[bytes]) -> bytes:
    """32 bytes that a host signs over its results' hashes; any one result then verifies with the list."""
    return _digest("chorus.results.v1", (struct.pack(">Q", host_id), b"".join(hashes)))


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` is the key's over `message`; False, never an error, on malformed bytes."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """The 32 raw bytes of the public half."""
    return key.public_key().public_bytes_raw()
