"""What a volunteer types, against a real coordinator: stopping in two steps, being killed, being revoked."""

import contextlib
import http.server
import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from support.street import Process, Street, acknowledged, chorus, events
from support.waiting import wait_until

SCENES = 60


@pytest.fixture(scope="module")
def street(open_folder: Path) -> Iterator[Street]:
    """One coordinator for all tests here; each volunteer is a user of its own, so that work is left."""
    folder = Path(tempfile.mkdtemp(dir=open_folder))
    folder.chmod(0o711)
    with Street(folder) as running:
        running.campaign(SCENES, "lease_s = 600\nreplication = 8\nmax_voices = 8")
        yield running


class GatedModel:
    """A model server that answers only while its gate is open: what it was asked is held until then."""

    def __init__(self) -> None:
        gate = self.gate = threading.Event()
        self.asked = asked = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer({"object": "list", "data": [{"id": "gated", "object": "model"}]})

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                asked.set()
                if gate.wait(60):
                    content = json.dumps({"caption": "A red circle at the top left."})
                    message = {"role": "assistant", "content": content}
                    choice = {"index": 0, "message": message, "finish_reason": "stop"}
                    self._answer({"id": "1", "object": "chat.completion", "created": 0, "model": "gated",
                                  "choices": [choice]})  # fmt: skip

            def _answer(self, payload: dict[str, object]) -> None:
                body = json.dumps(payload).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

            def handle(self) -> None:
                with contextlib.suppress(ConnectionError):  # the client was killed
                    super().handle()

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def model() -> Iterator[GatedModel]:
    gated = GatedModel()
    yield gated
    gated.close()


@pytest.fixture
def start(street: Street, model: GatedModel) -> Callable[[str], Process]:
    """Starts a volunteer of that name on the gated model; joins first where it has no home yet."""

    def started(name: str) -> Process:
        home = street.folder / name
        if not home.exists():
            street.join(name, street.invite("--user", name))
        return street.volunteer(home, model.url, "gated")

    return started


def held(street: Street, user: str) -> int:
    sql = "SELECT count(*) FROM leases l JOIN users u ON u.id = l.user_id WHERE u.name = %s"
    return int(street.rows(sql, user)[0][0])


def stored(street: Street, user: str) -> list[tuple[int, int]]:
    sql = "SELECT campaign_id, unit_id FROM results r JOIN users u ON u.id = r.user_id WHERE u.name = %s"
    return [(campaign, unit) for campaign, unit in street.rows(sql, user)]


def test_first_ctrl_c_finishes_what_is_held(
    street: Street, model: GatedModel, start: Callable[[str], Process]
) -> None:
    volunteer = start("ada")
    wait_until(model.asked.is_set, 60)
    volunteer.interrupt()
    volunteer.await_words("finishing what is held")
    leased = sum(event["units"] for event in events(volunteer.output, "leased"))
    model.gate.set()
    assert volunteer.ended(60) == 0
    assert leased > 0
    assert len(stored(street, "ada")) == leased
    assert set(stored(street, "ada")) == acknowledged(volunteer.output)
    assert held(street, "ada") == 0


def test_second_ctrl_c_hands_leases_back_at_once(
    street: Street, model: GatedModel, start: Callable[[str], Process]
) -> None:
    before = street.status()["leased"]
    volunteer = start("ben")
    wait_until(model.asked.is_set, 60)
    in_hand = held(street, "ben")
    assert street.status()["leased"] == before + in_hand
    assert in_hand > 0
    volunteer.interrupt()
    volunteer.await_words("finishing what is held")
    volunteer.interrupt()
    assert volunteer.ended(20) == 0
    assert street.status()["leased"] == before
    assert stored(street, "ben") == []


def test_a_killed_client_loses_and_doubles_no_answer(
    street: Street, model: GatedModel, start: Callable[[str], Process]
) -> None:
    model.gate.set()
    volunteer = start("cleo")
    wait_until(lambda: len(acknowledged(volunteer.output)) > 4, 60)
    volunteer.kill()
    again = start("cleo")
    wait_until(lambda: len(stored(street, "cleo")) == SCENES, 60)
    wait_until(lambda: len(acknowledged(again.output)) == SCENES, 30)
    assert set(stored(street, "cleo")) == acknowledged(again.output)
    assert len(stored(street, "cleo")) == len(set(stored(street, "cleo")))
    assert not list(events(again.output, "refused"))
    again.interrupt()
    assert again.ended() == 0


def test_a_client_whose_spool_is_lost_takes_its_leases_again(
    street: Street, model: GatedModel, start: Callable[[str], Process]
) -> None:
    volunteer = start("ivy")
    wait_until(model.asked.is_set, 60)
    volunteer.kill()
    sql = "SELECT campaign_id, unit_id FROM leases l JOIN users u ON u.id = l.user_id WHERE u.name = %s"
    forgotten = set(street.rows(sql, "ivy"))
    shutil.rmtree(street.folder / "ivy" / "spool")
    again = start("ivy")
    wait_until(lambda: len(list(events(again.output, "leased"))) > 1, 60)
    again.interrupt()
    model.gate.set()
    assert again.ended(60) == 0
    assert forgotten
    assert forgotten <= set(stored(street, "ivy"))
    assert held(street, "ivy") == 0


def test_a_home_cannot_be_used_twice_at_once(
    street: Street, model: GatedModel, start: Callable[[str], Process]
) -> None:
    volunteer = start("dora")
    wait_until(model.asked.is_set, 60)
    where = ("--home", street.folder / "dora", "--endpoint", model.url, "--model", "gated")
    second = chorus("volunteer", "run", *where)
    assert second.returncode == 2
    assert "[home_in_use]" in second.stderr
    assert str(volunteer.pid) in second.stderr
    assert volunteer.status is None


def test_a_copied_home_gets_no_second_lease_of_a_unit(
    street: Street, model: GatedModel, start: Callable[[str], Process]
) -> None:
    first = start("eve")
    wait_until(model.asked.is_set, 60)
    copy = street.folder / "eve-copy"
    shutil.copytree(street.folder / "eve", copy, ignore=shutil.ignore_patterns("spool", "lock"))
    model.gate.set()
    second = street.volunteer(copy, model.url, "gated")
    wait_until(lambda: len(stored(street, "eve")) == SCENES, 60)
    both = (acknowledged(first.output), acknowledged(second.output))
    wait_until(lambda: len(acknowledged(first.output) | acknowledged(second.output)) == SCENES, 30)
    assert len(set(stored(street, "eve"))) == SCENES, both


def test_a_copy_that_fell_behind_is_told_so_and_the_original_goes_on(
    street: Street, model: GatedModel, start: Callable[[str], Process]
) -> None:
    original = start("hal")
    original.await_words('"leased"')
    original.kill()
    copy = street.folder / "hal-copy"
    shutil.copytree(street.folder / "hal", copy)
    original = start("hal")
    original.await_words('"continuing"')
    wait_until(model.asked.is_set, 60)
    for _ in range(2):  # trying again does not help it
        twin = street.volunteer(copy, model.url, "gated")
        assert twin.ended(30) == 3
    told = list(events(twin.output, "stopping: the coordinator refuses this host"))
    assert [event["code"] for event in told] == ["HOST_COPIED"] * 2
    assert "Join again" in told[0]["advice"]
    model.gate.set()
    wait_until(lambda: len(stored(street, "hal")) == SCENES, 60)
    assert original.status is None


def test_a_revoked_host_is_told_so(street: Street, start: Callable[[str], Process]) -> None:
    volunteer = start("gus")
    volunteer.await_words('"leased"')
    with psycopg.connect(street.database_url, autocommit=True) as connection:
        connection.execute("UPDATE hosts SET state = 'revoked' WHERE name = 'gus'")
    volunteer.interrupt()
    volunteer.await_words("finishing what is held")
    volunteer.interrupt()  # the gated model never answers what it holds, and nobody takes it back
    volunteer.ended(30)
    again = start("gus")
    assert again.ended(30) == 3
    told = list(events(again.output, "stopping: the coordinator refuses this host"))
    assert [event["code"] for event in told] == ["HOST_REVOKED"]
    assert "revoked" in told[0]["advice"]
