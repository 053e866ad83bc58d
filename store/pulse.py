"""The pulse of the coordinators: when one of them last worked, and the outages when none did."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from store.database import Transaction
from store.schema import metadata

pulse = sa.Table(
    "pulse",
    metadata,
    sa.Column("single", sa.Boolean, primary_key=True),
    sa.Column("beat_at", sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint("single", name="single"),
)

# (campaign_id, unit_id) is how far the leases have been extended, in their order.
outages = sa.Table(
    "outages",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("began_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("campaign_id", sa.Integer, nullable=False, server_default="0"),
    sa.Column("unit_id", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("done", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index("ix_outages_open", "id", postgresql_where=sa.text("NOT done")),
    sa.CheckConstraint("ended_at > began_at", name="length"),
)


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which no coordinator worked, and the unit up to which leases have been extended for it."""

    id: int
    began_at: datetime
    ended_at: datetime
    place: tuple[int, int]


async def beat(tx: Transaction, now: datetime, patience: timedelta) -> timedelta | None:
    """Notes that a coordinator works. A silence longer than `patience` becomes an outage, once; gives it."""
    await tx.raw.execute(FIRST_BEAT, {"now": now})
    found = await tx.raw.execute("SELECT beat_at FROM pulse FOR UPDATE")
    [(last,)] = await found.fetchall()
    silence: timedelta = now - last
    if silence > timedelta(0):
        await tx.raw.execute("UPDATE pulse SET beat_at = %(now)s", {"now": now})
    if silence <= patience:
        return None
    await tx.raw.execute(BEGIN_OUTAGE, {"last": last, "now": now})
    return silence


FIRST_BEAT = "INSERT INTO pulse VALUES (true, %(now)s) ON CONFLICT DO NOTHING"
BEGIN_OUTAGE = "INSERT INTO outages (began_at, ended_at) VALUES (%(last)s, %(now)s)"


async def is_steady(tx: Transaction, now: datetime, patience: timedelta) -> bool:
    """Whether coordinators work, and every lease has been extended for when they did not."""
    found = await tx.raw.execute(IS_STEADY, {"since": now - patience})
    [(steady,)] = await found.fetchall()
    return bool(steady)


IS_STEADY = """
SELECT NOT EXISTS (SELECT FROM pulse WHERE beat_at < %(since)s)
   AND NOT EXISTS (SELECT FROM outages WHERE NOT done)
"""


async def open_outage(tx: Transaction) -> Outage | None:
    """The oldest outage that leases are still to be extended for, locked; None also where another has it."""
    found = await tx.raw.execute(OPEN_OUTAGE)
    row = await found.fetchone()
    return None if row is None else Outage(row[0], row[1], row[2], (row[3], row[4]))


OPEN_OUTAGE = """
SELECT id, began_at, ended_at, campaign_id, unit_id FROM outages WHERE NOT done
ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
"""


async def proceed(tx: Transaction, outage: Outage, place: tuple[int, int] | None) -> None:
    """Notes how far the leases have been extended for a locked outage; None: all are."""
    campaign_id, unit_id = place or outage.place
    values = {"id": outage.id, "campaign": campaign_id, "unit": unit_id, "done": place is None}
    await tx.raw.execute(PROCEED, values)


PROCEED = """
UPDATE outages SET campaign_id = %(campaign)s, unit_id = %(unit)s, done = %(done)s WHERE id = %(id)s
"""
