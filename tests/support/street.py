"""The whole street for tests: a coordinator, model servers and volunteers, each a real process to kill."""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg

from chorus.demo.scenes import make_scenes, render
from store.embedded import running_url
from support.waiting import wait_until

PYTHON = (sys.executable, "-m")
CHORUS = (*PYTHON, "chorus")
SCENE_PERSPECTIVES = Path(__file__).parents[2] / "chorus" / "demo" / "perspectives"
START_S = 60.0


def chorus(
    *arguments: str | Path, timeout_s: float = 60.0, before: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Runs a command of `chorus` to its end; `before` is what it runs under, such as runuser."""
    command = [*before, *CHORUS, *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        stdin=subprocess.DEVNULL,
        env=environment(),
    )


def environment() -> dict[str, str]:
    """Ours without CHORUS_… settings, wide enough that no message is wrapped."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("CHORUS_")}
    return {**ours, "COLUMNS": "400", "PYTHONUNBUFFERED": "1"}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def draw_scenes(folder: Path, count: int, seed: int = 7) -> Path:
    """A folder of so many rendered scenes."""
    folder.mkdir(parents=True)
    for scene in make_scenes(count, seed):
        (folder / f"{scene.name}.png").write_bytes(render(scene))
    return folder


def write_campaign(folder: Path, name: str = "scenes", policy: str = "lease_s = 8") -> Path:
    """A campaign's file with the demo's caption perspective."""
    file = folder / f"{name}.toml"
    perspective = SCENE_PERSPECTIVES / "scene_caption.json"
    (folder / "scene_caption.json").write_bytes(perspective.read_bytes())
    file.write_text(f'name = "{name}"\nperspectives = ["./scene_caption.json"]\n\n[policy]\n{policy}\n')
    return file


class Process:
    """A child with its output in a file; killed, with all that it started, where a test forgets it."""

    def __init__(
        self, command: Sequence[str], output: Path, variables: Mapping[str, str] | None = None
    ) -> None:
        self.output = output
        with output.open("ab") as file:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**environment(), **(variables or {})},
            )
        self.children: set[psutil.Process] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll()

    @property
    def said(self) -> str:
        return self.output.read_text("utf-8", "replace")

    def family(self) -> set[psutil.Process]:
        """Itself and every process below it that was ever seen here, the living ones."""
        with contextlib.suppress(psutil.NoSuchProcess):
            me = psutil.Process(self.pid)
            self.children |= {me, *me.children(recursive=True)}
        return {process for process in self.children if is_alive(process)}

    def await_words(self, words: str, timeout_s: float = START_S) -> None:
        """Waits until its output contains the words; fails with the output where it ends before."""

        wait_until(lambda: words in self.said or self.status is not None, timeout_s)
        assert words in self.said, f"ended with {self.status}:\n{self.said}"

    def interrupt(self) -> None:
        """One Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def ended(self, timeout_s: float = 30.0) -> int:
        """Waits for the end and gives the exit status."""
        return self._process.wait(timeout_s)

    def kill(self) -> None:
        """kill -9 of this process alone."""
        self.family()
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """Whatever is left of it and its family ends, for a fixture's tidy end."""
        family = self.family()
        if self.status is None:
            self.interrupt()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; one that is dead but not yet waited for does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command_line(process: psutil.Process) -> list[str]:
    """Its command and arguments; nothing where it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return process.cmdline()
    return []


def kill_one(found: Iterable[psutil.Process], rng: random.Random) -> None:
    """kill -9 of one of them; of none where they are dead from an earlier kill and not up again yet."""
    living = sorted(found, key=lambda process: process.pid)
    if living:
        with contextlib.suppress(psutil.NoSuchProcess):
            os.kill(rng.choice(living).pid, signal.SIGKILL)


class Street:
    """`chorus up` on a data folder with ports of its own, and those who work for it."""

    def __init__(self, folder: Path, *options: str, database_url: str | None = None) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._where = ("--data", str(self.data))
        if database_url is not None:
            self._where += ("--database-url", database_url)
        self._database_url = database_url
        self.port, self.images_port, self.metrics_port = free_port(), free_port(), free_port()
        self._options = options
        self._helpers: list[Process] = []
        self.process = self._up()

    def _up(self) -> Process:
        ports = ("--port", str(self.port), "--images-port", str(self.images_port))
        ports += ("--metrics-port", str(self.metrics_port))
        output = self.folder / "up.log"
        output.write_text("")
        process = Process([*CHORUS, "up", *self._where, *ports, *self._options], output)
        process.await_words("Ctrl-C stops.")
        process.family()
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for helper in self._helpers:
            helper.kill()
        self.process.end()

    def restart(self) -> None:
        """`up` again after it was killed or stopped."""
        self.process.ended()
        self.process = self._up()

    def servers(self, role: str) -> list[psutil.Process]:
        """The living server processes of that role: work, images or upkeep."""
        family = self.process.family()
        return [process for process in family if command_line(process)[-2:] == ["chorus.serve", role]]

    def postgres(self, *, backends: bool) -> list[psutil.Process]:
        """The postmaster, or the living backends that serve our servers."""
        pattern = r"postgres: chorus-\w+: chorus chorus " if backends else r"\S*/postgres -D "
        family = self.process.family()
        return [process for process in family if re.match(pattern, " ".join(command_line(process)))]

    def admin(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """`chorus admin …` on this coordinator."""
        return chorus("admin", *arguments, *self._where)

    def status(self) -> dict[str, Any]:
        """The only campaign's figures."""
        done = self.admin("status", "--json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout)["campaigns"][0])

    @property
    def database_url(self) -> str:
        """Of the database that runs now."""
        url = self._database_url or running_url(self.data / "database", timeout_s=60)
        assert url is not None, "no database runs"
        return url

    def rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Rows, straight from the database."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            return connection.execute(sql.encode(), parameters).fetchall()

    def campaign(self, scenes: int, policy: str = "lease_s = 8") -> None:
        """A campaign of rendered scenes, imported."""
        created = self.admin("campaign", "create", write_campaign(self.folder, policy=policy))
        assert created.returncode == 0, created.stderr
        imported = self.admin("import", "scenes", draw_scenes(self.folder / "scenes", scenes))
        assert imported.returncode == 0, imported.stderr

    def invite(self, *options: str) -> str:
        """An invite's line, for a new user unless said otherwise."""
        made = self.admin("invite", "--port", str(self.port), *options)
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    def join(self, name: str, invite: str) -> Path:
        """A volunteer's home that has joined."""
        home = self.folder / name
        joined = chorus("volunteer", "join", invite, "--home", home, "--name", name, "--user", name)
        assert joined.returncode == 0, joined.stderr
        return home

    def reader(self, name: str, number: int = 1) -> str:
        """The base URL of a model server that looks at scenes honestly; its model has the same name."""
        command = [*PYTHON, "chorus.demo.reader", "--model", name, "--seed", str(number), "--noise", "0.02"]
        reader = Process([*command, "--parent-pid", str(os.getpid())], self.folder / f"reader-{name}.log")
        self._helpers.append(reader)
        reader.await_words("}\n")
        return f"http://127.0.0.1:{json.loads(reader.said.splitlines()[0])['port']}/v1"

    def volunteer(self, home: Path, endpoint: str, model: str, *options: str) -> Process:
        """A volunteer's client at work; started again with the same home it writes on in the same log."""
        where = ("--home", str(home), "--endpoint", endpoint, "--model", model)
        command = [*CHORUS, "volunteer", "run", *where, "--json-log", *options]
        volunteer = Process(command, home.with_suffix(".log"))
        self._helpers.append(volunteer)
        return volunteer


def events(log: Path, name: str) -> Iterator[dict[str, Any]]:
    """The events of that name in a volunteer's log; a line that kill -9 cut short is passed over."""
    for line in log.read_text("utf-8", "replace").splitlines():
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if event.get("event") == name:
                yield event


def acknowledged(log: Path) -> set[tuple[int, int]]:
    """(campaign id, unit id) of each result that this volunteer was told is safe."""
    named = [ref for event in events(log, "acknowledged") for ref in event["units"].split()]
    return {(int(campaign), int(unit)) for campaign, unit in (re.split("/", ref) for ref in named)}
