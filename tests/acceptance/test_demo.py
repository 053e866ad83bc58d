"""`chorus demo`: one full run whose every promise is checked; and none that leaves a process or a folder."""

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.street import CHORUS, Process, chorus, free_port, is_alive
from support.waiting import wait_until

FIGURES = {
    "images",
    "units",
    "results",
    "accepted",
    "exhausted",
    "truth_correct",
    "wrong_accepted",
    "lost",
    "results_per_accepted",
    "seconds",
}


@dataclass(frozen=True)
class Run:
    """A full demo: its exit status, words, table and export, and what it left behind."""

    status: int
    said: str
    table: dict[str, Any]
    export: Path
    left_files: list[str]
    left_processes: list[str]


@pytest.fixture
def temp(data_folder: Path) -> Path:
    """A temp folder of the demo's own, so that what it leaves is seen."""
    return data_folder


@pytest.fixture
def begun(temp: Path) -> Iterator[Process]:
    """A demo that has begun; nothing of it outlives the test."""
    with start(temp) as process:
        yield process


def start(temp: Path, *options: str | Path) -> Process:
    command = [*CHORUS, "demo", "--once", *map(str, options)]
    return Process(command, temp.with_suffix(".log"), {"TMPDIR": str(temp)})


@pytest.fixture(scope="module")
def demo(open_folder: Path) -> Iterator[Run]:
    """The one full run: as CI and a newcomer see it."""
    temp, out = (Path(tempfile.mkdtemp(dir=open_folder)) for _ in range(2))
    temp.chmod(0o711)
    with start(temp, "--json", out / "table.json", "--out", out / "export") as process:
        process.await_words("volunteers joined", 60)
        process.family()
        process.ended(120)
        left = [child.name() for child in process.children if is_alive(child)]
    table = json.loads((out / "table.json").read_text())
    yield Run(process.status, process.said, table, out / "export", os.listdir(temp), left)  # noqa: PTH208  # names
    shutil.rmtree(out)


def test_demo_ends_well(demo: Run) -> None:
    assert demo.status == 0, demo.said
    assert demo.table.keys() >= FIGURES
    assert demo.table["images"] >= 24


def test_demo_accepts_nothing_wrong_and_loses_nothing(demo: Run) -> None:
    assert demo.table["wrong_accepted"] == 0
    assert demo.table["lost"] == 0
    assert demo.table["truth_correct"] == demo.table["accepted"] > 0
    assert demo.table["exhausted"] <= 0.05 * demo.table["units"]
    assert demo.table["accepted"] + demo.table["exhausted"] == demo.table["units"]
    assert demo.table["results_per_accepted"] >= 2


def test_demo_kills_one_and_refuses_the_bad_ones(demo: Run) -> None:
    assert "was killed by kill -9 while holding" in demo.said
    by_name = {volunteer["name"]: volunteer for volunteer in demo.table["volunteers"]}
    for name in ("dora", "gus"):
        assert by_name[name]["agreed"] <= 0.05 * by_name[name]["results"]
        assert by_name[name]["refused"] > 0
    for name in ("ada", "ben", "cleo"):
        assert by_name[name]["agreed"] > 0


def test_demo_exports_what_it_accepted(demo: Run) -> None:
    lines = (demo.export / "annotations.jsonl").read_text().splitlines()
    assert len(lines) == demo.table["accepted"]


def test_demo_leaves_no_process_and_no_folder(demo: Run) -> None:
    assert demo.left_processes == []
    assert demo.left_files == []


@pytest.mark.parametrize(("words", "processes"), [("Starting a coordinator", 8), ("volunteers joined", 18)])
def test_demo_ends_tidily_at_ctrl_c(temp: Path, begun: Process, words: str, processes: int) -> None:
    begun.await_words(words)
    wait_until(lambda: len(begun.family()) > processes, 60)  # while the database is made; while all work
    begun.interrupt()
    assert begun.ended(40) == 130, begun.said
    assert "Traceback" not in begun.said
    wait_until(lambda: not begun.family(), 20)
    assert list(temp.iterdir()) == []


def test_demo_killed_takes_its_children_with_it(begun: Process) -> None:
    begun.await_words("volunteers joined")
    wait_until(lambda: len(begun.family()) > 18, 60)  # six readers, six volunteers, servers, PostgreSQL
    begun.kill()
    wait_until(lambda: not begun.family(), 20)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_demo_runs_as_a_plain_user(open_folder: Path, plain: tuple[str, ...]) -> None:
    home = Path(tempfile.mkdtemp(dir=open_folder))
    shutil.chown(home, "nobody")
    table = home / "table.json"
    settings = ("env", f"HOME={home}", f"TMPDIR={home}", f"PATH={os.environ['PATH']}")
    done = chorus(
        "demo", "--once", "--scenes", "6", "--json", table, before=[*plain, *settings], timeout_s=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(table.read_text())["lost"] == 0
    assert table.stat().st_uid != 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--endpoint", "http://127.0.0.1:1/v1"], "--endpoint and --model go together"),
        (["--model", "m"], "--endpoint and --model go together"),
        (["--photos"], "need a real model"),
        (["--limit", "5"], "need a real model"),
        (["--images", "."], "need a real model"),
        (["--endpoint", "http://127.0.0.1:1/v1", "--model", "m", "--images", "/nowhere"], "/nowhere"),
    ],
)
def test_demo_answers_bad_options_with_words(options: list[str], words: str) -> None:
    done = chorus("demo", "--once", *options)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.rstrip().endswith("]")


@pytest.mark.long
def test_demo_captions_photos_with_a_real_model(data_folder: Path) -> None:
    shared = Path(__file__).parents[3] / "shared"
    captioner = shared / "tools" / "captioner" / "run"
    if not captioner.exists():
        pytest.skip("needs ../shared with its captioner and photos")
    port = free_port()
    with Process([str(captioner)], data_folder / "captioner.log", {"PORT": str(port)}) as model:
        wait_until(lambda: model.status is not None or is_served(port), 600, pause_s=0.5)
        assert model.status is None, model.said
        out, table = data_folder / "out", data_folder / "table.json"
        photos = ("--images", shared / "data" / "flickr8k" / "images", "--limit", "12")
        asked = ("--endpoint", f"http://127.0.0.1:{port}/v1", "--model", "tiny-captioner-flickr8k")
        done = chorus("demo", "--once", *photos, *asked, "--out", out, "--json", table, timeout_s=300)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(table.read_text())
    assert figures["images"] == figures["units"] == 12
    assert figures["lost"] == 0
    assert figures["accepted"] + figures["exhausted"] == 12
    assert len((out / "annotations.jsonl").read_text().splitlines()) == figures["accepted"]


def is_served(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
