"""Two machines over one PostgreSQL, each with two work servers on one port and upkeep: nothing doubles."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest
from support.street import Street, acknowledged
from support.waiting import wait_until

IMAGES = 24


@pytest.fixture
def machines(data_folder: Path, database_url: str) -> Iterator[tuple[Street, Street]]:
    """Two coordinators that share the database, the keys and the images, and nothing else."""
    one, two = data_folder / "one", data_folder / "two"
    for folder in (one, two):
        folder.mkdir()
    with Street(one, "--workers", "2", database_url=database_url) as first:
        (two / "data").mkdir()
        shutil.copytree(first.data / "keys", two / "data" / "keys")
        (two / "data" / "objects").symlink_to(first.data / "objects")
        with Street(two, "--workers", "2", database_url=database_url) as second:
            yield first, second


def _leased(street: Street) -> float:
    page = httpx2.get(f"http://127.0.0.1:{street.metrics_port}/metrics").text
    return sum(map(float, re.findall(r"^chorus_units_leased_total\{.*\} (\S+)$", page, re.MULTILINE)))


def _kill(victim: psutil.Process) -> None:
    victim.kill()


def test_two_machines_share_a_campaign_and_nothing_is_doubled(machines: tuple[Street, Street]) -> None:
    first, second = machines
    first.campaign(IMAGES)
    volunteers = []
    for number, (street, name) in enumerate(
        [(first, "ada"), (second, "ben"), (first, "cy"), (second, "dee")]
    ):
        home = street.join(name, street.invite("--user", name))
        reader = street.reader(name, number)
        volunteers.append(street.volunteer(home, reader, name, "--concurrency", "2"))
    wait_until(lambda: first.status()["results"] >= IMAGES // 2, 60, pause_s=0.2)
    _kill(first.servers("upkeep")[0])
    _kill(second.servers("work")[0])
    wait_until(lambda: first.status()["open"] == 0, 120, pause_s=0.3)
    wait_until(lambda: first.rows("SELECT count(*) FROM settled") == [(0,)], 30)
    wait_until(lambda: first.rows("SELECT count(*) FROM ledger WHERE NOT folded") == [(0,)], 30)
    status = second.status()
    assert status["accepted"] + status["exhausted"] == IMAGES
    assert (_leased(first) > 0, _leased(second) > 0) == (True, True)
    [[annotations, annotated]] = first.rows("SELECT count(*), count(DISTINCT unit_id) FROM annotations")
    assert annotations == annotated == status["accepted"]
    [[judged, judged_once]] = first.rows(
        "SELECT count(*), count(DISTINCT (unit_id, user_id)) FROM ledger WHERE judgement <> 'failed'"
    )
    assert judged == judged_once
    [[credit]] = first.rows("SELECT sum(credit) FROM ledger")
    for owner in ("user", "host"):
        assert first.rows("SELECT sum(credit) FROM credit_totals WHERE owner = %s", owner) == [(credit,)]
    stored = set(
        first.rows("SELECT campaign_id, unit_id, u.name FROM results JOIN users u ON u.id = user_id")
    )
    told = {
        (*ref, volunteer.output.stem) for volunteer in volunteers for ref in acknowledged(volunteer.output)
    }
    assert told
    assert told <= stored


def test_either_machine_serves_while_the_other_is_down(machines: tuple[Street, Street]) -> None:
    first, second = machines
    home = second.join("ada", second.invite())
    first.process.kill()
    done = second.admin("status")
    assert done.returncode == 0, done.stderr
    assert home.exists()
    page = httpx2.get(f"http://127.0.0.1:{second.metrics_port}/readyz")
    assert (page.status_code, page.text) == (200, "ready\n")
