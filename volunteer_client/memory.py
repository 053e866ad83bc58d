"""What a home remembers from one session to the next, so that a copy of it is told from the original."""

import json
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from volunteer_client import durable


@dataclass(frozen=True, slots=True)
class _Remembered:
    """The last session that was asked for, by number and random mark, and whether it was opened."""

    sequence: int = 0
    mark: str = ""
    is_open: bool = True


class Memory:
    """One small file. Methods raise OSError when the disk will not give or take it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._now = _read(file)

    def next_session(self) -> tuple[int, bytes]:
        """Number and mark of the session to ask for, on disk first; the same until it is open."""
        if self._now.is_open:
            self._keep(_Remembered(self._now.sequence + 1, secrets.token_hex(16), is_open=False))
        return self._now.sequence, bytes.fromhex(self._now.mark)

    def opened(self) -> None:
        """The session that was asked for is open: the next one has another number."""
        self._keep(replace(self._now, is_open=True))

    def _keep(self, now: _Remembered) -> None:
        durable.write(self._file, json.dumps(asdict(now)).encode() + b"\n")
        self._now = now


def _read(file: Path) -> _Remembered:
    """What the file says; a missing or damaged one remembers nothing."""
    try:
        written = json.loads(file.read_bytes())
        bytes.fromhex(written["mark"])
        return _Remembered(int(written["sequence"]), written["mark"], bool(written["is_open"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return _Remembered()
