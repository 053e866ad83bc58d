"""The spool: what was written is there again, and what is damaged never hurts."""

import hashlib
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.plain import TASK

from protos import signing, work_pb2
from volunteer_client import durable
from volunteer_client.lease import Lease, Ref, UnfitError, verify_batch, verify_lease
from volunteer_client.spool import Spool

KEY = Ed25519PrivateKey.generate()
PUBLIC = signing.public_bytes(KEY)


def make_unit(number: int, **changes: object) -> work_pb2.Unit:
    fields = {"campaign_id": 1, "unit_id": number, "kind": "caption", "image_hash": bytes(32), "params": ""}
    unit = work_pb2.Unit(**{**fields, "task_digest": TASK.digest, **changes})
    message = signing.unit(1, number, unit.kind, unit.task_digest, unit.image_hash, unit.params)
    unit.signature = KEY.sign(message)
    return unit


def make_lease(number: int) -> Lease:
    return verify_lease(make_unit(number), TASK.body(), PUBLIC)


def make_result(number: int) -> work_pb2.Result:
    answer = work_pb2.Answer(body=b'{"caption":"A dog."}', model="m", seed=3, elapsed_ms=5)
    return work_pb2.Result(campaign_id=1, unit_id=number, answer=answer)


def test_leases_and_results_are_there_again_after_a_restart(tmp_path: Path):
    spool = Spool(tmp_path, wall_clock=lambda: 1000.0)
    spool.hold([make_lease(1), make_lease(2), make_lease(3)], 60)
    spool.finish(make_result(2))
    spool.drop([Ref(1, 3)])
    contents = Spool(tmp_path, wall_clock=lambda: 1020.0).load(PUBLIC)
    assert [(lease.ref, left) for lease, left in contents.leases] == [(Ref(1, 1), 40.0)]
    assert contents.leases[0][0].prompt == make_lease(1).prompt
    assert contents.results == [make_result(2)]
    assert contents.damaged == []


@pytest.mark.parametrize(("now", "left"), [(0.0, 1060.0), (1e12, 0.0), (-1e12, 30 * 24 * 3600)])
def test_a_clock_that_jumps_gives_sane_lease_times(tmp_path: Path, now: float, left: float):
    Spool(tmp_path, wall_clock=lambda: 1000.0).hold([make_lease(1)], 60)
    [(_, seconds)] = Spool(tmp_path, wall_clock=lambda: now).load(PUBLIC).leases
    assert seconds == left


def test_a_crash_between_answer_and_lease_keeps_the_answer_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    spool = Spool(tmp_path)
    spool.hold([make_lease(1)], 60)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "remove", lambda _paths: None)
        spool.finish(make_result(1))
    contents = Spool(tmp_path).load(PUBLIC)
    assert (len(contents.results), contents.leases) == (1, [])
    assert list((tmp_path / "leased").iterdir()) == []


def test_a_half_written_file_is_no_file(tmp_path: Path):
    spool = Spool(tmp_path)
    (tmp_path / "finished" / ".1-1.new").write_bytes(b"half")
    contents = spool.load(PUBLIC)
    assert (contents.results, contents.damaged) == ([], [])
    assert list((tmp_path / "finished").iterdir()) == []


def test_an_acknowledged_result_is_gone(tmp_path: Path):
    spool = Spool(tmp_path)
    spool.finish(make_result(1))
    spool.finish(make_result(2))
    spool.acknowledged([Ref(1, 1), Ref(9, 9)])
    assert [result.unit_id for result in spool.load(PUBLIC).results] == [2]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_of_any_kind_is_moved_aside_and_named(tmp_path: Path, data: st.DataObject):
    spool = Spool(tmp_path)
    spool.hold([make_lease(1)], 60)
    spool.finish(make_result(2))
    folder, name = data.draw(st.sampled_from([("leased", "1-1"), ("finished", "1-2")]))
    path = tmp_path / folder / name
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(data.draw(st.sampled_from([whole[:place], bytes(flipped), whole + b"x"]) | st.binary()))
    contents = spool.load(PUBLIC)
    assert len(contents.damaged) == 1
    assert contents.damaged[0].is_file()
    assert len(contents.leases) + len(contents.results) == 1


def test_no_single_flipped_bit_is_believed(tmp_path: Path):
    spool = Spool(tmp_path)
    spool.finish(make_result(1))
    path = tmp_path / "finished" / "1-1"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        contents = spool.load(PUBLIC)
        assert (contents.results, len(contents.damaged)) == ([], 1)


def test_a_result_under_another_units_name_is_damage(tmp_path: Path):
    spool = Spool(tmp_path)
    spool.finish(make_result(1))
    (tmp_path / "finished" / "1-1").rename(tmp_path / "finished" / "1-7")
    contents = spool.load(PUBLIC)
    assert (contents.results, len(contents.damaged)) == ([], 1)


def test_a_lease_of_another_coordinator_is_not_taken_up(tmp_path: Path):
    spool = Spool(tmp_path)
    spool.hold([make_lease(1)], 60)
    contents = spool.load(signing.public_bytes(Ed25519PrivateKey.generate()))
    assert (contents.leases, len(contents.damaged)) == ([], 1)


def test_images_are_kept_by_hash_and_believed_only_whole(tmp_path: Path):
    spool = Spool(tmp_path, spare_images=1)
    first, second = (hashlib.sha256(data).digest() for data in (b"one", b"two"))
    spool.keep_image(first, b"one")
    spool.keep_image(second, b"tw")
    assert (spool.image(first), spool.image(second)) == (b"one", None)


def test_images_of_held_units_stay_and_of_others_the_latest(tmp_path: Path):
    spool = Spool(tmp_path, spare_images=2)
    hashes = [hashlib.sha256(bytes([number])).digest() for number in range(5)]
    for number, image_hash in enumerate(hashes):
        spool.keep_image(image_hash, bytes([number]))
        os.utime(tmp_path / "images" / image_hash.hex(), (number, number))
    spool.prune_images({hashes[0]})
    kept = [spool.image(image_hash) is not None for image_hash in hashes]
    assert kept == [True, False, False, True, True]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"kind": "embed"}, "kind_unknown"),
        ({"task_digest": bytes(32)}, "task_digest_wrong"),
        ({"image_hash": b""}, "image_missing"),
        ({"params": '{"context": "x"}'}, "task_unreadable"),
    ],
)
def test_a_unit_that_cannot_be_done_says_why(changes: dict[str, object], code: str):
    with pytest.raises(UnfitError) as caught:
        verify_lease(make_unit(1, **changes), TASK.body(), PUBLIC)
    assert caught.value.code == code


@pytest.mark.parametrize("field", ["campaign_id", "unit_id", "kind", "image_hash", "params"])
def test_no_signed_field_of_a_unit_can_be_changed(field: str):
    unit = make_unit(1)
    other = {"campaign_id": 2, "unit_id": 2, "kind": "caption ", "image_hash": b"x" * 32, "params": "x"}
    setattr(unit, field, other[field])
    with pytest.raises(UnfitError):
        verify_lease(unit, TASK.body(), PUBLIC)


def test_a_batch_for_another_host_is_not_worked_on():
    units = [make_unit(1), make_unit(2)]
    task = work_pb2.Task(digest=TASK.digest, body=TASK.body())
    batch = work_pb2.LeaseBatch(tasks=[task], units=units, lease_s=60)
    batch.signature = KEY.sign(signing.lease_batch(7, 60, units))
    leases, unfit = verify_batch(batch, 7, PUBLIC)
    assert (len(leases), unfit) == (2, {})
    leases, unfit = verify_batch(batch, 8, PUBLIC)
    assert (leases, unfit) == ([], {"lease_signature_wrong": [Ref(1, 1), Ref(1, 2)]})
