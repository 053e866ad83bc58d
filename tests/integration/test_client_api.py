"""Calls, image fetching and joining, over real TLS."""

import asyncio
import dataclasses
import hashlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protos import signing, work_pb2
from protos.invite import Invite
from tests.integration.client_counterpart import (
    Authority,
    Counterpart,
    joined_home,
    serving_counterpart,
)
from volunteer_client import durable
from volunteer_client.api import (
    AwayError,
    Channels,
    Coordinator,
    CoordinatorError,
    ImageError,
    Images,
    RejectedError,
)
from volunteer_client.configure import ConfigureError, Home
from volunteer_client.join import join


@pytest.fixture
async def counterpart(tmp_path: Path) -> AsyncIterator[Counterpart]:
    async with serving_counterpart(tmp_path) as played:
        yield played


@pytest.fixture
def home(tmp_path: Path, counterpart: Counterpart) -> Home:
    return joined_home(tmp_path / "home", counterpart)


async def no_sleep(_seconds: float) -> None:
    pass


async def test_calls_fail_over_to_the_next_address_and_stay_there(counterpart: Counterpart):
    key = Ed25519PrivateKey.generate()
    enrolment = dataclasses.replace(
        counterpart.enrolment(key), addresses=("127.0.0.1:1", counterpart.address)
    )
    coordinator = Coordinator(enrolment, key)
    assert (await coordinator.standing()).credit == 2.5
    await coordinator.close()


async def test_an_ended_session_is_opened_again_once_for_all_calls(counterpart: Counterpart):
    key = Ed25519PrivateKey.generate()
    coordinator = Coordinator(counterpart.enrolment(key), key)
    await coordinator.standing()
    counterpart.sessions.clear()
    await asyncio.gather(*(coordinator.standing() for _ in range(5)))
    assert counterpart.calls["OpenSession"] == 2
    await coordinator.close()


async def test_sessions_are_numbered_and_a_lost_answer_is_asked_for_again(
    counterpart: Counterpart, home: Home
):
    enrolment, key = home.joined()
    counterpart.lose_sessions = 1
    coordinator = Coordinator(enrolment, key, home.memory())
    with pytest.raises(AwayError):
        await coordinator.standing()
    await coordinator.standing()
    counterpart.sessions.clear()
    await coordinator.standing()
    await coordinator.close()
    again = Coordinator(enrolment, key, home.memory())
    await again.standing()
    await again.close()
    assert [sequence for sequence, _ in counterpart.sequences] == [1, 1, 2, 3]
    marks = [mark for _, mark in counterpart.sequences]
    assert (marks[0] == marks[1], len(set(marks))) == (True, 3)


async def test_a_disk_that_keeps_no_number_opens_no_session(
    counterpart: Counterpart, home: Home, monkeypatch: pytest.MonkeyPatch
):
    def full(_path: Path, _data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "write", full)
    coordinator = Coordinator(*home.joined(), home.memory())
    with pytest.raises(AwayError, match="No space left"):
        await coordinator.standing()
    assert counterpart.calls["OpenSession"] == 0
    await coordinator.close()


@pytest.mark.parametrize(("code", "kind"), [("UNAVAILABLE", AwayError), ("HOST_REVOKED", RejectedError)])
async def test_a_refusal_is_told_from_an_absence(
    counterpart: Counterpart, code: str, kind: type[CoordinatorError]
):
    key = Ed25519PrivateKey.generate()
    coordinator = Coordinator(counterpart.enrolment(key), key)
    counterpart.refuse_with = {"Standing": code}
    with pytest.raises(kind) as caught:
        await coordinator.standing()
    assert caught.value.code == code
    await coordinator.close()


async def test_a_coordinator_with_another_authority_is_not_believed(counterpart: Counterpart, tmp_path: Path):
    (tmp_path / "other").mkdir()
    channels = Channels([counterpart.address], Authority(tmp_path / "other").ca_der)
    with pytest.raises(AwayError):
        await channels.call("Challenge", work_pb2.ChallengeRequest(), work_pb2.ChallengeResponse, timeout_s=5)
    assert counterpart.calls["Challenge"] == 0
    await channels.close()


async def fetch(counterpart: Counterpart, path: str, image_hash: bytes) -> bytes:
    images = Images(counterpart.authority.ca_der, random=Random(1), sleep=no_sleep)
    try:
        return await images.fetch(f"https://127.0.0.1:{counterpart.image_port}{path}", image_hash)
    finally:
        await images.close()


async def test_an_image_is_fetched_by_hash_under_the_pinned_authority(counterpart: Counterpart):
    counterpart.add_units(1)
    [(path, data)] = counterpart.images.items()
    assert await fetch(counterpart, path, hashlib.sha256(data).digest()) == data


async def test_an_image_of_other_bytes_is_refused_after_a_few_tries(counterpart: Counterpart):
    counterpart.images["/wrong"] = b"something else"
    with pytest.raises(ImageError) as caught:
        await fetch(counterpart, "/wrong", bytes(32))
    assert (caught.value.code, caught.value.is_lasting) == ("image_hash_wrong", True)
    assert counterpart.image_gets["/wrong"] == 3


async def test_an_endless_image_is_cut_off(counterpart: Counterpart):
    counterpart.images["/large"] = bytes(21_000_000)
    with pytest.raises(ImageError) as caught:
        await fetch(counterpart, "/large", bytes(32))
    assert caught.value.code == "image_too_large"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("file:///etc/passwd", "image_url_invalid"),
        ("http://[::1", "image_url_invalid"),
        ("", "image_url_invalid"),
        ("http://127.0.0.1:1/x", "image_unreachable"),
    ],
)
async def test_an_image_from_nowhere_has_a_reason(url: str, code: str):
    images = Images(None, random=Random(1), sleep=no_sleep)
    with pytest.raises(ImageError) as caught:
        await images.fetch(url, bytes(32))
    assert caught.value.code == code
    await images.close()


def invite(counterpart: Counterpart, *addresses: str, token: str = "good") -> str:  # noqa: S107  # made up
    return Invite(addresses or (counterpart.address,), token, counterpart.authority.ca_der).encode()


async def test_joining_makes_a_private_key_and_keeps_the_enrolment(counterpart: Counterpart, tmp_path: Path):
    home = Home(tmp_path / "new")
    joined = await join(home, invite(counterpart), user="ann", name="box", tier="8g", force=False)
    assert joined.is_new
    enrolment, key = home.joined()
    assert (enrolment.host_id, enrolment.user_name, enrolment.tier) == (7, "ann", "8g")
    assert signing.public_bytes(key) == counterpart.host_key
    modes = {path.name: path.stat().st_mode & 0o777 for path in home.folder.iterdir()}
    assert modes["host.key"] == 0o600
    assert home.folder.stat().st_mode & 0o777 == 0o700


async def test_joining_again_changes_nothing_and_force_replaces(counterpart: Counterpart, home: Home):
    before = home.joined()[0]
    again = await join(home, invite(counterpart), user="x", name="y", tier="cpu", force=False)
    assert not again.is_new
    assert home.joined()[0] == before
    assert counterpart.calls["Enrol"] == 0
    forced = await join(home, invite(counterpart), user="bob", name="y", tier="cpu", force=True)
    assert home.joined()[0].user_name == "bob"
    assert (forced.set_aside / "host.key").exists()


async def test_a_forced_join_that_fails_leaves_the_enrolment_as_it_was(counterpart: Counterpart, home: Home):
    before, key = home.joined()
    with pytest.raises(ConfigureError) as caught:
        await join(home, invite(counterpart, token="bad"), user="x", name="y", tier="cpu", force=True)
    assert caught.value.code == "invite_invalid"
    after, same_key = home.joined()
    assert after == before
    assert signing.public_bytes(same_key) == signing.public_bytes(key)


@pytest.mark.parametrize(
    ("text", "code"),
    [("", "invite_damaged"), ("chorus1.AAAA", "invite_damaged"), (None, "coordinator_unreachable")],
)
async def test_a_join_that_cannot_work_says_what_to_do(
    counterpart: Counterpart, tmp_path: Path, text: str | None, code: str
):
    line = invite(counterpart, "127.0.0.1:1") if text is None else text
    with pytest.raises(ConfigureError) as caught:
        await join(Home(tmp_path / "new"), line, user="", name="box", tier="cpu", force=False)
    assert caught.value.code == code
    assert Home(tmp_path / "new").enrolment() is None


async def test_a_home_of_another_coordinator_is_not_taken_over(
    counterpart: Counterpart, home: Home, tmp_path: Path
):
    (tmp_path / "other").mkdir()
    line = Invite((counterpart.address,), "good", Authority(tmp_path / "other").ca_der).encode()
    with pytest.raises(ConfigureError) as caught:
        await join(home, line, user="", name="box", tier="cpu", force=False)
    assert caught.value.code == "joined_elsewhere"


async def test_standing_is_shown_for_people_and_machines(counterpart: Counterpart, home: Home):
    counterpart.messages = [work_pb2.Message(id=4, code="operator", text="Back at [noon].")]
    for option, expected in (
        ("--json", '"agreed": 5'),
        ("--json", '"credit_each": 0.5'),
        (None, "agreed with the others"),
        (None, "street/caption with [m]: 7 accepted at 0.5 each, 0 not: 3.5 credit"),
    ):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from chorus.volunteer_commands import app; app()", "standing"),
            *("--home", str(home.folder), *([option] if option else [])),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0
        assert expected in output.decode()
        assert "Back at [noon]." in output.decode()
