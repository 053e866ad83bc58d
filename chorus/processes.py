"""Child processes that are started, waited for, restarted when they die, and never left behind."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
GIVE_UP_AFTER = 8
RESTART_S = (0.2, 0.5, 1.0, 2.0, 5.0)

log = structlog.get_logger("processes")


class StartError(Exception):
    """A child did not come up; the message has the end of its log."""


class Child:
    """One process. Its standard input stays open for as long as we live, so that it can end with us.

    With `says_ready` its first line of output is JSON that says that it serves; else its output goes
    to the log file with its errors.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log_file: Path,
        *,
        says_ready: bool = True,
    ) -> None:
        self.name = name
        self.log_file = log_file
        self._command = list(command)
        self._environment = {**os.environ, **environment}
        self._says_ready = says_ready
        self._process: subprocess.Popen[bytes] | None = None
        self.ready: dict[str, object] = {}

    @property
    def pid(self) -> int:
        """The process's id; 0 before it was started."""
        return 0 if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Starts the process, and waits until it serves where it says so."""
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as log_to:
            self._close()
            self._process = subprocess.Popen(  # noqa: S603 (our own command line)
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if self._says_ready else log_to,
                stderr=log_to,
                env=self._environment,
                start_new_session=True,
            )
        if self._process.stdout is None:
            return
        try:
            line = await asyncio.wait_for(
                asyncio.to_thread(self._process.stdout.readline), timeout=READY_TIMEOUT_S
            )
            self.ready = json.loads(line)
        except (TimeoutError, ValueError) as error:
            self.kill()
            raise StartError(f"{self.name} did not start. Its log ends with:\n{self._log_end()}") from error

    def converse(self, said: bytes) -> dict[str, Any]:
        """Says a line to the process and waits for its next line of JSON (in a thread)."""
        if self._process is None or self._process.stdin is None or self._process.stdout is None:
            raise StartError(f"{self.name} has nobody to talk to")
        self._process.stdin.write(said)
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise StartError(f"{self.name} ended early. Its log ends with:\n{self._log_end()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def ended(self) -> int:
        """Waits for the process's end and gives its exit status."""
        if self._process is None:
            raise StartError(f"{self.name} was never started")
        return await asyncio.to_thread(self._process.wait)

    async def stop(self) -> None:
        """Asks the process to end, waits, and kills it where it does not."""
        if self._process is None:
            return
        if self.running:
            self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self._process.wait, STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._close()

    def kill(self) -> None:
        """Ends the process by SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._close()

    def _close(self) -> None:
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()

    def _log_end(self) -> str:
        return "\n".join(self.log_file.read_text("utf-8", "replace").splitlines()[-15:])


async def keep_running(child: Child) -> None:
    """Starts a child again whenever it ends, at a growing pace; runs until cancelled.

    Raises StartError where it did not come up GIVE_UP_AFTER times in a row.
    """
    deaths, refusals = 0, 0
    while True:
        began = asyncio.get_running_loop().time()
        status = await child.ended()
        if asyncio.get_running_loop().time() - began > 60:
            deaths = 0
        pause = RESTART_S[min(deaths, len(RESTART_S) - 1)]
        deaths += 1
        log.warning("process_ended", process=child.name, status=status, restart_in_s=pause)
        await asyncio.sleep(pause)
        try:
            await child.start()
        except StartError as error:
            refusals += 1
            log.error("process_does_not_start", process=child.name, error=str(error))
            if refusals == GIVE_UP_AFTER:
                raise
        else:
            refusals = 0


def python(*arguments: str) -> list[str]:
    """The command line of this same Python with these arguments."""
    return [sys.executable, *arguments]
