"""Pictures, set-up, back-off, and how the workers take an endpoint's moods."""

import asyncio
import contextlib
import io
import json
from pathlib import Path
from random import Random

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from captions.perspective import Perspective
from captions.task import Task
from protos import work_pb2
from volunteer_client.api import ADVICE
from volunteer_client.backoff import Backoff
from volunteer_client.configure import ConfigureError, Enrolment, Home, check_endpoint, read_api_key
from volunteer_client.endpoint_error import JobWrong, Trouble, Wait
from volunteer_client.engine import Answered
from volunteer_client.holdings import Holdings
from volunteer_client.lease import Lease, Ref
from volunteer_client.picture import PictureError, as_baseline_jpeg
from volunteer_client.queue import Queue
from volunteer_client.spool import Spool
from volunteer_client.stats import Stats
from volunteer_client.workers import FAILURES_IN_A_ROW, OUTAGE_S, Endpoint, SetupError, Workers


def picture(size: tuple[int, int], mode: str = "RGB", kind: str = "JPEG", **options: object) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, 99).save(out, kind, **options)
    return out.getvalue()


def test_a_baseline_jpeg_is_passed_on_untouched():
    data = picture((640, 480))
    assert as_baseline_jpeg(data) is data


@pytest.mark.parametrize(
    "data",
    [
        picture((3000, 2000)),
        picture((640, 480), progressive=True),
        picture((640, 480), "L"),
        picture((640, 480), "CMYK"),
        picture((640, 480), "RGBA", "PNG"),
        picture((640, 480), "P", "PNG"),
        picture((640, 480), "RGB", "WEBP"),
    ],
)
def test_everything_else_becomes_a_baseline_rgb_jpeg(data: bytes):
    with Image.open(io.BytesIO(as_baseline_jpeg(data))) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        assert not image.info.get("progressive")
        assert max(image.size) <= 1024


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "image_unreadable"),
        (b"<svg/>", "image_unreadable"),
        (picture((640, 480))[:500], "image_unreadable"),
        (picture((9000, 6000), "1", "PNG"), "image_too_many_pixels"),
        (picture((20, 20)), "image_too_thin"),
        (picture((4000, 30)), "image_too_thin"),
    ],
)
def test_a_picture_that_no_model_is_shown_has_a_reason(data: bytes, code: str):
    with pytest.raises(PictureError) as caught:
        as_baseline_jpeg(data)
    assert caught.value.code == code


@settings(deadline=None, max_examples=60)
@given(place=st.integers(0, 600), junk=st.binary(max_size=20))
def test_no_mutated_picture_crashes_the_client(place: int, junk: bytes):
    data = bytearray(picture((64, 64)))
    data[place : place + len(junk)] = junk
    with contextlib.suppress(PictureError):
        as_baseline_jpeg(bytes(data))


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8000", "ftp://x/v1", "http://", "http://u:p@x/v1", "http://x/v1?k=1", "http://x:99999/v1",
     "http://[::1/v1"],
)  # fmt: skip
def test_an_endpoint_that_cannot_be_one_is_refused(url: str):
    with pytest.raises(ConfigureError):
        check_endpoint(url)


def test_an_endpoint_is_taken_without_its_last_slash():
    assert check_endpoint(" http://127.0.0.1:11434/v1/ ") == "http://127.0.0.1:11434/v1"


def test_a_key_comes_only_from_a_filled_variable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_KEY", " k ")
    monkeypatch.delenv("NO_KEY", raising=False)
    assert (read_api_key(None), read_api_key("MY_KEY")) == (None, "k")
    with pytest.raises(ConfigureError):
        read_api_key("NO_KEY")


def test_an_enrolment_survives_the_disk(tmp_path: Path):
    enrolment = Enrolment(("a:1", "b:2"), b"ca", bytes(32), 7, "ann", "box", "8g")
    home = Home(tmp_path)
    assert home.enrolment() is None
    home.enrol(enrolment)
    assert home.enrolment() == enrolment


@settings(deadline=None, max_examples=60)
@given(text=st.binary(max_size=60) | st.recursive(
    st.none() | st.integers() | st.text(max_size=4),
    lambda inner: st.dictionaries(st.sampled_from(["addresses", "ca", "coordinator_key", "host_id"]), inner),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_a_damaged_enrolment_says_what_to_do(tmp_path_factory: pytest.TempPathFactory, text: bytes):
    folder = tmp_path_factory.mktemp("home")
    (folder / "enrolment.json").write_bytes(text)
    with pytest.raises(ConfigureError) as caught:
        Home(folder).enrolment()
    assert caught.value.code == "enrolment_damaged"


def test_every_error_of_the_wire_has_advice():
    of_grpc = {"UNIMPLEMENTED"}
    assert set(ADVICE) == set(work_pb2.ErrorCode.keys()) - {"ERROR_CODE_UNSPECIFIED"} | of_grpc


def test_back_off_grows_to_its_ceiling_and_starts_anew():
    backoff = Backoff(Random(1))
    waits = [backoff.failed() for _ in range(40)]
    assert all(0.1 * min(60, 2**n) <= wait <= min(60, 2**n) for n, wait in enumerate(waits))
    backoff.succeeded()
    assert backoff.failed() <= 1


def test_after_trouble_one_request_feels_its_way():
    endpoint = Endpoint(4, Backoff(Random(1)))
    assert endpoint.limit(0.0) == 0
    endpoint.found_up()
    assert endpoint.limit(0.0) == 4
    wait = endpoint.failed(Wait("endpoint_limit", "", retry_after_s=30.0), 0.0)
    assert 30 <= wait <= 31
    assert (endpoint.limit(29.0), endpoint.limit(32.0)) == (0, 1)
    endpoint.answered(32.0)
    assert endpoint.limit(32.0) == 4


def test_failures_of_one_moment_count_once():
    endpoint = Endpoint(4, Backoff(Random(1)))
    waits = {endpoint.failed(Wait("endpoint_busy", ""), 0.0) for _ in range(4)}
    assert len(waits) == 1


def test_a_long_outage_is_one():
    endpoint = Endpoint(4, Backoff(Random(1)))
    endpoint.found_up()
    endpoint.failed(Wait("endpoint_busy", ""), 0.0)
    assert not endpoint.is_out(OUTAGE_S)
    endpoint.failed(Wait("endpoint_busy", ""), OUTAGE_S + 1)
    assert endpoint.is_out(OUTAGE_S + 1)
    assert not endpoint.is_up


def test_a_quota_that_ends_tomorrow_is_an_outage_at_once():
    endpoint = Endpoint(4, Backoff(Random(1)))
    endpoint.found_up()
    endpoint.failed(Wait("endpoint_limit", "", retry_after_s=3600.0), 0.0)
    assert endpoint.is_out(0.0)
    assert not endpoint.is_up


class ScriptedEngine:
    """Stands where the network would be: an outcome for each ask, by unit."""

    kind = "scripted"

    def __init__(self, outcomes: dict[str, Trouble | Answered], usual: Trouble | Answered) -> None:
        self.outcomes = outcomes
        self.usual = usual

    async def ask(self, _task: Task, _prompt: str, _jpeg: bytes, unit: str) -> Trouble | Answered:
        return self.outcomes.get(unit, self.usual)


def lease(number: int) -> Lease:
    task = Task.of(
        Perspective.parse(
            json.dumps(
                {
                    "name": "plain",
                    "display_name": "Plain",
                    "version": "1",
                    "prompt": "Describe.",
                    "schema_fields": [{"name": "caption", "type": "str", "description": "One."}],
                    "table_columns": [{"name": "caption"}],
                    "context_template": "",
                }
            )
        )
    )
    return Lease(work_pb2.Unit(campaign_id=1, unit_id=number), b"", task, "Describe.")


class Bench:
    """Workers with a clock that jumps to whatever is waited for."""

    def __init__(self, folder: Path, engine: ScriptedEngine, units: int) -> None:
        self.now = 0.0
        self.log = structlog.get_logger()
        self.queue = Queue(2)
        self.holdings = Holdings(
            self.queue, Spool(folder), clock=self.clock, disk_backoff=Backoff(Random(1)), log=self.log
        )
        endpoint = Endpoint(2, Backoff(Random(1), most_s=2.0))
        endpoint.found_up()
        self.workers = Workers(
            engine, None, self.holdings, Stats(), endpoint, image_backoff=Backoff(Random(1)), log=self.log
        )
        for number in range(1, units + 1):
            ref = Ref(1, number)
            self.queue.hold(ref, 0.0, 1e6)
            self.queue.next_fetch(0.0)
            self.queue.fetched(ref, 0.0)
            self.holdings.leases[ref] = lease(number)
            self.holdings.pictures[ref] = b"jpeg"

    def clock(self) -> float:
        self.now += 0.5
        return self.now

    async def run(self, results: int) -> dict[int, work_pb2.Result]:
        asking = asyncio.create_task(self.workers.asking())
        async with asyncio.timeout(20):
            while len(self.holdings.results) < results and not asking.done():
                await asyncio.wait([asking], timeout=0.001)
                self.holdings.changed.beat()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await self.workers.stop()
        if not asking.cancelled():
            asking.result()
        return {ref.unit_id: result for ref, result in self.holdings.results.items()}


GOOD = Answered(b'{"caption":"A dog."}', "m", 1, 0.1)


async def test_a_poisoned_unit_is_reported_while_the_others_go_on(tmp_path: Path):
    broken = Wait("endpoint_busy", "HTTP 500: segfault", is_server_error=True)
    results = await Bench(tmp_path, ScriptedEngine({"1/1": broken}, GOOD), 6).run(6)
    assert results[1].failure == "endpoint_error: HTTP 500: segfault"
    assert all(results[number].answer.body == GOOD.body for number in range(2, 7))


async def test_a_server_that_is_broken_for_all_costs_no_unit(tmp_path: Path):
    engine = ScriptedEngine({}, Wait("endpoint_busy", "HTTP 500: no GPU", is_server_error=True))
    bench = Bench(tmp_path, engine, 3)
    bench.holdings.changed.wait = waits_then_heals(bench, engine)
    results = await bench.run(3)
    assert [result.WhichOneof("outcome") for result in results.values()] == ["answer"] * 3


def waits_then_heals(bench: Bench, engine: ScriptedEngine):
    """Heals the endpoint after many failed tries."""
    wait = bench.holdings.changed.wait
    tries = 0

    async def counted(timeout_s: float | None) -> None:
        nonlocal tries
        tries += 1
        bench.now += 3.0
        if tries == 20:
            engine.usual = GOOD
        await wait(0.001 if timeout_s is not None else None)

    return counted


async def test_an_outage_hands_every_unit_back_and_leases_no_more(tmp_path: Path):
    engine = ScriptedEngine({}, Wait("endpoint_limit", "HTTP 429: come back tomorrow", retry_after_s=3600.0))
    bench = Bench(tmp_path, engine, 5)
    parts = [asyncio.create_task(part) for part in (bench.workers.asking(), bench.workers.watching())]
    async with asyncio.timeout(20):
        while len(bench.holdings.to_release) < 5:
            await asyncio.wait(parts, timeout=0.001)
    assert set(bench.holdings.to_release.values()) == {"endpoint_unavailable"}
    assert bench.queue.plan(bench.now, None) is None
    for part in parts:
        part.cancel()
    await asyncio.gather(*parts, return_exceptions=True)
    await bench.workers.stop()


async def test_a_model_that_never_answers_right_stops_the_client(tmp_path: Path):
    engine = ScriptedEngine({}, JobWrong("answer_not_json", "no JSON"))
    with pytest.raises(SetupError) as caught:
        await Bench(tmp_path, engine, FAILURES_IN_A_ROW + 10).run(FAILURES_IN_A_ROW + 10)
    assert caught.value.code == "nothing_works"


async def test_a_full_disk_is_waited_for_and_costs_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bench = Bench(tmp_path, ScriptedEngine({}, GOOD), 1)
    waits: list[float] = []

    async def disk_is_freed(seconds: float) -> None:
        assert bench.holdings.results == {}
        waits.append(seconds)
        monkeypatch.undo()

    def full(_path: Path, _data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("volunteer_client.durable.write", full)
    bench.holdings._sleep = disk_is_freed
    results = await bench.run(1)
    assert (len(waits), len(results)) == (1, 1)
    assert (tmp_path / "finished" / "1-1").exists()


def test_a_key_file_is_only_its_owners(tmp_path: Path):
    home = Home(tmp_path / "home")
    with home.lock():
        key = home.key_or_new()
    assert isinstance(key, Ed25519PrivateKey)
    assert (home.folder / "host.key").stat().st_mode & 0o777 == 0o600
    same = home.key()
    assert same is not None
    assert same.private_bytes_raw() == key.private_bytes_raw()
