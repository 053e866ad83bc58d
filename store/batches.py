"""Batches: what operators imported together, as ranges of unit ids, and how urgent it is."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from store.database import Transaction
from store.schema import metadata

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("campaign_id", sa.ForeignKey("campaigns.id"), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("priority", sa.SmallInteger, nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    sa.UniqueConstraint("campaign_id", "name"),
    sa.CheckConstraint("priority BETWEEN -3 AND 3", name="priority"),
)

batch_ranges = sa.Table(
    "batch_ranges",
    metadata,
    sa.Column("campaign_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("first_unit", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("last_unit", sa.BigInteger, nullable=False),
    sa.Column("batch_id", sa.ForeignKey("batches.id"), nullable=False, index=True),
    sa.CheckConstraint("first_unit <= last_unit", name="ends"),
)


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as stored."""

    id: int
    campaign_id: int
    name: str
    priority: int
    created_at: datetime


async def find(tx: Transaction, campaign_id: int, name: str) -> Batch | None:
    """The campaign's batch of that name."""
    where = (batches.c.campaign_id == campaign_id, batches.c.name == name)
    row = (await tx.sql.execute(sa.select(batches).where(*where))).one_or_none()
    return None if row is None else Batch(*row)


async def hold(tx: Transaction, campaign_id: int, name: str) -> Batch | None:
    """The same, and its priority stays as it is until this transaction ends."""
    where = (batches.c.campaign_id == campaign_id, batches.c.name == name)
    statement = sa.select(batches).where(*where).with_for_update(read=True)
    row = (await tx.sql.execute(statement)).one_or_none()
    return None if row is None else Batch(*row)


async def create(tx: Transaction, campaign_id: int, name: str, priority: int, now: datetime) -> Batch | None:
    """Makes a batch; None where the campaign has one of that name."""
    values = {"campaign_id": campaign_id, "name": name, "priority": priority, "created_at": now}
    statement = insert(batches).values(**values).on_conflict_do_nothing().returning(batches)
    row = (await tx.sql.execute(statement)).one_or_none()
    return None if row is None else Batch(*row)


async def make(tx: Transaction, campaign_id: int, name: str | None, priority: int, now: datetime) -> Batch:
    """Makes a batch, or gives the one of that name; without a name it gets the day's and a number."""
    if name is not None:
        made = await create(tx, campaign_id, name, priority, now) or await find(tx, campaign_id, name)
        if made is None:
            raise LookupError(f"batch {name} is neither new nor there")
        return made
    for number in itertools.count(1):
        made = await create(tx, campaign_id, f"{now:%Y-%m-%d}-{number}", priority, now)
        if made is not None:
            return made
    raise AssertionError("unreachable: numbers do not end")


async def of_campaign(tx: Transaction, campaign_id: int) -> list[Batch]:
    """The campaign's batches, oldest first."""
    statement = sa.select(batches).where(batches.c.campaign_id == campaign_id).order_by(batches.c.id)
    return [Batch(*row) for row in await tx.sql.execute(statement)]


async def set_priority(tx: Transaction, campaign_id: int, priority: int, batch_id: int | None = None) -> None:
    """Says how urgent units are that are yet to come into a batch, or into any of the campaign's."""
    statement = sa.update(batches).where(batches.c.campaign_id == campaign_id).values(priority=priority)
    await tx.sql.execute(statement if batch_id is None else statement.where(batches.c.id == batch_id))


async def add_ranges(tx: Transaction, batch: Batch, ranges: Sequence[tuple[int, int]]) -> None:
    """Puts unit ids into a batch; a range that follows on one of its own lengthens that."""
    for first, last in ranges:
        await tx.raw.execute(
            ADD_RANGE, {"campaign": batch.campaign_id, "batch": batch.id, "first": first, "last": last}
        )


ADD_RANGE = """
WITH lengthened AS (
    UPDATE batch_ranges SET last_unit = %(last)s
    WHERE batch_id = %(batch)s AND last_unit = %(first)s - 1
    RETURNING batch_id
)
INSERT INTO batch_ranges (campaign_id, first_unit, last_unit, batch_id)
SELECT %(campaign)s, %(first)s, %(last)s, %(batch)s WHERE NOT EXISTS (SELECT FROM lengthened)
"""


async def ranges(tx: Transaction, batch_id: int) -> list[tuple[int, int]]:
    """The batch's unit ids, (first, last) both included, in order."""
    statement = sa.select(batch_ranges.c.first_unit, batch_ranges.c.last_unit)
    rows = await tx.sql.execute(
        statement.where(batch_ranges.c.batch_id == batch_id).order_by(batch_ranges.c.first_unit)
    )
    return [(row.first_unit, row.last_unit) for row in rows]


async def count_by_state(tx: Transaction, batch_id: int) -> dict[str, int]:
    """Units of a batch by state, for people; it reads them all."""
    found = await tx.raw.execute(COUNT_BY_STATE, {"batch": batch_id})
    return dict(await found.fetchall())


COUNT_BY_STATE = """
SELECT u.state, count(*)
FROM (SELECT * FROM batch_ranges WHERE batch_id = %(batch)s) AS r CROSS JOIN LATERAL (
    SELECT state FROM units WHERE campaign_id = r.campaign_id AND id BETWEEN r.first_unit AND r.last_unit
    OFFSET 0
) AS u
GROUP BY 1 ORDER BY 1
"""
