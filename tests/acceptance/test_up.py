"""`chorus up`: one at a time, tidy however it ends, on any PostgreSQL, clear where it cannot."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from support.street import CHORUS, Process, Street, acknowledged, chorus, free_port
from support.waiting import wait_until

import store.database


@pytest.fixture(scope="module")
def street(open_folder: Path) -> Iterator[Street]:
    """An idle coordinator with two work servers."""
    folder = Path(tempfile.mkdtemp(dir=open_folder))
    folder.chmod(0o711)
    with Street(folder, "--workers", "2") as running:
        yield running


def test_up_says_where_it_listens_and_how_to_join(street: Street) -> None:
    said = street.process.said
    assert "gRPC over TLS" in said
    assert "https://127.0.0.1:" in said
    assert "chorus volunteer join chorus1." in said
    assert str(street.data) in said


def test_second_up_on_the_same_data_says_so_and_ends(street: Street) -> None:
    second = chorus("up", "--data", street.data, "--port", str(free_port()), "--metrics-port", "0")
    assert second.returncode == 1
    assert str(street.process.pid) in second.stderr
    assert str(street.data) in second.stderr
    assert second.stderr.rstrip().endswith("[already_up]")
    assert street.process.status is None


def test_taken_ports_are_named(street: Street, data_folder: Path) -> None:
    for flag, other, port in (
        ("--port", "--images-port", street.port),
        ("--images-port", "--port", street.images_port),
    ):
        where = (flag, str(port), other, str(free_port()), "--metrics-port", "0")
        refused = chorus("up", "--data", data_folder / "other", *where)
        assert refused.returncode == 1
        assert f"Port {port} " in refused.stderr
        assert flag in refused.stderr
        assert refused.stderr.rstrip().endswith("[port_in_use]")


def test_two_work_servers_serve_one_port(street: Street) -> None:
    home = street.join("ada", street.invite())

    def listening() -> list[psutil.Process]:
        return [server for server in street.servers("work") if server.net_connections("tcp")]

    assert len(listening()) == 2
    for silent in listening():  # with either one dead, and before it is up again, the other one answers
        silent.kill()
        answered = chorus("volunteer", "standing", "--home", home)
        assert answered.returncode == 0, answered.stderr
        wait_until(lambda: len(listening()) == 2, 20)


def test_ctrl_c_stops_every_process(data_folder: Path) -> None:
    with Street(data_folder) as running:
        family = running.process.family()
        assert {process.name() for process in family} >= {"postgres"}
        running.process.interrupt()
        assert running.process.ended(30) == 0
        assert "Nothing that was acknowledged is lost" in running.process.said
        assert running.process.family() == set()
        running.restart()
        assert running.admin("status").returncode == 0


def test_killed_up_takes_its_children_with_it_and_starts_again(data_folder: Path) -> None:
    with Street(data_folder) as running:
        running.process.kill()
        wait_until(lambda: not running.process.family(), 20)
        running.restart()
        running.process.kill()
        running.restart()  # at once, while the children of the killed one may still be there
        assert running.admin("status").returncode == 0


def test_any_postgresql_does_the_same_campaign(data_folder: Path, database_url: str) -> None:
    with Street(data_folder, database_url=database_url) as running:
        assert "your own, by --database-url" in running.process.said
        assert not (running.data / "database").exists()
        assert "postgres" not in {process.name() for process in running.process.family()}
        running.campaign(6)
        volunteers = []
        for name in ("ada", "ben"):
            home = running.join(name, running.invite("--user", name))
            volunteers.append(running.volunteer(home, running.reader(name), name))
        wait_until(lambda: running.status()["open"] == 0, 60, pause_s=0.3)
        assert running.status()["accepted"] >= 5
        for volunteer in volunteers:
            assert len(acknowledged(volunteer.output)) == 6
        exported = running.admin("export", "scenes", "--out", data_folder / "out")
        assert exported.returncode == 0
        assert json.loads((data_folder / "out" / "metadata.json").read_text())["images"] >= 5


def test_schema_of_a_newer_chorus_is_refused(data_folder: Path, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    for command in (("up",), ("admin", "status")):
        refused = chorus(*command, "--data", data_folder / "data", "--database-url", database_url)
        assert refused.returncode == 1
        assert "Update Chorus" in refused.stderr
        assert refused.stderr.rstrip().endswith("[schema_too_new]")


async def test_older_postgresql_is_refused(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # No older server is at hand, so the requirement moves instead.
    monkeypatch.setattr(store.database, "MINIMUM_SERVER", 990_000)
    database = store.database.Database.connect(database_url)
    try:
        with pytest.raises(store.database.DatabaseError, match="17 or newer") as refused:
            await database.check_server()
    finally:
        await database.close()
    assert refused.value.code == "database_too_old"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("postgresql://chorus@127.0.0.1:1/chorus", "database_unreachable"),
        ("postgresql://chorus@nowhere.invalid/chorus", "database_unreachable"),
        ("mysql://chorus@127.0.0.1/chorus", "database_url_invalid"),
        ("chorus", "database_url_invalid"),
    ],
)
def test_databases_that_cannot_be_used_are_refused_in_words(data_folder: Path, url: str, code: str) -> None:
    refused = chorus("up", "--data", data_folder / "data", "--database-url", url)
    assert refused.returncode == 1
    assert refused.stderr.rstrip().endswith(f"[{code}]")
    assert "Traceback" not in refused.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_up_runs_as_a_plain_user(open_folder: Path, plain: tuple[str, ...]) -> None:
    home = Path(tempfile.mkdtemp(dir=open_folder))
    os.chown(home, 65534, 65534)
    settings = ("env", f"HOME={home}", f"TMPDIR={home}", f"PATH={os.environ['PATH']}")
    ports = ("--port", str(free_port()), "--images-port", str(free_port()), "--metrics-port", "0")
    command = [*plain, *settings, *CHORUS, "up", "--data", str(home / "data"), *ports]
    with Process(command, open_folder / "plain.log") as process:
        process.await_words("Ctrl-C stops.")
        assert {p.uids().effective for p in process.family()} == {65534}
        process.interrupt()
        assert process.ended(30) == 0
        assert process.family() == set()
