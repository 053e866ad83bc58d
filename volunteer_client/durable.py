"""Files that are whole or not there, also after a power cut."""

import os
from collections.abc import Iterable
from pathlib import Path


def write(path: Path, data: bytes) -> None:
    """Writes a file (mode 0600) that survives a power cut once this returns. Raises OSError."""
    place(path, data)
    sync_folder(path.parent)


def place(path: Path, data: bytes) -> None:
    """As `write`, without the folder: for many files, followed by one `sync_folder`."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def remove(paths: Iterable[Path]) -> None:
    """Removes files; those already gone are fine. A power cut may bring them back."""
    for path in paths:
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes the folder's new and renamed entries durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
