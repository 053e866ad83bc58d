"""What an operator types: each command as promised, while a coordinator is up and while none is."""

import functools
import hashlib
import http.server
import json
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.street import CHORUS, Process, Street, chorus, draw_scenes, write_campaign
from support.waiting import wait_until

LICENCED = 'licenses = ["CC0-1.0", "CC-BY-4.0"]'


@pytest.fixture(scope="module")
def street(open_folder: Path) -> Iterator[Street]:
    """A coordinator whose campaign `scenes` two volunteers have finished."""
    folder = Path(tempfile.mkdtemp(dir=open_folder))
    folder.chmod(0o711)
    with Street(folder) as running:
        running.campaign(8)
        for name in ("ada", "ben"):
            home = running.join(name, running.invite("--user", name))
            running.volunteer(home, running.reader(name), name)
        wait_until(lambda: settled(running), 60, pause_s=0.3)
        yield running


def settled(street: Street) -> bool:
    status = street.status()
    return status["open"] == 0 and status["annotations"] == status["accepted"]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder that a web server on loopback serves, and its URL."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield tmp_path, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def campaign_of(street: Street, name: str) -> dict[str, Any]:
    campaigns = json.loads(street.admin("status", "--json").stdout)["campaigns"]
    return next(campaign for campaign in campaigns if campaign["name"] == name)


def refused(street: Street, *arguments: str | Path) -> str:
    """What a command says that must end with words and a stable code."""
    done = street.admin(*arguments)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    assert done.stderr.rstrip().endswith("]")
    return done.stderr


@pytest.mark.parametrize(
    ("text", "words", "code"),
    [
        ("name = \nperspectives = []", "line 1", "campaign_file_invalid"),
        ('name = "c"\nperspectives = ["photo_caption"]\nlanes = 3', "lanes", "campaign_file_invalid"),
        (
            'name = "c"\nperspectives = ["photo_caption"]\n[policy]\nreplicas = 3',
            "policy.replicas",
            "campaign_file_invalid",
        ),
        ('name = "c"\nperspectives = ["no_such"]', "photo_caption", "perspective_invalid"),
        ('name = "c"\nperspectives = ["./no_such.json"]', "no_such.json", "perspective_invalid"),
        (
            'name = "c"\nperspectives = ["photo_caption", "photo_caption"]',
            "photo_caption twice",
            "perspective_invalid",
        ),
        ('name = "No Spaces"\nperspectives = ["photo_caption"]', "name", "campaign_file_invalid"),
    ],
)
def test_bad_campaign_file_is_refused_by_field(
    street: Street, tmp_path: Path, text: str, words: str, code: str
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    said = refused(street, "campaign", "create", file)
    assert words in said
    assert f"[{code}]" in said


def test_campaign_is_created_once(street: Street, tmp_path: Path) -> None:
    file = write_campaign(tmp_path, "once")
    created = street.admin("campaign", "create", file)
    assert created.returncode == 0
    assert "chorus admin import once" in created.stdout
    assert "[campaign_exists]" in refused(street, "campaign", "create", file)
    assert "[campaign_file_invalid]" in refused(street, "campaign", "create", tmp_path / "missing.toml")


def test_import_names_broken_files_and_adds_nothing_twice(street: Street, tmp_path: Path) -> None:
    street.admin("campaign", "create", write_campaign(tmp_path, "folder"))
    images = draw_scenes(tmp_path / "images", 3, seed=21)
    (images / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 this is no image")
    (images / "notes.txt").write_text("not an image by its name")
    first = street.admin("import", "folder", images)
    assert first.returncode == 0, first.stderr
    assert "skipped broken.jpg: " in first.stderr
    assert "3 new images" in first.stdout
    assert "1 files that are not images" in first.stdout
    assert "1 skipped; 3 new units" in first.stdout
    again = street.admin("import", "folder", images)
    assert "0 new images" in again.stdout
    assert "3 known before, 1 skipped; 0 new units" in again.stdout
    assert campaign_of(street, "folder")["units"] == campaign_of(street, "folder")["images"] == 3


def test_import_takes_lists_with_licences_and_urls(street: Street, served: tuple[Path, str]) -> None:
    folder, url = served
    street.admin("campaign", "create", write_campaign(folder, "listed", LICENCED))
    images = sorted(draw_scenes(folder / "images", 4, seed=22).iterdir())
    lines = [
        {"path": "images/" + images[0].name, "license": "CC0-1.0", "metadata": {"tags": ["a"]}},
        {"url": f"{url}/images/{images[1].name}", "license": "CC-BY-4.0", "attribution": "A. Painter"},
        {"path": "images/" + images[2].name, "license": "CC-BY-NC-4.0"},
        {"path": "images/" + images[3].name},
    ]
    listed = folder / "list.jsonl"
    listed.write_text("\n".join(map(json.dumps, lines)) + "\nnot json\n")
    closed = street.admin("import", "listed", listed)
    assert "1 new images" in closed.stdout, "a private address is reached only where it is allowed"
    done = street.admin("import", "listed", listed, "--allow-network", "127.0.0.0/8")
    assert done.returncode == 0
    assert "1 new images" in done.stdout
    assert "1 known before, 3 skipped; 1 new units" in done.stdout
    assert f"skipped images/{images[2].name}: CC-BY-NC-4.0; the campaign does not take it" in done.stderr
    assert f"skipped images/{images[3].name}: no licence" in done.stderr
    assert "skipped list.jsonl:5: " in done.stderr
    kept = street.rows("SELECT license, attribution, meta FROM contents WHERE attribution IS NOT NULL")
    assert kept == [("CC-BY-4.0", "A. Painter", {})]
    assert street.rows('SELECT count(*) FROM contents WHERE meta = \'{"tags": ["a"]}\'') == [(1,)]


def test_import_answers_bad_arguments_with_words(street: Street, tmp_path: Path) -> None:
    said = refused(street, "import", "no-such", tmp_path)
    assert "scenes" in said, "the campaigns that there are get named"
    assert "[campaign_unknown]" in said
    assert "[network_invalid]" in refused(street, "import", "scenes", tmp_path, "--allow-network", "x")
    missing = street.admin("import", "scenes", tmp_path / "missing")
    assert "[no_such_path]" in missing.stderr
    assert missing.returncode == 1


def test_status_has_its_figures(street: Street) -> None:
    status = campaign_of(street, "scenes")
    assert status["images"] == status["units"] == 8
    assert status["accepted"] + status["exhausted"] == 8
    assert status["annotations"] == status["accepted"] >= 6
    assert status["results"] >= 16
    assert status["open"] == status["leased"] == 0
    assert {"state", "waiting_by_tier", "exhausted_by_reason", "by_perspective"} <= status.keys()
    table = street.admin("status")
    assert table.returncode == 0
    assert "scenes" in table.stdout
    assert "accepted" in table.stdout


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_watch_ends_quietly_at_ctrl_c(street: Street, tmp_path: Path, options: tuple[str, ...]) -> None:
    command = [*CHORUS, "admin", "status", "--watch", *options, "--data", str(street.data)]
    as_on_a_terminal = {"FORCE_COLOR": "1"}
    with Process(command, tmp_path / "watch.log", as_on_a_terminal) as watch:
        watch.await_words("scenes")
        watch.interrupt()
        assert watch.ended(15) == 130
        assert "Traceback" not in watch.said


def test_invite_is_refused_where_it_does_not_hold(street: Street) -> None:
    assert "[tier_invalid]" in refused(street, "invite", "--tier", "7g")
    used = street.invite()
    street.join("first", used)
    for invite, why in ((used, "used up"), (street.invite("--days", "0.01"), "expired")):
        if why == "expired":
            street.rows("UPDATE invites SET expires_at = now() - interval '1 s' RETURNING id")
        done = chorus("volunteer", "join", invite, "--home", street.folder / why.replace(" ", "-"))
        assert done.returncode == 2
        assert why in done.stderr
        assert "[invite_invalid]" in done.stderr


def test_export_is_a_dataset(street: Street, tmp_path: Path) -> None:
    done = street.admin("export", "scenes", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    raw = (tmp_path / "out" / "annotations.jsonl").read_bytes()
    lines = [json.loads(line) for line in raw.splitlines()]
    accepted = campaign_of(street, "scenes")["accepted"]
    assert len(lines) == accepted
    for line in lines:
        assert {"filename", "config_name", "version", "model", "provider", "parsed"} <= line.keys()
        assert line["config_name"] == "scene_caption"
        assert list(line["parsed"]) == ["caption"]
        assert {"sha256", "width", "height", "license", "attribution"} <= line["image"].keys()
        assert 0.5 < line["confidence"] <= 1
        results = line["provenance"]["results"]
        assert len({result["user"] for result in results}) == len(results) >= 2
        assert sum(result["canonical"] for result in results) == 1
    metadata = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert metadata["sha256"] == hashlib.sha256(raw).hexdigest()
    assert metadata["location"] == "annotations.jsonl"
    assert metadata["annotations"] == metadata["images"] == accepted
    assert metadata["annotation_license"] == "CC0-1.0"
    assert metadata["image_licenses"] == {"unknown": accepted}
    assert metadata["version"]


def test_export_gives_only_what_is_published(street: Street, tmp_path: Path) -> None:
    ((withheld,),) = street.rows("SELECT min(id) FROM annotations")
    hidden = street.rows("UPDATE annotations SET status = 'withdrawn' WHERE id = %s RETURNING id", withheld)
    assert hidden == [(withheld,)]
    street.admin("export", "scenes", "--out", tmp_path)
    exported = [json.loads(line) for line in (tmp_path / "annotations.jsonl").read_text().splitlines()]
    street.rows("UPDATE annotations SET status = 'published' WHERE id = %s RETURNING id", withheld)
    assert withheld not in {line["annotation_id"] for line in exported}
    assert len(exported) == campaign_of(street, "scenes")["accepted"] - 1


def test_export_of_no_campaign_names_those_there_are(street: Street, tmp_path: Path) -> None:
    assert "scenes" in refused(street, "export", "no-such", "--out", tmp_path)


def test_a_paused_campaign_is_shown_so_and_resumes(street: Street) -> None:
    assert street.admin("campaign", "pause", "scenes").returncode == 0
    assert campaign_of(street, "scenes")["state"] == "paused"
    assert "scenes (paused)" in street.admin("status").stdout
    street.admin("campaign", "resume", "scenes")
    assert campaign_of(street, "scenes")["state"] == "running"
    assert "[campaign_unknown]" in refused(street, "campaign", "pause", "no-such")


def test_export_into_what_is_no_folder_is_told(street: Street, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "[file_unusable]" in refused(street, "export", "scenes", "--out", tmp_path / "file")


def test_commands_work_while_nothing_runs(data_folder: Path) -> None:
    where = ("--data", data_folder / "data")
    mistyped = chorus("admin", "status", *where)
    assert mistyped.returncode == 1
    assert "[no_coordinator]" in mistyped.stderr
    assert not (data_folder / "data").exists(), "only `up` makes a coordinator"
    ports = ("--port", "0", "--images-port", "0", "--metrics-port", "0")
    with Process([*CHORUS, "up", *ports, *where], data_folder / "up.log") as up:
        up.await_words("Ctrl-C stops.")
        up.interrupt()
        assert up.ended() == 0
    empty = chorus("admin", "status", *where)
    assert "campaign create" in empty.stdout
    created = chorus("admin", "campaign", "create", write_campaign(data_folder), *where)
    assert created.returncode == 0, created.stderr
    imported = chorus("admin", "import", "scenes", draw_scenes(data_folder / "scenes", 2), *where)
    assert "2 new units" in imported.stdout
    invite = chorus("admin", "invite", *where)
    assert invite.stdout.startswith("chorus1.")
    exported = chorus("admin", "export", "scenes", "--out", data_folder / "out", *where)
    assert "0 annotations" in exported.stdout
    shutil.rmtree(data_folder / "data")


# --- units, batches and campaigns in bulk ---


def told(street: Street, *arguments: str | Path) -> str:
    """What a command says that does what it is told."""
    done = street.admin(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def batch_of(street: Street, campaign: str, name: str) -> dict[str, Any]:
    listed = json.loads(told(street, "batch", "list", campaign, "--json"))
    return next(batch for batch in listed if batch["batch"] == name)


@pytest.fixture(scope="module")
def bulk(street: Street) -> Street:
    """The street with another campaign, of two batches, that its volunteers have finished."""
    folder = Path(tempfile.mkdtemp(dir=street.folder))
    told(street, "campaign", "create", write_campaign(folder, "bulk"))
    for number, name in enumerate(("first", "second")):
        images = draw_scenes(folder / name, 3, seed=31 + number)
        said = told(street, "import", "bulk", images, "--batch", name, "--priority", str(-number))
        assert f"3 new units in batch {name}." in said
    wait_until(lambda: campaign_of(street, "bulk")["open"] == 0, 60, pause_s=0.3)
    return street


def test_batches_are_listed_with_their_progress(bulk: Street) -> None:
    first, second = batch_of(bulk, "bulk", "first"), batch_of(bulk, "bulk", "second")
    assert (first["units"], first["priority"], first["done"]) == (3, 0, 1.0)
    assert (second["priority"], second["open"]) == (-1, 0)
    table = told(bulk, "batch", "list", "bulk")
    assert "first" in table
    assert "100%" in table
    assert "[batch_unknown]" in refused(bulk, "batch", "cancel", "bulk", "third")


def test_units_are_listed_and_shown_with_all_their_answers(bulk: Street) -> None:
    listed = json.loads(told(bulk, "unit", "list", "--campaign", "bulk", "--batch", "first", "--json"))
    assert len(listed) == 3
    assert len(json.loads(told(bulk, "unit", "list", "--campaign", "bulk", "--limit", "2", "--json"))) == 2
    assert "No unit is like that." in told(bulk, "unit", "list", "--campaign", "bulk", "--state", "open")
    shown = json.loads(told(bulk, "unit", "show", str(listed[0]["id"]), "--json"))
    assert (shown["campaign"], shown["batch"], shown["priority"]) == ("bulk", "first", 0)
    assert {result["user"] for result in shown["results"]} == {"ada", "ben"}
    assert "results: 2" in told(bulk, "unit", "show", str(listed[0]["id"]))
    assert "[state_unknown]" in refused(bulk, "unit", "list", "--campaign", "bulk", "--state", "x")
    assert "[selection_unclear]" in refused(bulk, "unit", "list")
    assert "[unit_unknown]" in refused(bulk, "unit", "show", "999999")


def test_a_batch_is_reopened_after_a_yes_and_its_volunteers_answer_it_again(bulk: Street) -> None:
    assert "[not_confirmed]" in refused(bulk, "batch", "reopen", "bulk", "first")
    assert batch_of(bulk, "bulk", "first")["open"] == 0
    said = told(bulk, "batch", "reopen", "bulk", "first", "--yes", "--because", "blurred")
    assert "3 units reopened." in said
    wait_until(lambda: campaign_of(bulk, "bulk")["open"] == 0, 60, pause_s=0.3)
    [one, *_] = json.loads(told(bulk, "unit", "list", "--campaign", "bulk", "--batch", "first", "--json"))
    shown = json.loads(told(bulk, "unit", "show", str(one["id"]), "--json"))
    [past] = shown["past_rounds"]
    assert (past["reason"], len(past["results"]), len(shown["results"])) == ("blurred", 2, 2)


def test_a_cancelled_campaign_says_how_it_goes_on(bulk: Street, tmp_path: Path) -> None:
    told(bulk, "campaign", "pause", "bulk")
    told(bulk, "import", "bulk", draw_scenes(tmp_path / "more", 2, seed=41), "--batch", "third")
    assert "2 open units have priority 3." in told(bulk, "campaign", "prioritise", "bulk", "--priority", "3")
    assert "and 2 open units with it" in told(bulk, "campaign", "cancel", "bulk", "--yes")
    status = campaign_of(bulk, "bulk")
    assert (status["state"], status["cancelled"], status["open"]) == ("cancelled", 2, 0)
    for refusal in (("campaign", "resume", "bulk"), ("unit", "reopen", "--campaign", "bulk", "--yes")):
        assert "chorus admin campaign reopen bulk" in refused(bulk, *refusal)
    assert "[campaign_cancelled]" in refused(bulk, "import", "bulk", tmp_path / "more")
    assert "with 2 units" in told(bulk, "campaign", "reopen", "bulk")
    assert "[campaign_not_cancelled]" in refused(bulk, "campaign", "reopen", "bulk")
    wait_until(lambda: campaign_of(bulk, "bulk")["open"] == 0, 60, pause_s=0.3)
    assert batch_of(bulk, "bulk", "third")["cancelled"] == 0
    assert "[nothing_selected]" in refused(bulk, "batch", "cancel", "bulk", "third", "--yes")
