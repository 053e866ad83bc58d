"""The files in which server processes keep their figures, so that one page can add them up.

Each process has a memory-mapped file of its own. One that dies, however it dies, leaves its file to its
successor, so that counters never fall.
"""

import fcntl
import os
from pathlib import Path

import prometheus_client.values
from prometheus_client.values import MultiProcessValue

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own name


def share(folder: Path, role: str) -> str:
    """Keeps this process's figures in `folder` from now on, and gives the name that they have there.

    The name is the first of role-1, role-2, … that no living process has. Metrics that were made before
    stay this process's own, so it comes before they are imported.
    """
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while not _claimed(folder / f"{role}-{number}.lock"):
        number += 1
    name = f"{role}-{number}"
    os.environ[FOLDER] = str(folder)
    prometheus_client.values.ValueClass = MultiProcessValue(lambda: name)  # type: ignore[no-untyped-call]  # it ships no types there
    return name


def forget(folder: Path) -> None:
    """Starts all figures from nothing; for when no server process runs."""
    for file in folder.glob("*.db"):
        file.unlink()


def _claimed(path: Path) -> bool:
    """Whether this process has the lock now; it keeps it until it ends, by kill -9 too."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return False
    return True
