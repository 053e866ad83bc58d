"""Image bytes, kept under their hash in a local folder."""

from pathlib import Path

import obstore
from obstore.exceptions import NotFoundError
from obstore.store import LocalStore


class Objects:
    """Content-addressed bytes; writing the same twice is one write."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._store = LocalStore(folder)

    async def put(self, digest: bytes, content: bytes) -> None:
        """Keeps `content` under its SHA-256 `digest`; it is there whole or not at all."""
        await obstore.put_async(self._store, _path(digest), content)

    async def get(self, digest: bytes) -> bytes | None:
        """The bytes of that SHA-256, or None."""
        try:
            found = await obstore.get_async(self._store, _path(digest))
        except (NotFoundError, FileNotFoundError):
            return None
        return bytes(await found.bytes_async())


def _path(digest: bytes) -> str:
    name = digest.hex()
    return f"{name[:2]}/{name[2:4]}/{name}"
