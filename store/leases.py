"""Leases: `leases` holds the live ones alone, `past_leases` how those without a result ended.

A lease is born by a claim; after that it changes only under its unit's lock, so that it may be deleted by
its place in the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa

from store.arrays import Integers, key_columns
from store.database import Transaction, rows_of
from store.schema import GROWING, QUEUE, metadata, one_of
from store.shelves import LeasedUnit

ENDINGS = ("expired", "released", "failed", "stopped")

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("campaign_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("unit_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("lane", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("host_id", sa.BigInteger, nullable=False),
    sa.Column("user_id", sa.BigInteger, nullable=False),
    sa.Column("leased_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("deadline", sa.DateTime(timezone=True), nullable=False),
    # Whether its answer may settle the unit without another.
    sa.Column("alone", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.UniqueConstraint("campaign_id", "unit_id", "user_id", name="uq_leases_one_per_user"),
    sa.Index("ix_leases_host", "host_id", "deadline"),
    postgresql_with=QUEUE,
)

past_leases = sa.Table(
    "past_leases",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("campaign_id", sa.Integer, nullable=False),
    sa.Column("unit_id", sa.BigInteger, nullable=False),
    sa.Column("lane", sa.SmallInteger, nullable=False),
    sa.Column("host_id", sa.BigInteger, nullable=False),
    sa.Column("user_id", sa.BigInteger, nullable=False),
    sa.Column("leased_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("ending", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    # Its unit was reopened since: it neither counts against the unit nor keeps its user from it.
    sa.Column("forgiven", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index("ix_past_leases_unit", "campaign_id", "unit_id"),
    one_of("ending", ENDINGS),
    postgresql_with=GROWING,
)


class Lease(NamedTuple):
    """A live lease."""

    campaign_id: int
    unit_id: int
    lane: int
    host_id: int
    user_id: int
    leased_at: datetime
    deadline: datetime
    alone: bool


@dataclass(frozen=True, slots=True)
class Ending:
    """Why one lease ends without a result; `ending` is one of ENDINGS."""

    campaign_id: int
    unit_id: int
    lane: int
    ending: str
    detail: str


class PastLease(NamedTuple):
    """A lease that ended without a result."""

    campaign_id: int
    unit_id: int
    lane: int
    host_id: int
    ending: str
    detail: str
    forgiven: bool


async def of_units(tx: Transaction, keys: Sequence[tuple[int, int]]) -> list[Lease]:
    """Every live lease on these units."""
    cursor = tx.raw.cursor(row_factory=rows_of(Lease))
    await cursor.execute(OF_UNITS, key_columns(keys))
    return await cursor.fetchall()


OF_UNITS = """
SELECT l.campaign_id, l.unit_id, l.lane, l.host_id, l.user_id, l.leased_at, l.deadline, l.alone
FROM unnest(%(campaigns)b::int[], %(units)b::bigint[]) AS wanted (campaign_id, unit_id)
CROSS JOIN LATERAL (
    SELECT * FROM leases WHERE campaign_id = wanted.campaign_id AND unit_id = wanted.unit_id OFFSET 0
) AS l
"""


async def answered(tx: Transaction, held: Sequence[tuple[int, int, int]]) -> None:
    """Ends leases of locked units, by campaign, unit and user, whose results are stored with it."""
    if held:
        columns = {
            "campaigns": Integers(one[0] for one in held),
            "units": Integers(one[1] for one in held),
            "users": Integers(one[2] for one in held),
        }
        await tx.raw.execute(ANSWERED, columns)


ANSWERED = """
DELETE FROM leases WHERE ctid = ANY (ARRAY(
    SELECT l.ctid
    FROM unnest(%(campaigns)b::int[], %(units)b::bigint[], %(users)b::bigint[])
        AS done (campaign_id, unit_id, user_id)
    CROSS JOIN LATERAL (
        SELECT leases.ctid FROM leases
        WHERE campaign_id = done.campaign_id AND unit_id = done.unit_id AND user_id = done.user_id
        OFFSET 0
    ) AS l))
"""


async def end(tx: Transaction, endings: Sequence[Ending], now: datetime) -> None:
    """Ends leases without a result and remembers how, so that a late answer is still known as theirs."""
    if endings:
        columns: dict[str, object] = {
            name: [getattr(ending, name) for ending in endings] for name in Ending.__slots__
        }
        await tx.raw.execute(END, {**columns, "now": now})


END = """
WITH ended AS (
    DELETE FROM leases l
    USING unnest(%(campaign_id)b::int[], %(unit_id)b::bigint[], %(lane)b::smallint[], %(ending)b::text[],
                 %(detail)b::text[]) AS e (campaign_id, unit_id, lane, ending, detail)
    WHERE l.campaign_id = e.campaign_id AND l.unit_id = e.unit_id AND l.lane = e.lane
    RETURNING l.campaign_id, l.unit_id, l.lane, l.host_id, l.user_id, l.leased_at, e.ending, e.detail
)
INSERT INTO past_leases (campaign_id, unit_id, lane, host_id, user_id, leased_at, ended_at, ending, detail)
SELECT campaign_id, unit_id, lane, host_id, user_id, leased_at, %(now)s, ending, detail FROM ended
"""


async def renew(
    tx: Transaction,
    host_id: int,
    keys: Sequence[tuple[int, int]],
    now: datetime,
    term: timedelta,
    longest: timedelta,
) -> set[tuple[int, int]]:
    """Gives this host's leases on these locked units a `term` from now, if they have not more; gives which.

    None goes on beyond `longest` after it was leased; one that is so old already is left as it is.
    """
    times = {"now": now, "deadline": now + term, "longest": longest}
    found = await tx.raw.execute(RENEW, {**key_columns(keys), "host": host_id, **times})
    return {(campaign_id, unit_id) for campaign_id, unit_id in await found.fetchall()}


RENEW = """
UPDATE leases l SET deadline = GREATEST(l.deadline, LEAST(%(deadline)s, l.leased_at + %(longest)s))
FROM unnest(%(campaigns)b::int[], %(units)b::bigint[]) AS held (campaign_id, unit_id)
WHERE l.campaign_id = held.campaign_id AND l.unit_id = held.unit_id AND l.host_id = %(host)s
  AND l.leased_at + %(longest)s > %(now)s
RETURNING l.campaign_id, l.unit_id
"""


async def expired(tx: Transaction, now: datetime, limit: int) -> list[tuple[int, int]]:
    """Units with a lease past its deadline, not locked: lock the units, then look again.

    Each host costs one index probe (a skip scan), however many leases it has that are not due.
    """
    found = await tx.raw.execute(EXPIRED, {"now": now, "limit": limit})
    return [(campaign_id, unit_id) for campaign_id, unit_id in await found.fetchall()]


EXPIRED = """
WITH RECURSIVE oldest AS (
    (SELECT host_id, deadline FROM leases ORDER BY host_id, deadline LIMIT 1)
    UNION ALL
    SELECT following.* FROM oldest, LATERAL (
        SELECT l.host_id, l.deadline FROM leases l WHERE l.host_id > oldest.host_id
        ORDER BY l.host_id, l.deadline LIMIT 1
    ) AS following
)
SELECT l.campaign_id, l.unit_id
FROM oldest CROSS JOIN LATERAL (
    SELECT campaign_id, unit_id FROM leases
    WHERE host_id = oldest.host_id AND deadline < %(now)s ORDER BY deadline LIMIT %(limit)s
) AS l
WHERE oldest.deadline < %(now)s
LIMIT %(limit)s
"""


async def after(tx: Transaction, place: tuple[int, int], limit: int) -> list[tuple[int, int]]:
    """Up to `limit` units with live leases that follow the unit `place` in id order, not locked."""
    found = await tx.raw.execute(AFTER, {"campaign": place[0], "unit": place[1], "limit": limit})
    return [(campaign_id, unit_id) for campaign_id, unit_id in await found.fetchall()]


AFTER = """
SELECT DISTINCT campaign_id, unit_id FROM leases
WHERE (campaign_id, unit_id) > (%(campaign)s, %(unit)s)
ORDER BY campaign_id, unit_id LIMIT %(limit)s
"""


async def extend(
    tx: Transaction, keys: Sequence[tuple[int, int]], length: timedelta, leased_before: datetime
) -> None:
    """Moves the deadlines of earlier leases on these locked units by so much."""
    await tx.raw.execute(EXTEND, {**key_columns(keys), "length": length, "before": leased_before})


EXTEND = """
UPDATE leases SET deadline = deadline + %(length)s::interval WHERE ctid = ANY (ARRAY(
    SELECT l.ctid
    FROM unnest(%(campaigns)b::int[], %(units)b::bigint[]) AS held (campaign_id, unit_id)
    CROSS JOIN LATERAL (
        SELECT leases.ctid FROM leases
        WHERE campaign_id = held.campaign_id AND unit_id = held.unit_id AND leased_at < %(before)s OFFSET 0
    ) AS l))
"""


async def of_host(tx: Transaction, host_id: int) -> set[tuple[int, int]]:
    """Every unit that this host holds, not locked."""
    found = await tx.raw.execute(OF_HOST, {"host": host_id})
    return {(campaign_id, unit_id) for campaign_id, unit_id in await found.fetchall()}


OF_HOST = "SELECT campaign_id, unit_id FROM leases WHERE host_id = %(host)s"


async def of_revoked(tx: Transaction, limit: int) -> list[tuple[int, int, int]]:
    """(campaign id, unit id, host id) of leases that revoked hosts still hold, not locked."""
    found = await tx.raw.execute(OF_REVOKED, {"limit": limit})
    return [tuple(row) for row in await found.fetchall()]


OF_REVOKED = """
SELECT l.campaign_id, l.unit_id, l.host_id
FROM hosts h CROSS JOIN LATERAL (
    SELECT campaign_id, unit_id, host_id FROM leases WHERE host_id = h.id LIMIT %(limit)s
) AS l
WHERE h.state = 'revoked'
LIMIT %(limit)s
"""


async def told_again(tx: Transaction, host_id: int, keys: Sequence[tuple[int, int]]) -> list[LeasedUnit]:
    """This host's leases on these units, as they were told to it when it drew them."""
    cursor = tx.raw.cursor(row_factory=rows_of(LeasedUnit))
    await cursor.execute(TOLD_AGAIN, {**key_columns(keys), "host": host_id})
    return await cursor.fetchall()


TOLD_AGAIN = """
SELECT u.campaign_id, u.id, l.lane, u.kind, u.perspective_id, u.content_id, u.image_hash, u.params,
       u.signature
FROM unnest(%(campaigns)b::int[], %(units)b::bigint[]) AS held (campaign_id, unit_id)
CROSS JOIN LATERAL (
    SELECT lane FROM leases
    WHERE campaign_id = held.campaign_id AND unit_id = held.unit_id AND host_id = %(host)s OFFSET 0
) AS l
CROSS JOIN LATERAL (
    SELECT * FROM units WHERE campaign_id = held.campaign_id AND id = held.unit_id OFFSET 0
) AS u
ORDER BY u.campaign_id, u.perspective_id, u.id
"""


async def lonely(tx: Transaction, campaign_id: int, before: datetime, limit: int) -> list[tuple[int, int]]:
    """Units of a campaign with one live lease alone, had since before then, not locked.

    It reads a part of the campaign's leases, so that it costs little where there are many.
    """
    parameters = {"campaign": campaign_id, "before": before, "limit": limit}
    found = await tx.raw.execute(LONELY, parameters)
    return [(campaign_id, unit_id) for (unit_id,) in await found.fetchall()]


LONELY = """
SELECT unit_id
FROM (
    SELECT unit_id, leased_at FROM leases WHERE campaign_id = %(campaign)s ORDER BY unit_id LIMIT 20000
) AS l
GROUP BY unit_id HAVING count(*) = 1 AND max(leased_at) < %(before)s
LIMIT %(limit)s
"""


async def past(tx: Transaction, keys: Sequence[tuple[int, int]]) -> list[PastLease]:
    """How earlier leases on these units ended without a result, oldest first."""
    cursor = tx.raw.cursor(row_factory=rows_of(PastLease))
    await cursor.execute(PAST, key_columns(keys))
    return await cursor.fetchall()


PAST = """
SELECT p.campaign_id, p.unit_id, p.lane, p.host_id, p.ending, p.detail, p.forgiven
FROM unnest(%(campaigns)b::int[], %(units)b::bigint[]) AS wanted (campaign_id, unit_id)
CROSS JOIN LATERAL (
    SELECT * FROM past_leases WHERE campaign_id = wanted.campaign_id AND unit_id = wanted.unit_id OFFSET 0
) AS p
ORDER BY p.id
"""


async def prune_past(tx: Transaction, after: int, limit: int, before: datetime) -> tuple[int, int]:
    """Forgets how leases of units that were settled before ended; looks at `limit` of them from an id on.

    Gives the last id looked at (0 where all that is left is younger) and how many it forgot. Units that
    somebody has locked are left for another time.
    """
    found = await tx.raw.execute(PRUNE_PAST, {"after": after, "limit": limit, "before": before})
    last, pruned = await found.fetchone() or (0, 0)
    return int(last), int(pruned)


PRUNE_PAST = """
WITH looked AS (
    SELECT * FROM (SELECT * FROM past_leases WHERE id > %(after)s ORDER BY id LIMIT %(limit)s) AS p
    WHERE ended_at < %(before)s
), ended AS (
    SELECT u.campaign_id, u.id
    FROM (SELECT DISTINCT campaign_id, unit_id FROM looked) AS wanted
    CROSS JOIN LATERAL (
        SELECT * FROM units WHERE campaign_id = wanted.campaign_id AND id = wanted.unit_id
          AND state <> 'open' AND settled_at < %(before)s
        OFFSET 0 FOR NO KEY UPDATE SKIP LOCKED
    ) AS u
), gone AS (
    DELETE FROM past_leases WHERE id = ANY (ARRAY(
        SELECT l.id FROM looked l JOIN ended e ON e.campaign_id = l.campaign_id AND e.id = l.unit_id))
    RETURNING id
)
SELECT COALESCE((SELECT max(id) FROM looked), 0), (SELECT count(*) FROM gone)
"""


async def count_live(tx: Transaction) -> list[tuple[int, int]]:
    """(campaign id, live leases)."""
    found = await tx.raw.execute("SELECT campaign_id, count(*) FROM leases GROUP BY 1")
    return [tuple(row) for row in await found.fetchall()]


async def count_held(tx: Transaction, host_name: str) -> int:
    """How many units the host of this name holds."""
    found = await tx.raw.execute(
        "SELECT count(*) FROM leases l JOIN hosts h ON h.id = l.host_id WHERE h.name = %s", (host_name,)
    )
    row = await found.fetchone()
    return 0 if row is None else int(row[0])
