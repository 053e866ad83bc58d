"""Import: from what an operator points at to stored images and units on their shelves."""

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from coordinator.campaigns import Campaign
from coordinator.derivative import NEAR_DUPLICATE_DISTANCE, Derivative, ImageRefused, make_derivative
from coordinator.fetching import Fetcher, FetchRefused
from coordinator.keys import Keys
from coordinator.objects import Objects
from coordinator.sources import SkippedFiles, Source, SourceFault, read_sources
from coordinator.submission import Subject, submit
from store import batches, contents
from store.contents import NewContent, StoredContent
from store.database import Database, Transaction

BATCH = 64
READERS = 8
SET_BY = "import"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A source that was skipped: `name` as the operator knows it, a stable code, and words."""

    name: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class NewBatch:
    """Where new units go: into the batch of that name, or one that is made, named by the day if unnamed."""

    name: str | None = None
    priority: int = 0


@dataclass(slots=True)
class ImportReport:
    """What an import did so far.

    `known` counts images that were in the database already; `batch` is named once a unit was born.
    """

    images: int = 0
    known: int = 0
    near_duplicates: int = 0
    units: int = 0
    batch: str | None = None
    skipped_files: int = 0
    refused: list[Refusal] = field(default_factory=list)

    @property
    def seen(self) -> int:
        """Sources looked at."""
        return self.images + self.known + len(self.refused)


@dataclass(frozen=True, slots=True)
class _Read:
    """A source after reading: what it holds that is new, or the image that it gave before."""

    source: Source
    content: Derivative | StoredContent


class Importer:
    """Imports into one campaign."""

    def __init__(
        self,
        db: Database,
        campaign: Campaign,
        objects: Objects,
        keys: Keys,
        fetcher: Fetcher,
        rng: random.Random,
        clock: Callable[[], datetime],
        batch: NewBatch | None = None,
    ) -> None:
        self._db = db
        self._campaign = campaign
        self._batch = batch or NewBatch()
        self._objects = objects
        self._keys = keys
        self._fetcher = fetcher
        self._rng = rng
        self._clock = clock
        self._decoders = asyncio.Semaphore(os.cpu_count() or 1)

    async def run(self, path: Path, told: Callable[[ImportReport], None]) -> ImportReport:
        """Imports a folder, image or list, committed step by step; running again adds nothing twice.

        `told` hears of the progress after each step.
        """
        report = ImportReport()
        set_name = str(path.resolve())
        set_id = await self._db.transaction(
            "content set",
            lambda tx: contents.ensure_set(tx, self._campaign.id, set_name, self._clock()),
        )
        async for batch in _batches(self._read_all(read_sources(path), report)):
            await self._store(batch, set_id, report)
            told(report)
        told(report)
        return report

    async def _read_all(
        self, items: Iterator[Source | SourceFault | SkippedFiles], report: ImportReport
    ) -> AsyncIterator[_Read]:
        """Reads up to READERS sources at once, and gives them in their order."""
        pending: list[asyncio.Task[_Read | Refusal]] = []
        try:
            for item in items:
                match item:
                    case SkippedFiles(count):
                        report.skipped_files += count
                    case SourceFault(name, code, detail):
                        report.refused.append(Refusal(name, code, detail))
                    case Source():
                        pending.append(asyncio.create_task(self._read(item)))
                if len(pending) >= READERS:
                    async for read in _finished(pending[:1], report):
                        yield read
                    del pending[0]
            async for read in _finished(pending, report):
                yield read
        finally:
            for task in pending:
                task.cancel()

    async def _read(self, source: Source) -> _Read | Refusal:
        if not source.value.startswith("file:"):
            known = await self._db.transaction("source", lambda tx: contents.by_source(tx, source.value))
            if known is not None:
                return self._known(source, known)
        if not self._campaign.policy.takes_license(source.license) and source.license is not None:
            return self._not_taken(source, source.license)
        try:
            original = await self._fetcher.fetch(source.value)
            digest = hashlib.sha256(original).digest()
            known = await self._db.transaction("image", lambda tx: contents.by_hash(tx, digest))
            if known is not None:
                return self._known(source, known)
            if not self._campaign.policy.takes_license(source.license):
                return self._not_taken(source, source.license)
            async with self._decoders:
                derivative = await asyncio.to_thread(make_derivative, original)
        except (FetchRefused, ImageRefused) as refused:
            return Refusal(source.name, refused.code, refused.detail)
        await self._objects.put(derivative.jpeg_hash, derivative.jpeg)
        return _Read(source, derivative)

    def _known(self, source: Source, known: StoredContent) -> _Read | Refusal:
        """An image that is in the database has one licence, whoever brings it again."""
        if known.license is not None and source.license not in {None, known.license}:
            detail = f"the image is known here under {known.license}, not {source.license}"
            return Refusal(source.name, "license_conflict", detail)
        license_ = known.license or source.license
        if not self._campaign.policy.takes_license(license_):
            return self._not_taken(source, license_)
        return _Read(source, known)

    def _not_taken(self, source: Source, license_: str | None) -> Refusal:
        detail = f"{license_ or 'no licence'}; the campaign does not take it"
        return Refusal(source.name, "license_not_taken", detail)

    async def _store(self, reads: Sequence[_Read], set_id: int, report: ImportReport) -> None:
        now = self._clock()

        async def body(tx: Transaction) -> tuple[list[StoredContent], int, str | None]:
            stored = [await self._store_one(tx, read, now) for read in reads]
            await contents.add_to_set(tx, set_id, sorted({content.id for content in stored}))
            subjects = {c.id: Subject(c.id, c.derivative_hash) for c in stored}
            name = report.batch or self._batch.name
            batch = await batches.hold(tx, self._campaign.id, name) if name else None
            priority = self._batch.priority if batch is None else batch.priority
            campaign, key = self._campaign, self._keys.signing
            done = await submit(tx, campaign, list(subjects.values()), key, self._rng, now, priority)
            if done.born:
                batch = batch or await batches.make(tx, campaign.id, name, priority, now)
                await batches.add_ranges(tx, batch, runs(done.ids))
            return stored, done.born, None if batch is None else batch.name

        stored, born, report.batch = await self._db.transaction("import", body)
        new = [content for content in stored if content.new]
        report.images += len(new)
        report.known += len(stored) - len(new)
        report.near_duplicates += sum(content.near_duplicate_of is not None for content in new)
        report.units += born

    async def _store_one(self, tx: Transaction, read: _Read, now: datetime) -> StoredContent:
        source = read.source
        if isinstance(read.content, StoredContent):
            known = read.content.id
            await contents.add_source(tx, known, source.value, now)
            await contents.complete(tx, known, source.license, source.attribution, source.meta)
            return read.content
        derivative = read.content
        twin = None
        if derivative.phash:  # every picture of one flat colour hashes to 0
            twin = await contents.near_duplicate(tx, derivative.phash, NEAR_DUPLICATE_DISTANCE)
        content = NewContent(
            hash=derivative.hash,
            derivative_hash=derivative.jpeg_hash,
            phash=derivative.phash,
            filename=source.name,
            url=source.value,
            width=derivative.original_width,
            height=derivative.original_height,
            format=derivative.format,
            size=derivative.size,
            license=source.license,
            attribution=source.attribution,
            meta=source.meta,
        )
        return await contents.add(tx, content, twin, SET_BY, now)


def runs(ids: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending ids as ranges, both ends included."""
    ranges: list[tuple[int, int]] = []
    for one in ids:
        if ranges and ranges[-1][1] == one - 1:
            ranges[-1] = (ranges[-1][0], one)
        else:
            ranges.append((one, one))
    return ranges


async def _finished(
    tasks: Iterable[asyncio.Task[_Read | Refusal]], report: ImportReport
) -> AsyncIterator[_Read]:
    for task in tasks:
        match await task:
            case Refusal() as refusal:
                report.refused.append(refusal)
            case read:
                yield read


async def _batches(items: AsyncIterator[_Read]) -> AsyncIterator[list[_Read]]:
    batch: list[_Read] = []
    async for item in items:
        batch.append(item)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
