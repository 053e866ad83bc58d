"""What is signed says exactly one thing: no two messages share bytes, and no bytes break the check."""

from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from protos import signing, work_pb2

SHORT = st.binary(max_size=4)
WORDS = st.text(st.characters(codec="utf-8"), max_size=4)
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
HASH_LISTS = st.lists(st.binary(min_size=32, max_size=32), max_size=4)

ANSWERS = st.builds(
    work_pb2.Answer,
    body=SHORT,
    model=WORDS,
    endpoint=WORDS,
    seed=st.integers(-(2**63), 2**63 - 1),
    elapsed_ms=U32,
)
RESULTS = st.builds(work_pb2.Result, campaign_id=U32, unit_id=U64, answer=ANSWERS) | st.builds(
    work_pb2.Result, campaign_id=U32, unit_id=U64, failure=WORDS
)
UNITS = st.lists(st.builds(work_pb2.Unit, campaign_id=U32, unit_id=U64, lane=U32), max_size=3)

MESSAGES = (
    st.tuples(st.just(signing.enrolment), st.tuples(SHORT, WORDS, SHORT))
    | st.tuples(st.just(signing.session), st.tuples(SHORT, U64))
    | st.tuples(st.just(signing.unit), st.tuples(U32, U64, WORDS, SHORT, SHORT, WORDS))
    | st.tuples(st.just(signing.result_batch), st.tuples(U64, HASH_LISTS))
    | st.tuples(st.just(signing.result), st.tuples(RESULTS))
    | st.tuples(st.just(signing.lease_batch), st.tuples(U64, U32, UNITS))
)


@given(MESSAGES, MESSAGES)
def test_different_messages_never_share_a_digest(one: tuple[Any, tuple], other: tuple[Any, tuple]):
    same = one[0] is other[0] and one[1] == other[1]
    assert (one[0](*one[1]) == other[0](*other[1])) is same


@given(WORDS, WORDS, SHORT, SHORT)
def test_text_moved_from_one_field_to_the_next_is_another_message(
    kind: str, moved: str, task: bytes, image: bytes
):
    here = signing.unit(1, 2, kind + moved, task, image, "")
    there = signing.unit(1, 2, kind, moved.encode() + task, image, "")
    assert (here == there) is (moved == "")


@given(WORDS, WORDS, WORDS)
def test_a_model_and_an_endpoint_cannot_be_run_together(model: str, moved: str, endpoint: str):
    def digest(model: str, endpoint: str) -> bytes:
        return signing.result(work_pb2.Result(answer=work_pb2.Answer(model=model, endpoint=endpoint)))

    assert (digest(model + moved, endpoint) == digest(model, moved + endpoint)) is (moved == "")


def test_a_failure_that_reads_like_an_answer_is_no_answer():
    answer = work_pb2.Result(campaign_id=1, unit_id=2, answer=work_pb2.Answer(body=b"{}"))
    failure = work_pb2.Result(campaign_id=1, unit_id=2, failure="{}")
    assert signing.result(answer) != signing.result(failure)


def test_the_signed_bytes_stay_what_they_are():
    """Hosts in the field and provenance in the database depend on these: a change is a new domain word."""
    digests = {
        "enrolment": signing.enrolment(b"c", "t", b"k"),
        "session": signing.session(b"c", 7),
        "unit": signing.unit(1, 2, "caption", b"t", b"i", ""),
        "lease": signing.lease_batch(7, 60, [work_pb2.Unit(campaign_id=1, unit_id=2, lane=1)]),
        "result": signing.result(
            work_pb2.Result(campaign_id=1, unit_id=2, answer=work_pb2.Answer(body=b"{}"))
        ),
        "failure": signing.result(work_pb2.Result(campaign_id=1, unit_id=2, failure="f")),
        "results": signing.result_batch(7, [bytes(32)]),
    }
    assert {name: digest.hex()[:16] for name, digest in digests.items()} == PINNED


PINNED = {
    "enrolment": "17a3dbd520f7be5c",
    "session": "1bd9c5eb0a029615",
    "unit": "349a12c8e0bec9e0",
    "lease": "13fe3b1425598b67",
    "result": "4a3cbc5f4aec989c",
    "failure": "c15d65a8ebf3b441",
    "results": "0979ecc623a2035d",
}


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=40))
def test_checking_never_raises_and_takes_no_junk(key: bytes, signature: bytes, message: bytes):
    assert signing.verify(key, signature, message) is False


@given(st.binary(max_size=80), st.integers(0, 63), st.integers(1, 255))
def test_a_signature_holds_for_its_message_and_key_alone(message: bytes, place: int, change: int):
    key = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
    other = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
    signature = key.sign(message)
    altered = bytearray(signature)
    altered[place] ^= change
    assert signing.verify(signing.public_bytes(key), signature, message)
    assert not signing.verify(signing.public_bytes(key), bytes(altered), message)
    assert not signing.verify(signing.public_bytes(key), signature, message + b"\0")
    assert not signing.verify(signing.public_bytes(other), signature, message)
