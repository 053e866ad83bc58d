"""What a home remembers from one session to the next: which it was, and what the volunteer was shown."""

import json
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from volunteer_client import durable


@dataclass(frozen=True, slots=True)
class _Remembered:
    """The last session that was asked for, by number and mark, and whether it opened; the last message."""

    sequence: int = 0
    mark: str = ""
    is_open: bool = True
    message: int = 0


class Memory:
    """One small file. Methods raise OSError when the disk will not give or take it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._now = _read(file)

    def next_session(self) -> tuple[int, bytes]:
        """Number and mark of the session to ask for, on disk first; the same until it is open."""
        if self._now.is_open:
            following, mark = self._now.sequence + 1, secrets.token_hex(16)
            self._keep(replace(self._now, sequence=following, mark=mark, is_open=False))
        return self._now.sequence, bytes.fromhex(self._now.mark)

    def opened(self) -> None:
        """The session that was asked for is open: the next one has another number."""
        self._keep(replace(self._now, is_open=True))

    @property
    def message(self) -> int:
        """The last message that was shown; 0 before any."""
        return self._now.message

    def showed(self, message: int) -> None:
        """A message was shown: it is not wanted again, whatever the disk says."""
        now = self._now = replace(self._now, message=max(message, self._now.message))
        self._keep(now)

    def _keep(self, now: _Remembered) -> None:
        durable.write(self._file, json.dumps(asdict(now)).encode() + b"\n")
        self._now = now


def _read(file: Path) -> _Remembered:
    """What the file says; a missing or damaged one remembers nothing."""
    try:
        written = json.loads(file.read_bytes())
        bytes.fromhex(written["mark"])
        return _Remembered(
            int(written["sequence"]), written["mark"], bool(written["is_open"]), int(written["message"])
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return _Remembered()
