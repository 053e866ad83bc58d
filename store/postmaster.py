"""PostgreSQL's processes: as whom and with which settings they run, as children that cannot outlive this
process; and those that a crash left."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

# The child waits for a line, so that it cannot run before its watcher does.
_GATE = 'read -r _ || exit 75; exec "$@"'
# Nothing is ever written to the pipe: its end means that the parent died, even by kill -9. A fast stop can
# hang: on a frozen backend, or for ever if it comes while PostgreSQL restarts after a backend's crash.
_WATCH = """
trap "" HUP INT TERM
read -r _
kill -INT "$1"
waited=0
while kill -0 "$1" || exit; do
    [ "$waited" -lt "$2" ] || break
    sleep 1
    waited=$((waited + 1))
done
kill -QUIT "$1"
"""
PATIENCE_S = 30

PORT = 5432  # none is opened; it is a part of the socket's name

_SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "max_connections": "200",
    "timezone": "UTC",
    "lc_messages": "C",
    "password_encryption": "scram-sha-256",
    # Durable, with few and spread checkpoints.
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "wal_level": "replica",
    "wal_compression": "pglz",  # these binaries are built without lz4 and zstd
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    # Short statements on an SSD.
    "jit": "off",
    "random_page_cost": "1.1",
    "idle_in_transaction_session_timeout": "60s",
    # Queue tables turn over within seconds.
    "autovacuum_naptime": "10s",
    "autovacuum_vacuum_cost_limit": "2000",
    "autovacuum_vacuum_cost_delay": "2ms",
    "log_timezone": "UTC",
    "logging_collector": "on",
    "log_filename": "postgres-%a.log",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_truncate_on_rotation": "on",
    "log_line_prefix": "%m [%p] ",
    "log_min_duration_statement": "2s",
}

_NAMES = frozenset({"postgres", "initdb"})
_POLL_S = 0.02

# Descriptors whose closing by the kernel tells others that this process died: no forked child keeps them.
_ours_alone: set[int] = set()


def keep_from_forks(descriptor: int) -> int:
    """Closes the open file in every later fork of this process (no child that execs inherits it anyway)."""
    _ours_alone.add(descriptor)
    return descriptor


def release(descriptor: int) -> None:
    """Closes what `keep_from_forks` was given."""
    _ours_alone.discard(descriptor)
    os.close(descriptor)


def _close_in_fork() -> None:
    while _ours_alone:
        os.close(_ours_alone.pop())


if sys.platform != "win32":
    import fcntl

    os.register_at_fork(after_in_child=_close_in_fork)


def take_lock(path: Path) -> int | None:
    """Locks the file for this process while it lives: its descriptor, or None if another has it."""
    lock = keep_from_forks(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    for _ in range(3):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_POLL_S)  # it may only be `lock_holder`, which has it for a moment
            continue
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        return lock
    release(lock)
    return None


def lock_holder(path: Path) -> str | None:
    """Who holds the lock, in words; None if nobody does."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(lock, 32, 0).decode("ascii", "replace")
        return f"process {pid}" if pid.isdigit() else "another process"
    else:
        return None
    finally:
        os.close(lock)


@dataclass(frozen=True, slots=True)
class Account:
    """The system user that PostgreSQL runs as; `switched` where that is not this process's own user."""

    name: str
    uid: int
    gid: int
    switched: bool

    def spawn(
        self, command: Sequence[str], folder: str | Path, stdin: int, output: IO[bytes] | int
    ) -> subprocess.Popen[bytes]:
        """Starts a command as this user in its own session, so that a terminal's Ctrl-C does not reach it."""
        return subprocess.Popen(  # noqa: S603  the commands are this package's own
            command,
            stdin=stdin,
            stdout=output,
            stderr=output,
            cwd=folder,
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            start_new_session=True,
            user=self.uid if self.switched else None,
            group=self.gid if self.switched else None,
            extra_groups=[] if self.switched else None,
        )

    def says(self, script: str, *arguments: str | Path) -> tuple[bool, str]:
        """Runs a short shell script as this user: whether it succeeded, and what it printed."""
        command = ["/bin/sh", "-c", script, "sh", *map(str, arguments)]
        with self.spawn(command, "/", subprocess.DEVNULL, subprocess.PIPE) as process:
            printed, _ = process.communicate()
        return process.returncode == 0, os.fsdecode(printed)

    def first_unreachable(self, folder: Path) -> Path | None:
        """The first folder on the way, seen from the root, that this user cannot enter; found by trying."""
        script = 'for f in "$@"; do [ -x "$f" ] || { printf %s "$f"; exit 1; }; done'
        reached, first = self.says(script, *reversed(folder.parents), folder)
        return None if reached else Path(first)

    def can_run(self, binaries: Path) -> bool:
        """Whether this user can run PostgreSQL from that bin folder and read what it needs."""
        script = """
            cd "$1" && ./postgres -V && ./initdb -V && [ -r ../share/postgres.bki ] &&
            { [ -r ../lib/plpgsql.so ] || [ -r ../lib/plpgsql.dylib ]; }
        """
        return self.says(f"({script}) >/dev/null 2>&1", binaries)[0]


class Child:
    """A process that is sent SIGINT, PostgreSQL's fast stop, as soon as this one dies, however it dies.

    If that has not ended it after `PATIENCE_S`, it is sent SIGQUIT, the immediate stop.
    """

    def __init__(
        self,
        command: Sequence[str],
        account: Account,
        folder: Path,
        output: IO[bytes],
        stdin: bytes = b"",
    ) -> None:
        """Starts the command in `folder`; `output` gets what it prints, and it reads `stdin` (≤ 4 kB)."""
        gated = ["/bin/sh", "-c", _GATE, "sh", *command]
        self._lifeline: int | None = None
        self._dismissal = threading.Lock()
        self._process, gate = _spawn_on_pipe(gated, account, folder, output)
        try:
            watcher = ["/bin/sh", "-c", _WATCH, "sh", str(self.pid), str(PATIENCE_S)]
            self._watcher, self._lifeline = _spawn_on_pipe(watcher, account, Path("/"), subprocess.DEVNULL)
            with contextlib.suppress(BrokenPipeError):  # then it has ended, and its exit status tells
                os.write(gate, b"\n" + stdin)
        except BaseException:
            self.send(signal.SIGKILL)
            self.wait()
            raise
        finally:
            release(gate)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Waits for the end: the exit status (a signal's number below zero), or None if still running."""
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        self._dismiss_watcher()
        return status

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, unless the process has ended."""
        self._process.send_signal(number)

    def end(self, patience_s: float) -> None:
        """Ends the server: fast, after `patience_s` at once, after as long again by kill -9."""
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            self.send(number)
            if self.wait(patience_s) is not None:
                return

    def _dismiss_watcher(self) -> None:
        """Only after the end was seen; until that moment the kernel gives the pid to nobody else."""
        with self._dismissal:
            if self._lifeline is not None:
                self._watcher.kill()
                self._watcher.wait()
                release(self._lifeline)
                self._lifeline = None


def _spawn_on_pipe(
    command: Sequence[str], account: Account, folder: Path, output: IO[bytes] | int
) -> tuple[subprocess.Popen[bytes], int]:
    """The process, and the writing end of the pipe that it reads."""
    reading, writing = os.pipe()
    keep_from_forks(writing)
    try:
        return account.spawn(command, folder, reading, output), writing
    except BaseException:
        release(writing)
        raise
    finally:
        os.close(reading)


def processes_in(folders: Iterable[Path], title: str) -> list[psutil.Process]:
    """PostgreSQL processes that work in one of the folders, or whose title says so where that is hidden."""
    homes = [folder.stat() for folder in folders if folder.is_dir()]
    return [
        process
        for process in psutil.process_iter()
        if process.pid != os.getpid() and _works_in(process, homes, title)
    ]


def _works_in(process: psutil.Process, homes: Sequence[os.stat_result], title: str) -> bool:
    try:
        if process.name() not in _NAMES or process.status() == psutil.STATUS_ZOMBIE:
            return False
        try:
            there = Path(f"/proc/{process.pid}/cwd") if sys.platform == "linux" else Path(process.cwd())
            found = there.stat()
        except (PermissionError, psutil.AccessDenied):
            # Root in a container may not look into another user's processes, but sees their titles.
            return title in " ".join(process.cmdline())
        return any(os.path.samestat(found, home) for home in homes)
    except (psutil.Error, OSError):
        return False  # it ended while we looked, or it is none of ours


def end_all(find: Callable[[], list[psutil.Process]]) -> list[psutil.Process]:
    """Ends the processes that `find` finds: a running server by a fast stop, then by an immediate one, then
    all that is left by kill -9. Returns those that not even that ended; each step has `PATIENCE_S`."""
    for number in (signal.SIGINT, signal.SIGQUIT):
        servers = [process for process in find() if _can_stop(process)]
        for server in servers:
            _send(server, number)
        wait_for_end(servers)
    end_by = time.monotonic() + PATIENCE_S
    while (found := find()) and time.monotonic() < end_by:
        for process in sorted(found, key=_is_backend):  # a server first: it would start new backends
            _send(process, signal.SIGKILL)
        wait_for_end(found)
    return found


def _is_backend(process: psutil.Process) -> bool:
    """Whether the title is that of a server's child ("postgres: checkpointer")."""
    try:
        return "".join(process.cmdline()[:1]).startswith("postgres: ")
    except psutil.Error:
        return True


def _can_stop(process: psutil.Process) -> bool:
    try:
        return not _is_backend(process) and process.status() != psutil.STATUS_STOPPED
    except psutil.Error:
        return False


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.Error:
        return  # it ended on its own


def wait_for_end(processes: Sequence[psutil.Process]) -> None:
    """Waits until all have ended, for `PATIENCE_S` at most."""
    end_by = time.monotonic() + PATIENCE_S
    while any(map(_lives, processes)) and time.monotonic() < end_by:
        time.sleep(_POLL_S)


def server_command(binaries: Path, cluster: Path, socket: Path, logs: Path, title: str) -> list[str]:
    """The command that runs the server over a cluster; every process of it carries the title (≤ 63 bytes)."""
    settings = {
        "unix_socket_directories": str(socket),
        "log_directory": str(logs),
        "cluster_name": title,
        "shared_buffers": f"{_shared_buffers_mib(_memory_bytes())}MB",
        **_SETTINGS,
    }
    command = [str(binaries / "postgres"), "-D", str(cluster)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    return command


def copy_package(package: Path, target: Path) -> None:
    """Copies what PostgreSQL runs from, readable by all; libraries beside the package keep their place."""
    skip = shutil.ignore_patterns("include", "pgxs", "*.a", "*.py", "__pycache__")
    for source in (package, package.with_name(package.name + ".libs")):
        if source.is_dir():
            shutil.copytree(source, target / source.name, ignore=skip, copy_function=shutil.copyfile)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755)
    os.sync()  # a copy that a power cut left half on disk would look whole


def accepts_connections(cluster: Path, pid: int | None) -> bool:
    """Whether the server (with this pid, if one is given) is ready, as its own file says."""
    try:
        lines = (cluster / "postmaster.pid").read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return False
    return len(lines) >= 8 and lines[7].strip() == "ready" and (pid is None or lines[0].strip() == str(pid))


def _memory_bytes() -> int:
    """This machine's memory, or the container's limit where that is less."""
    total: int = psutil.virtual_memory().total
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def _shared_buffers_mib(memory_bytes: int) -> int:
    """A quarter of the memory, between 128 MiB and 1 GiB."""
    return max(128, min(1024, memory_bytes // 4 // (1 << 20)))
