"""Quotas of hosts below the cap, and how far the ledger and the ended leases have been read for them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from psycopg.rows import class_row

from store.database import Transaction
from store.schema import metadata

# A host without a row has the whole cap.
host_quotas = sa.Table(
    "host_quotas",
    metadata,
    sa.Column("host_id", sa.ForeignKey("hosts.id"), primary_key=True),
    sa.Column("allowed", sa.Integer, nullable=False),
    sa.Column("strikes", sa.Integer, nullable=False),
    sa.Column("parkings", sa.Integer, nullable=False),
    sa.Column("parked_until", sa.DateTime(timezone=True)),
    sa.Column("reason", sa.Text, nullable=False, server_default=""),
    sa.CheckConstraint("allowed >= 1", name="allowed"),
    sa.CheckConstraint("strikes >= 0 AND parkings >= 0", name="counts"),
)

quota_progress = sa.Table(
    "quota_progress",
    metadata,
    sa.Column("single", sa.Boolean, primary_key=True),
    sa.Column("ledger_id", sa.BigInteger, nullable=False),
    sa.Column("past_lease_id", sa.BigInteger, nullable=False),
    sa.CheckConstraint("single", name="single"),
)


@dataclass(frozen=True, slots=True)
class QuotaRow:
    """A host's quota; `reason` says why it is, or was last, parked."""

    host_id: int
    allowed: int
    strikes: int
    parkings: int
    parked_until: datetime | None
    reason: str


@dataclass(frozen=True, slots=True)
class HeldQuota:
    """What a host may hold, and how much of that it holds now."""

    host_id: int
    allowed: int
    held: int
    parked_until: datetime | None


@dataclass(frozen=True, slots=True)
class Tally:
    """How a host's work went; `last` is the last id that was read for it, `read` how many rows."""

    host_id: int
    good: int
    bad: int
    last: int
    read: int


async def progress(tx: Transaction) -> tuple[int, int] | None:
    """The last ledger entry and ended lease that were read, locked; None where another reads on now."""
    found = await tx.raw.execute("SELECT ledger_id, past_lease_id FROM quota_progress FOR UPDATE SKIP LOCKED")
    row = await found.fetchone()
    return None if row is None else (row[0], row[1])


async def proceed(tx: Transaction, ledger_id: int, past_lease_id: int) -> None:
    """Notes how far was read."""
    await tx.raw.execute(
        "UPDATE quota_progress SET ledger_id = %s, past_lease_id = %s", (ledger_id, past_lease_id)
    )


async def judged(tx: Transaction, last: int, limit: int, until: datetime) -> list[Tally]:
    """Judged and failed results by host, of up to `limit` ledger entries after `last`.

    It stops before the first that is later than `until`, since one with a smaller id may yet be committed.
    """
    return await _tallies(tx, JUDGED, {"last": last, "limit": limit, "until": until})


async def lapsed(tx: Transaction, last: int, limit: int, until: datetime) -> list[Tally]:
    """Expired leases by host, of up to `limit` ended ones after `last`; it stops as `judged` does."""
    return await _tallies(tx, LAPSED, {"last": last, "limit": limit, "until": until})


async def _tallies(tx: Transaction, statement: str, values: dict[str, object]) -> list[Tally]:
    cursor = tx.raw.cursor(row_factory=class_row(Tally))
    await cursor.execute(statement, values)
    return await cursor.fetchall()


# What is taken back when a unit is reopened says nothing about its host's machine.
JUDGED = """
WITH page AS MATERIALIZED (
    SELECT id, host_id, judgement, reversal_of, created_at FROM ledger
    WHERE id > %(last)s ORDER BY id LIMIT %(limit)s
)
SELECT host_id,
       count(*) FILTER (WHERE judgement IN ('agreed', 'unchecked') AND reversal_of IS NULL) AS good,
       count(*) FILTER (WHERE judgement IN ('disagreed', 'failed') AND reversal_of IS NULL) AS bad,
       max(id) AS last, count(*) AS read
FROM page
WHERE id < COALESCE((SELECT min(id) FROM page WHERE created_at > %(until)s), 9223372036854775807)
GROUP BY host_id ORDER BY host_id
"""

LAPSED = """
WITH page AS MATERIALIZED (
    SELECT id, host_id, ending, ended_at FROM past_leases WHERE id > %(last)s ORDER BY id LIMIT %(limit)s
)
SELECT host_id, 0 AS good, count(*) FILTER (WHERE ending = 'expired') AS bad, max(id) AS last,
       count(*) AS read
FROM page
WHERE id < COALESCE((SELECT min(id) FROM page WHERE ended_at > %(until)s), 9223372036854775807)
GROUP BY host_id ORDER BY host_id
"""


async def overfull(tx: Transaction, cap: int) -> list[int]:
    """Hosts that hold as many units as the cap, or more, each found by one walk of at most that many."""
    found = await tx.raw.execute(OVERFULL, {"most": cap - 1})
    return [int(row[0]) for row in await found.fetchall()]


OVERFULL = """
WITH RECURSIVE holder AS (
    (SELECT host_id FROM leases ORDER BY host_id LIMIT 1)
    UNION ALL
    SELECT following.* FROM holder, LATERAL (
        SELECT l.host_id FROM leases l WHERE l.host_id > holder.host_id ORDER BY l.host_id LIMIT 1
    ) AS following
)
SELECT host_id FROM holder
WHERE (SELECT true FROM leases l WHERE l.host_id = holder.host_id OFFSET %(most)s LIMIT 1)
"""


async def of_hosts(tx: Transaction, host_ids: Collection[int]) -> list[QuotaRow]:
    """The quotas of those hosts that are below the cap, locked."""
    cursor = tx.raw.cursor(row_factory=class_row(QuotaRow))
    await cursor.execute(OF_HOSTS, (sorted(host_ids),))
    return await cursor.fetchall()


OF_HOSTS = """
SELECT host_id, allowed, strikes, parkings, parked_until, reason FROM host_quotas
WHERE host_id = ANY (%s) ORDER BY host_id FOR UPDATE
"""


async def write(tx: Transaction, rows: Sequence[QuotaRow]) -> None:
    """Writes quotas, those that are there over."""
    if rows:
        columns = {name: [getattr(row, name) for row in rows] for name in QuotaRow.__slots__}
        await tx.raw.execute(WRITE, columns)


WRITE = """
INSERT INTO host_quotas (host_id, allowed, strikes, parkings, parked_until, reason)
SELECT q.* FROM unnest(%(host_id)b::bigint[], %(allowed)b::int[], %(strikes)b::int[], %(parkings)b::int[],
                       %(parked_until)b::timestamptz[], %(reason)b::text[]) AS q
ON CONFLICT (host_id) DO UPDATE
SET allowed = excluded.allowed, strikes = excluded.strikes, parkings = excluded.parkings,
    parked_until = excluded.parked_until, reason = excluded.reason
"""


async def forget_full(tx: Transaction, cap: int, keep: Collection[int], now: datetime) -> None:
    """Forgets hosts that have the whole cap again, but for those to keep."""
    await tx.raw.execute(FORGET_FULL, {"cap": cap, "keep": list(keep), "now": now})


FORGET_FULL = """
DELETE FROM host_quotas
WHERE allowed >= %(cap)s AND strikes = 0 AND COALESCE(parked_until, %(now)s) <= %(now)s
  AND host_id <> ALL (%(keep)s::bigint[])
"""


async def held(tx: Transaction) -> list[HeldQuota]:
    """Every host below the cap, with how much of its quota it holds now."""
    cursor = tx.raw.cursor(row_factory=class_row(HeldQuota))
    await cursor.execute(HELD)
    return await cursor.fetchall()


HELD = """
SELECT q.host_id, q.allowed, q.parked_until,
       (SELECT count(*) FROM (SELECT FROM leases l WHERE l.host_id = q.host_id LIMIT q.allowed) AS few)
           AS held
FROM host_quotas q
"""
