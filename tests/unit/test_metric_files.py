"""Figures of many processes: each has a name that no other living one has; what it counted outlives it."""

import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.multiprocess import MultiProcessCollector

from chorus.metric_files import forget

COUNT = """
import sys
from pathlib import Path
from chorus.metric_files import share
print(share(Path(sys.argv[1]), "work"), flush=True)
from coordinator.metrics import IMAGE_BYTES
for line in sys.stdin:
    IMAGE_BYTES.inc(int(line))
    print("counted", flush=True)
"""


class Counting:
    """A process that adds to one counter what it is told."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", COUNT, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.name = self.process.stdout.readline().strip()

    def count(self, number: int) -> None:
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "counted\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def _total(folder: Path) -> float:
    merged = MultiProcessCollector.merge([str(file) for file in folder.glob("*.db")])
    [bytes_] = [metric for metric in merged if metric.name == "chorus_image_bytes"]
    return sum(sample.value for sample in bytes_.samples)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "metrics"


def test_what_killed_processes_counted_is_kept_and_counted_on(folder: Path):
    first, second = Counting(folder), Counting(folder)
    assert (first.name, second.name) == ("work-1", "work-2")
    first.count(1)
    second.count(10)
    assert _total(folder) == 11
    first.kill()
    assert _total(folder) == 11
    successor = Counting(folder)
    assert successor.name == "work-1"
    successor.count(100)
    assert _total(folder) == 111
    for one in (second, successor):
        one.kill()
    assert _total(folder) == 111
    assert len(list(folder.glob("counter_*.db"))) == 2


def test_figures_start_at_nothing_once_forgotten(folder: Path):
    one = Counting(folder)
    one.count(5)
    one.kill()
    forget(folder)
    another = Counting(folder)
    another.count(1)
    another.kill()
    assert _total(folder) == 1
