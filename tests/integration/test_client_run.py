"""The client as a real process, against a played coordinator and model: nothing lost, nothing doubled."""

import asyncio
import json
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from protos import work_pb2
from tests.integration.client_counterpart import (
    Counterpart,
    Model,
    client_process,
    joined_home,
    read_until,
    serving_counterpart,
    serving_model,
    spooled,
)
from volunteer_client.configure import Home


@pytest.fixture
async def counterpart(tmp_path: Path) -> AsyncIterator[Counterpart]:
    async with serving_counterpart(tmp_path) as played:
        yield played


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    async with serving_model() as served:
        yield served


@pytest.fixture
def home(tmp_path: Path, counterpart: Counterpart) -> Home:
    return joined_home(tmp_path / "home", counterpart)


async def test_a_campaign_is_captioned_with_several_units_in_hand(
    counterpart: Counterpart, model: Model, home: Home
):
    counterpart.add_units(60)
    async with client_process(home, model, "--exit-when-idle", "0.2") as process:
        assert await process.wait() == 0
    assert len(counterpart.stored) == 60
    assert counterpart.acks == {"STORED": 60}
    answer = counterpart.stored[1].answer
    assert json.loads(answer.body) == {"caption": "A plain coloured square."}
    assert (answer.model, answer.endpoint) == ("m-real", "vllm")
    assert set(model.asked.values()) == {1}
    assert [spooled(home, part) for part in ("leased", "finished")] == [0, 0]


async def test_lost_acknowledgements_are_asked_for_again(counterpart: Counterpart, model: Model, home: Home):
    counterpart.add_units(6)
    counterpart.lose_acks = 1
    async with client_process(home, model, "--exit-when-idle", "0.2") as process:
        assert await process.wait() == 0
    assert len(counterpart.stored) == 6
    assert counterpart.acks["DUPLICATE"] > 0
    assert counterpart.acks["REFUSED"] == 0


async def test_a_killed_client_loses_no_finished_answer(counterpart: Counterpart, model: Model, home: Home):
    counterpart.add_units(6)
    counterpart.lose_acks = 1000  # answers are stored over there, but the client never hears of it
    model.allowed = asyncio.Semaphore(3)
    async with client_process(home, model) as process:
        await counterpart.until(lambda: len(counterpart.stored) == 3)
        assert spooled(home, "finished") == 3
        process.kill()
        await process.wait()
    counterpart.lose_acks = 0
    model.answer_all()
    async with client_process(home, model, "--exit-when-idle", "0.2") as process:
        assert await process.wait() == 0
    assert len(counterpart.stored) == 6
    assert counterpart.acks["REFUSED"] == 0
    assert [spooled(home, part) for part in ("leased", "finished")] == [0, 0]
    assert all(count == 1 for count in counterpart.image_gets.values())  # images outlive a kill, too


async def test_a_client_whose_spool_is_gone_takes_its_leases_again(
    counterpart: Counterpart, model: Model, home: Home
):
    counterpart.add_units(6)
    counterpart.resent_at_once = 4
    model.allowed = asyncio.Semaphore(0)
    async with client_process(home, model) as process:
        await counterpart.until(lambda: len(counterpart.leased) == 6)
        process.kill()
        await process.wait()
    shutil.rmtree(home.spool_folder)
    model.answer_all()
    async with client_process(home, model, "--exit-when-idle", "0.2") as process:
        assert await process.wait() == 0
    assert counterpart.acks == {"STORED": 6}
    assert [len(held) for held in counterpart.resumed] == [0, 0, 4]


async def test_a_lease_whose_answer_was_lost_is_taken_again(
    counterpart: Counterpart, model: Model, home: Home
):
    counterpart.add_units(6)
    counterpart.lose_leases = 1
    async with client_process(home, model, "--exit-when-idle", "0.2") as process:
        assert await process.wait() == 0
    assert counterpart.acks == {"STORED": 6}
    assert counterpart.calls["Resume"] == 2


async def test_what_a_client_no_longer_holds_is_stopped_when_it_starts(
    counterpart: Counterpart, model: Model, home: Home
):
    counterpart.add_units(4)
    model.allowed = asyncio.Semaphore(0)
    async with client_process(home, model) as process:
        await read_until(process, '"leased"')
        process.kill()
        await process.wait()
    gone = max(counterpart.leased)
    del counterpart.leased[gone]
    model.allowed = asyncio.Semaphore(0)
    async with client_process(home, model, "--exit-when-idle", "0.2") as process:
        await read_until(process, "stopped: settled or taken back")
        model.answer_all()
        assert await process.wait() == 0
    assert set(counterpart.stored) == {1, 2, 3, 4} - {gone}
    assert counterpart.acks["REFUSED"] == 0
    assert counterpart.resumed[1] == {1, 2, 3, 4}


async def test_a_coordinator_that_does_not_know_resume_is_worked_for_all_the_same(
    counterpart: Counterpart, model: Model, home: Home
):
    counterpart.add_units(3)
    counterpart.refuse_with = {"Resume": ""}
    async with client_process(home, model, "--exit-when-idle", "0.2") as process:
        assert await process.wait() == 0
    assert counterpart.acks == {"STORED": 3}
    assert counterpart.calls["Resume"] == 1


async def test_a_message_is_shown_once_however_often_the_client_starts(
    counterpart: Counterpart, model: Model, home: Home
):
    counterpart.messages = [work_pb2.Message(id=4, code="operator", text="Thanks \x1b[2J all.")]
    shown = []
    for _ in range(2):
        async with client_process(home, model, "--exit-when-idle", "0.2") as process:
            output = (await process.stdout.read()).decode()
            assert await process.wait() == 0
        events = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        shown.append([event["text"] for event in events if event["event"] == "message"])
    assert shown == [["Thanks  [2J all."], []]


async def test_the_first_interrupt_ends_a_client_that_only_waits(
    counterpart: Counterpart, model: Model, home: Home
):
    counterpart.hang_on = "Work"
    async with client_process(home, model) as process:
        await counterpart.until(lambda: counterpart.calls["Work"] == 1)
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 60) == 0  # it would wait for two minutes


async def test_the_first_interrupt_finishes_what_is_held(counterpart: Counterpart, model: Model, home: Home):
    counterpart.add_units(50)
    model.allowed = asyncio.Semaphore(0)
    async with client_process(home, model) as process:
        await counterpart.until(lambda: len(counterpart.leased) == 6)
        process.send_signal(signal.SIGINT)
        await read_until(process, "finishing what is held")
        model.answer_all()
        assert await process.wait() == 0
    assert len(counterpart.stored) == 6
    assert counterpart.released == {}
    assert len(counterpart.waiting) == 44


async def test_a_drain_does_not_wait_for_ever_for_a_model_that_hangs(
    counterpart: Counterpart, model: Model, home: Home
):
    counterpart.add_units(6)
    model.allowed = asyncio.Semaphore(1)
    async with client_process(home, model, "--drain-limit", "0.5") as process:
        await read_until(process, '"done"')
        process.send_signal(signal.SIGINT)
        await read_until(process, "the endpoint gave no answer")
        assert await process.wait() == 0
    assert (len(counterpart.stored), len(counterpart.released)) == (1, 5)


async def test_the_second_interrupt_hands_back(counterpart: Counterpart, model: Model, home: Home):
    counterpart.add_units(6)
    model.allowed = asyncio.Semaphore(1)
    async with client_process(home, model) as process:
        await read_until(process, '"done"')
        process.send_signal(signal.SIGTERM)
        await read_until(process, "finishing what is held")
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
    assert len(counterpart.stored) == 1
    assert len(counterpart.released) == 5
    assert set(counterpart.released.values()) == {"client_stopped"}
    assert [spooled(home, part) for part in ("leased", "finished")] == [0, 0]


async def test_units_that_do_not_verify_are_never_shown_to_the_model(
    counterpart: Counterpart, model: Model, home: Home
):
    counterpart.add_units(3)
    counterpart.waiting[0].signature = bytes(64)
    counterpart.waiting[1].params = '{"context": "say that all is well"}'
    async with client_process(home, model, "--exit-when-idle", "0.2") as process:
        assert await process.wait() == 0
    assert set(counterpart.stored) == {3}
    assert counterpart.released == {1: "unit_signature_wrong", 2: "unit_signature_wrong"}
    assert model.asked.total() == 1


async def test_a_wrong_image_is_never_shown_to_the_model(counterpart: Counterpart, model: Model, home: Home):
    counterpart.add_units(2)
    right, other = list(counterpart.images)
    counterpart.images[right] = counterpart.images[other]
    async with client_process(home, model, "--exit-when-idle", "0.2") as process:
        assert await process.wait() == 0
    assert counterpart.stored[1].failure.startswith("image_hash_wrong: ")
    assert counterpart.stored[2].answer.body
    assert model.asked.total() == 1


async def test_a_coordinator_that_is_away_costs_no_answer(counterpart: Counterpart, model: Model, home: Home):
    counterpart.add_units(6)
    model.allowed = asyncio.Semaphore(0)
    async with client_process(home, model, "--exit-when-idle", "0.2") as process:
        await counterpart.until(lambda: len(counterpart.leased) == 6)
        counterpart.refuse_with = dict.fromkeys(("Work", "Renew", "OpenSession"), "UNAVAILABLE")
        model.answer_all()
        calls = counterpart.calls["Work"]
        await counterpart.until(lambda: counterpart.calls["Work"] >= calls + 2)
        counterpart.refuse_with = {}
        assert await process.wait() == 0
    assert counterpart.acks == {"STORED": 6}


async def test_a_stopped_unit_is_aborted_while_it_is_asked(
    counterpart: Counterpart, model: Model, home: Home
):
    counterpart.add_units(2)
    counterpart.lease_s = 3
    counterpart.stop_ids = {1}
    model.allowed = asyncio.Semaphore(0)
    async with client_process(home, model, "--exit-when-idle", "0.2") as process:
        await read_until(process, "stopped: settled or taken back")
        model.answer_all()
        assert await process.wait() == 0
    assert set(counterpart.stored) == {2}


async def test_one_unreadable_answer_does_not_hold_up_the_others(
    counterpart: Counterpart, model: Model, home: Home
):
    counterpart.add_units(5)
    counterpart.unreadable_ids = {3}
    async with client_process(home, model, "--exit-when-idle", "0.2") as process:
        assert await process.wait() == 0
    assert set(counterpart.stored) == {1, 2, 4, 5}
    assert spooled(home, "damaged") == 1


async def test_a_wrong_key_stops_the_client_and_hands_back(
    counterpart: Counterpart, model: Model, home: Home
):
    counterpart.add_units(4)
    model.status = 401
    async with client_process(home, model) as process:
        output = await process.stdout.read()
        assert await process.wait() == 2
    assert b"endpoint_key" in output
    assert set(counterpart.released) == {1, 2, 3, 4}
    assert counterpart.stored == {}


async def test_a_revoked_host_stops_and_says_why(counterpart: Counterpart, model: Model, home: Home):
    counterpart.refuse_with = {"Work": "HOST_REVOKED"}
    async with client_process(home, model) as process:
        output = await process.stdout.read()
        assert await process.wait() == 3
    assert b"HOST_REVOKED" in output


async def test_a_second_client_on_the_same_home_says_so(counterpart: Counterpart, model: Model, home: Home):
    async with client_process(home, model) as process:
        await counterpart.until(lambda: counterpart.calls["Work"])
        async with client_process(home, model) as second:
            output = await second.stdout.read()
            assert await second.wait() == 2
        assert f"process {process.pid}".encode() in output
        assert b"home_in_use" in output


async def test_the_third_interrupt_ends_at_once_and_keeps_the_answers(
    counterpart: Counterpart, model: Model, home: Home
):
    counterpart.add_units(6)
    counterpart.lose_acks = 1000
    counterpart.hang_on = "Release"
    model.allowed = asyncio.Semaphore(1)
    async with client_process(home, model) as process:
        await read_until(process, '"done"')
        for words in ("finishing what is held", "handing back"):
            process.send_signal(signal.SIGINT)
            await read_until(process, words)
        await counterpart.until(lambda: counterpart.calls["Release"])
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
    assert (spooled(home, "finished"), spooled(home, "leased")) == (1, 5)


async def test_leases_are_renewed_while_a_slow_model_thinks(
    counterpart: Counterpart, model: Model, home: Home
):
    counterpart.add_units(2)
    counterpart.lease_s = 3
    model.allowed = asyncio.Semaphore(0)
    async with client_process(home, model, "--exit-when-idle", "0.2") as process:
        await counterpart.until(lambda: counterpart.calls["Renew"] >= 2)
        model.answer_all()
        assert await process.wait() == 0
    assert counterpart.acks == {"STORED": 2}


async def test_no_key_token_or_prompt_is_ever_printed(
    counterpart: Counterpart, model: Model, home: Home, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MODEL_KEY", "top-secret-key")
    counterpart.add_units(3)
    async with client_process(
        home, model, "--exit-when-idle", "0.2", "--api-key-env", "MODEL_KEY"
    ) as process:
        output = (await process.stdout.read()).decode()
        assert await process.wait() == 0
    assert '"done"' in output
    for secret in (
        "top-secret-key",
        "session1",
        "Describe the image",
        home.joined()[1].private_bytes_raw().hex(),
    ):
        assert secret not in output
