"""Images, after OMI's names: contents, their sources, what happened to them, and the sets they are in."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BIT, JSONB, insert

from store.database import Transaction
from store.schema import metadata, one_of

STATUSES = ("pending", "available", "unavailable", "delisted")
BAND_BITS = 16
BAND_MASK = (1 << BAND_BITS) - 1
BANDS = 64 // BAND_BITS

contents = sa.Table(
    "contents",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("hash", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("derivative_hash", sa.LargeBinary, nullable=False, index=True),
    sa.Column("phash", sa.BigInteger, nullable=False),
    sa.Column("near_duplicate_of", sa.ForeignKey("contents.id")),
    sa.Column("filename", sa.Text, nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("width", sa.Integer, nullable=False),
    sa.Column("height", sa.Integer, nullable=False),
    sa.Column("format", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("status", sa.Text, nullable=False, server_default="available"),
    sa.Column("license", sa.Text),
    sa.Column("attribution", sa.Text),
    sa.Column("flags", sa.Integer, nullable=False, server_default="0"),
    sa.Column("meta", JSONB, nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    one_of("status", STATUSES),
    sa.CheckConstraint("octet_length(hash) = 32 AND octet_length(derivative_hash) = 32", name="hashes"),
    sa.CheckConstraint("width > 0 AND height > 0 AND size > 0", name="positive"),
)


def _band(number: int) -> sa.ColumnElement[int]:
    return sa.literal_column(f"((phash >> {number * BAND_BITS}) & {BAND_MASK})", sa.BigInteger)


for _number in range(BANDS):
    sa.Index(f"ix_contents_phash_band_{_number}", _band(_number), _table=contents)

content_sources = sa.Table(
    "content_sources",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("content_id", sa.ForeignKey("contents.id"), nullable=False, index=True),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("value", sa.Text, nullable=False, unique=True),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    one_of("type", ("file", "url")),
)

content_events = sa.Table(
    "content_events",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("content_id", sa.ForeignKey("contents.id"), nullable=False, index=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("set_by", sa.Text, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    one_of("status", STATUSES),
)

content_sets = sa.Table(
    "content_sets",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("campaign_id", sa.ForeignKey("campaigns.id"), nullable=False, index=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    sa.UniqueConstraint("campaign_id", "name"),
)

content_set_members = sa.Table(
    "content_set_members",
    metadata,
    sa.Column("set_id", sa.ForeignKey("content_sets.id"), primary_key=True),
    sa.Column("content_id", sa.ForeignKey("contents.id"), primary_key=True, index=True),
)


@dataclass(frozen=True, slots=True)
class NewContent:
    """An image as imported: hashes of 32 bytes, `phash` a signed 64-bit integer, pixels and bytes."""

    hash: bytes
    derivative_hash: bytes
    phash: int
    filename: str
    url: str
    width: int
    height: int
    format: str
    size: int
    license: str | None
    attribution: str | None
    meta: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredContent:
    """What an import needs to know of an image that is in the database now."""

    id: int
    derivative_hash: bytes
    near_duplicate_of: int | None
    license: str | None
    new: bool


async def by_source(tx: Transaction, value: str) -> StoredContent | None:
    """What this source gave at an earlier import."""
    joined = content_sources.join(contents)
    return await _stored(tx, joined, content_sources.c.value == value)


async def by_hash(tx: Transaction, digest: bytes) -> StoredContent | None:
    """The image whose original has this SHA-256."""
    return await _stored(tx, contents, contents.c.hash == digest)


async def _stored(
    tx: Transaction, source: sa.FromClause, where: sa.ColumnElement[bool]
) -> StoredContent | None:
    columns = (contents.c.id, contents.c.derivative_hash, contents.c.near_duplicate_of, contents.c.license)
    row = (await tx.sql.execute(sa.select(*columns).select_from(source).where(where))).one_or_none()
    return None if row is None else StoredContent(*row, new=False)


async def near_duplicate(tx: Transaction, phash: int, distance: int) -> int | None:
    """The oldest image whose perceptual hash differs in at most `distance` of 64 bits.

    Candidates share one of four 16-bit bands: up to 3 bits apart that is certain, up to 5 likely.
    """
    bands = [_band(number) == ((phash >> (number * BAND_BITS)) & BAND_MASK) for number in range(BANDS)]
    bits = sa.func.bit_count(sa.cast(contents.c.phash.op("#")(phash), BIT(64)))
    statement = sa.select(contents.c.id).where(sa.or_(*bands), bits <= distance)
    found = (await tx.sql.execute(statement.order_by(contents.c.id).limit(1))).one_or_none()
    return None if found is None else int(found.id)


async def add(
    tx: Transaction, content: NewContent, near_duplicate_of: int | None, set_by: str, now: datetime
) -> StoredContent:
    """Stores an image once per hash, with its source and a first event; a known one is given as it stands."""
    values = {name: getattr(content, name) for name in content.__slots__}
    statement = insert(contents).values(**values, near_duplicate_of=near_duplicate_of, created_at=now)
    added = await tx.sql.execute(statement.on_conflict_do_nothing().returning(contents.c.id))
    row = added.one_or_none()
    stored = await by_hash(tx, content.hash)
    if stored is None:
        raise LookupError("an image that was just stored is there")
    if row is not None:
        stored = replace(stored, new=True)
        event = {"content_id": stored.id, "status": "available", "set_by": set_by, "note": "imported"}
        await tx.sql.execute(insert(content_events).values(**event, created_at=now))
    await add_source(tx, stored.id, content.url, now)
    return stored


async def complete(
    tx: Transaction, content_id: int, license_: str | None, attribution: str | None, meta: dict[str, Any]
) -> None:
    """Fills in what was not known of an image; what is known stays, but for metadata, which is renewed."""
    statement = sa.update(contents).where(contents.c.id == content_id)
    known = {
        "license": sa.func.coalesce(contents.c.license, license_),
        "attribution": sa.func.coalesce(contents.c.attribution, attribution),
        "meta": contents.c.meta.op("||")(sa.cast(meta, JSONB)),
    }
    await tx.sql.execute(statement.values(**known))


async def add_source(tx: Transaction, content_id: int, value: str, now: datetime) -> None:
    """Remembers that an image came from here; a source that is known already stays as it is."""
    kind = "file" if value.startswith("file:") else "url"
    source = {"content_id": content_id, "type": kind, "value": value, "created_at": now}
    await tx.sql.execute(insert(content_sources).values(**source).on_conflict_do_nothing())


async def ensure_set(tx: Transaction, campaign_id: int, name: str, now: datetime) -> int:
    """The id of the campaign's set of that name, made if missing."""
    values = {"campaign_id": campaign_id, "name": name, "created_at": now}
    await tx.sql.execute(insert(content_sets).values(**values).on_conflict_do_nothing())
    where = (content_sets.c.campaign_id == campaign_id, content_sets.c.name == name)
    return int((await tx.sql.execute(sa.select(content_sets.c.id).where(*where))).scalar_one())


async def add_to_set(tx: Transaction, set_id: int, content_ids: Sequence[int]) -> None:
    """Puts images into a set; those in it already stay."""
    if content_ids:
        rows = [{"set_id": set_id, "content_id": content_id} for content_id in content_ids]
        await tx.sql.execute(insert(content_set_members).on_conflict_do_nothing(), rows)


async def count_images(tx: Transaction, campaign_id: int) -> int:
    """How many different images are in the campaign's sets."""
    joined = content_set_members.join(content_sets)
    counted = sa.func.count(sa.distinct(content_set_members.c.content_id))
    statement = sa.select(counted).select_from(joined).where(content_sets.c.campaign_id == campaign_id)
    return int((await tx.sql.execute(statement)).scalar_one())
