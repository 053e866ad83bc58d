"""What a power cut must not take: leased units and finished answers, a file each."""

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import DecodeError

from protos import work_pb2
from volunteer_client import durable
from volunteer_client.lease import Lease, Ref, UnfitError, verify_lease

_MAGIC = b"chorus-spool-1\n"
SPARE_IMAGES = 256
_LEASE_LIMIT_S = 30 * 24 * 3600


@dataclass(slots=True)
class Contents:
    """What a spool held at start: leases with the seconds left, results, and files that were damaged."""

    leases: list[tuple[Lease, float]] = field(default_factory=list)
    results: list[work_pb2.Result] = field(default_factory=list)
    damaged: list[Path] = field(default_factory=list)


class Spool:
    """Folders of files under `folder`; every file carries its own checksum.

    Methods raise OSError when the disk will not take or give a file.
    """

    def __init__(
        self, folder: Path, *, wall_clock: Callable[[], float] = time.time, spare_images: int = SPARE_IMAGES
    ) -> None:
        self._leased = folder / "leased"
        self._finished = folder / "finished"
        self._images = folder / "images"
        self._damaged = folder / "damaged"
        self._wall_clock = wall_clock
        self._spare_images = spare_images
        for part in (self._leased, self._finished, self._images, self._damaged):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)

    def hold(self, leases: Sequence[Lease], lease_s: float) -> None:
        """Keeps leased units, durably, with the time at which their lease ends."""
        ends = int(self._wall_clock() + lease_s)
        for lease in leases:
            body = ends.to_bytes(8, "big") + _as_batch(lease).SerializeToString()
            durable.place(self._leased / _name(lease.ref), _sealed(body))
        durable.sync_folder(self._leased)

    def finish(self, result: work_pb2.Result) -> None:
        """Keeps a result, durably, and then forgets the lease that it answers."""
        name = _name(Ref(result.campaign_id, result.unit_id))
        durable.write(self._finished / name, _sealed(result.SerializeToString(deterministic=True)))
        durable.remove([self._leased / name])

    def drop(self, refs: Iterable[Ref]) -> None:
        """Forgets leased units that are no longer this host's."""
        durable.remove(self._leased / _name(ref) for ref in refs)

    def acknowledged(self, refs: Iterable[Ref]) -> None:
        """Forgets results that the coordinator has made durable or finally refused."""
        durable.remove(self._finished / _name(ref) for ref in refs)

    def set_aside(self, ref: Ref) -> Path:
        """Moves a result that the coordinator cannot read to the damaged files."""
        return self._to_damaged(self._finished / _name(ref))

    def keep_image(self, image_hash: bytes, data: bytes) -> None:
        """Keeps an image across a restart. Its name is its hash, so it need not be durable."""
        path = self._images / image_hash.hex()
        temporary = path.with_suffix(".new")
        temporary.write_bytes(data)
        temporary.replace(path)

    def image(self, image_hash: bytes) -> bytes | None:
        """An image kept earlier; None where it is not there or not whole."""
        try:
            data = (self._images / image_hash.hex()).read_bytes()
        except OSError:
            return None
        return data if hashlib.sha256(data).digest() == image_hash else None

    def prune_images(self, wanted: set[bytes]) -> None:
        """Keeps the images of held units, and of others the latest: the next work is often about them."""
        names = {image_hash.hex() for image_hash in wanted}
        spare = [path for path in _files(self._images) if path.name not in names]
        durable.remove(spare[: max(0, len(spare) - self._spare_images)])

    def load(self, coordinator_key: bytes) -> Contents:
        """Reads everything back; a damaged file is moved aside and named, never an error."""
        contents = Contents()
        for path in _files(self._finished):
            try:
                contents.results.append(_read_result(path))
            except _DamagedError:
                contents.damaged.append(self._to_damaged(path))
        finished = {_name(Ref(r.campaign_id, r.unit_id)) for r in contents.results}
        for path in _files(self._leased):
            if path.name in finished:
                path.unlink()
                continue
            try:
                lease, ends = _read_lease(path, coordinator_key)
            except _DamagedError:
                contents.damaged.append(self._to_damaged(path))
                continue
            left = min(max(ends - self._wall_clock(), 0.0), _LEASE_LIMIT_S)
            contents.leases.append((lease, left))
        return contents

    def _to_damaged(self, path: Path) -> Path:
        target = self._damaged / f"{path.parent.name}-{path.name}-{time.time_ns()}"
        path.rename(target)
        durable.sync_folder(self._damaged)
        return target


class _DamagedError(Exception):
    pass


def _name(ref: Ref) -> str:
    return f"{ref.campaign_id}-{ref.unit_id}"


def _files(folder: Path) -> list[Path]:
    """The folder's whole files, oldest first; what a broken write left behind is removed."""
    durable.remove(folder.glob(".*.new"))
    files = [path for path in folder.iterdir() if path.is_file()]
    return sorted(files, key=lambda path: (path.stat().st_mtime_ns, path.name))


def _sealed(payload: bytes) -> bytes:
    return _MAGIC + hashlib.sha256(payload).digest() + payload


def _unsealed(path: Path) -> bytes:
    head = len(_MAGIC) + 32
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _DamagedError from error
    payload = data[head:]
    if not data.startswith(_MAGIC) or hashlib.sha256(payload).digest() != data[len(_MAGIC) : head]:
        raise _DamagedError
    return payload


def _as_batch(lease: Lease) -> work_pb2.LeaseBatch:
    task = work_pb2.Task(digest=lease.unit.task_digest, body=lease.task_body)
    return work_pb2.LeaseBatch(tasks=[task], units=[lease.unit])


def _read_result(path: Path) -> work_pb2.Result:
    try:
        result = work_pb2.Result.FromString(_unsealed(path))
    except DecodeError as error:
        raise _DamagedError from error
    if _name(Ref(result.campaign_id, result.unit_id)) != path.name or not result.WhichOneof("outcome"):
        raise _DamagedError
    return result


def _read_lease(path: Path, coordinator_key: bytes) -> tuple[Lease, int]:
    payload = _unsealed(path)
    try:
        batch = work_pb2.LeaseBatch.FromString(payload[8:])
        lease = verify_lease(batch.units[0], batch.tasks[0].body, coordinator_key)
    except (DecodeError, IndexError, UnfitError) as error:
        raise _DamagedError from error
    if _name(lease.ref) != path.name:
        raise _DamagedError
    return lease, int.from_bytes(payload[:8], "big")
