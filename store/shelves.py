"""The shelves: `ready` holds every replica that waits, ordered so that one claim reads one short range."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from psycopg.rows import class_row

from store.arrays import Integers
from store.database import Transaction, rows_of
from store.schema import QUEUE, metadata

SHUFFLE_RANGE = 1 << 30

ready = sa.Table(
    "ready",
    metadata,
    sa.Column("campaign_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("perspective_id", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("tier", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("lane", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("block", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("shuffle", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("unit_id", sa.BigInteger, primary_key=True, autoincrement=False),
    # Whether leasing it may birth the next lane: true until it was leased for the first time.
    sa.Column("fresh", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.CheckConstraint("lane BETWEEN 0 AND 31", name="lane"),
    sa.CheckConstraint(f"shuffle >= 0 AND shuffle < {SHUFFLE_RANGE}", name="shuffle"),
    postgresql_with=QUEUE,
)


Row = tuple[int, int, int]
"""(campaign id, perspective id, tier): the shelves of one perspective, one for each lane."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """Replicas that any one claim may draw from together; `block` is the leading one."""

    campaign_id: int
    perspective_id: int
    tier: int
    lane: int
    block: int

    @property
    def row(self) -> Row:
        """The shelf whatever its lane."""
        return self.campaign_id, self.perspective_id, self.tier


class LeasedUnit(NamedTuple):
    """A replica that is leased, with all that its holder is told of it."""

    campaign_id: int
    id: int
    lane: int
    kind: str
    perspective_id: int
    content_id: int
    image_hash: bytes
    params: str
    signature: bytes


class Spot(NamedTuple):
    """Where the replicas of an image's unit of one perspective lie, in whatever lane."""

    campaign_id: int
    perspective_id: int
    tier: int
    block: int
    shuffle: int

    @property
    def row(self) -> Row:
        """The shelves that it is a part of."""
        return self[:3]


class Candidate(NamedTuple):
    """A waiting replica that this transaction has locked.

    `place` is where it lies, good while it is locked; `users` hold, have answered or have failed its unit.
    The fields from `campaign_id` on are those of LeasedUnit.
    """

    place: str
    fresh: bool
    users: list[int]
    tier: int
    block: int
    shuffle: int
    state: str
    campaign_id: int
    id: int
    lane: int
    kind: str
    perspective_id: int
    content_id: int
    image_hash: bytes
    params: str
    signature: bytes

    @property
    def leased(self) -> LeasedUnit:
        """What its holder is told."""
        return LeasedUnit._make(self[7:])

    @property
    def spot(self) -> Spot:
        """Where it lies, whatever its lane."""
        return Spot(self.campaign_id, self.perspective_id, self.tier, self.block, self.shuffle)


@dataclass(frozen=True, slots=True)
class NewLease:
    """A candidate that goes to a host until `deadline`; with `next_lane` its unit's next lane is born.

    With `alone` its answer may settle the unit without another.
    """

    candidate: Candidate
    host_id: int
    user_id: int
    deadline: datetime
    next_lane: bool
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a block: `low` <= shuffle < `high`."""

    block: int
    low: int
    high: int


async def waiting(tx: Transaction) -> list[Shelf]:
    """Every shelf that holds something, each found by one index probe (a skip scan), however deep it is."""
    cursor = tx.raw.cursor(row_factory=class_row(Shelf))
    await cursor.execute(WAITING)
    return await cursor.fetchall()


WAITING = """
WITH RECURSIVE shelf AS (
    (SELECT campaign_id, perspective_id, tier, lane, block FROM ready
     ORDER BY campaign_id, perspective_id, tier, lane, block LIMIT 1)
    UNION ALL
    SELECT following.* FROM shelf, LATERAL (
        SELECT r.campaign_id, r.perspective_id, r.tier, r.lane, r.block FROM ready r
        WHERE (r.campaign_id, r.perspective_id, r.tier, r.lane)
            > (shelf.campaign_id, shelf.perspective_id, shelf.tier, shelf.lane)
        ORDER BY r.campaign_id, r.perspective_id, r.tier, r.lane, r.block LIMIT 1
    ) AS following
)
SELECT * FROM shelf
"""


async def guard_users(tx: Transaction, user_ids: Collection[int]) -> None:
    """Until this transaction ends nobody else draws for these users, so that no unit reaches one twice.

    It is a statement of its own: a statement that both waited and drew would draw by an old snapshot.
    """
    if user_ids:
        await tx.raw.execute(GUARD_USERS, {"users": sorted(user_ids)})


GUARD_USERS = """
SELECT count(pg_advisory_xact_lock((7381::bigint << 48) | user_id))
FROM unnest(%(users)b::bigint[]) AS user_id
"""


async def candidates(
    tx: Transaction, shelf: Shelf, stretch: Stretch, users: Sequence[int], want: int
) -> list[Candidate]:
    """Locks and gives at most `want` replicas of a stretch of a shelf, in order, that nobody else has locked.

    Each is one that at least one of the `users` neither holds nor has answered nor has failed.
    """
    parameters = {
        "campaign": shelf.campaign_id,
        "perspective": shelf.perspective_id,
        "tier": shelf.tier,
        "lane": shelf.lane,
        "block": stretch.block,
        "low": stretch.low,
        "high": stretch.high,
        "users": users,
        "want": want,
    }
    cursor = tx.raw.cursor(row_factory=rows_of(Candidate))
    await cursor.execute(CANDIDATES, parameters)
    return await cursor.fetchall()


# Whom each waiting replica cannot go to. Nobody has touched a unit whose first replica was never leased.
_TOUCHED = """
CROSS JOIN LATERAL (
    SELECT CASE WHEN r.fresh AND r.lane = 0 THEN '{}' ELSE
        ARRAY(SELECT l.user_id FROM leases l
              WHERE l.campaign_id = r.campaign_id AND l.unit_id = r.unit_id)
        || ARRAY(SELECT s.user_id FROM results s
                 WHERE s.campaign_id = r.campaign_id AND s.unit_id = r.unit_id)
        || ARRAY(SELECT p.user_id FROM past_leases p
                 WHERE p.campaign_id = r.campaign_id AND p.unit_id = r.unit_id AND p.ending = 'failed'
                   AND NOT p.forgiven)
    END AS users OFFSET 0
) AS touched
"""
_TELL = """
SELECT p.place, p.fresh, p.users, u.tier, p.block, p.shuffle, u.state, u.campaign_id, u.id, p.lane, u.kind,
       u.perspective_id, u.content_id, u.image_hash, u.params, u.signature
FROM picked p CROSS JOIN LATERAL (
    SELECT * FROM units WHERE campaign_id = p.campaign_id AND id = p.unit_id OFFSET 0
) AS u
"""

CANDIDATES = f"""
WITH picked AS (
    SELECT r.ctid AS place, r.campaign_id, r.unit_id, r.lane, r.block, r.shuffle, r.fresh, touched.users
    FROM ready r {_TOUCHED}
    WHERE r.campaign_id = %(campaign)s AND r.perspective_id = %(perspective)s AND r.tier = %(tier)s
      AND r.lane = %(lane)s AND r.block = %(block)s AND r.shuffle >= %(low)s AND r.shuffle < %(high)s
      AND NOT %(users)b::bigint[] <@ touched.users
    ORDER BY r.block, r.shuffle, r.unit_id
    LIMIT %(want)s
    FOR UPDATE OF r SKIP LOCKED
) {_TELL}
"""  # noqa: S608 - only constants of this file


async def at(tx: Transaction, spots: Sequence[Spot]) -> list[Candidate]:
    """Locks and gives every replica at these spots that nobody else has locked, for anyone."""
    columns: dict[str, object] = {name: [getattr(spot, name) for spot in spots] for name in Spot._fields}
    cursor = tx.raw.cursor(row_factory=rows_of(Candidate))
    await cursor.execute(AT, columns)
    return await cursor.fetchall()


AT = f"""
WITH picked AS (
    SELECT r.ctid AS place, r.campaign_id, r.unit_id, r.lane, r.block, r.shuffle, r.fresh, touched.users
    FROM unnest(%(campaign_id)b::int[], %(perspective_id)b::smallint[], %(tier)b::smallint[],
                %(block)b::int[], %(shuffle)b::int[])
        AS spot (campaign_id, perspective_id, tier, block, shuffle)
    CROSS JOIN LATERAL (
        SELECT ready.ctid, ready.* FROM ready
        WHERE campaign_id = spot.campaign_id AND perspective_id = spot.perspective_id AND tier = spot.tier
          AND lane = ANY (ARRAY(SELECT generate_series(0, 31)))
          AND block = spot.block AND shuffle = spot.shuffle
        OFFSET 0 FOR UPDATE SKIP LOCKED
    ) AS r {_TOUCHED}
) {_TELL}
"""  # noqa: S608 - only constants of this file


async def hold_something(tx: Transaction, shelves: Sequence[Shelf]) -> bool:
    """Whether anything lies on any of these shelves now."""
    for shelf in shelves:
        if await block_after(tx, shelf, -(2**31)) is not None:
            return True
    return False


async def block_after(tx: Transaction, shelf: Shelf, block: int) -> int | None:
    """The shelf's next block that holds something."""
    parameters = {
        "campaign": shelf.campaign_id,
        "perspective": shelf.perspective_id,
        "tier": shelf.tier,
        "lane": shelf.lane,
        "block": block,
    }
    found = await tx.raw.execute(BLOCK_AFTER, parameters)
    row = await found.fetchone()
    return None if row is None else int(row[0])


BLOCK_AFTER = """
SELECT block FROM ready
WHERE campaign_id = %(campaign)s AND perspective_id = %(perspective)s AND tier = %(tier)s AND lane = %(lane)s
  AND block > %(block)s
ORDER BY block LIMIT 1
"""


async def take(
    tx: Transaction, new: Sequence[NewLease], closed: Sequence[str], now: datetime
) -> set[tuple[int, int, int]]:
    """Moves locked candidates from their shelves into leases; gives (campaign, unit, lane) of those leased.

    A replica that is leased already, and those at the places `closed`, leave their shelves alone.
    """
    if not new and not closed:
        return set()
    births = [lease.candidate for lease in new if lease.next_lane]
    parameters = {
        "places": [lease.candidate.place for lease in new] + list(closed),
        "campaigns": Integers(lease.candidate.campaign_id for lease in new),
        "units": Integers(lease.candidate.id for lease in new),
        "lanes": Integers(lease.candidate.lane for lease in new),
        "hosts": Integers(lease.host_id for lease in new),
        "users": Integers(lease.user_id for lease in new),
        "deadlines": [lease.deadline for lease in new],
        "alone": [lease.alone for lease in new],
        "births": [birth.place for birth in births],
        "now": now,
    }
    tx.tell_here()
    found = await tx.raw.execute(TAKE, parameters)
    return set(await found.fetchall())


TAKE = """
WITH taken AS (
    -- By place: the rows are locked, and a join would be planned by statistics that may be hours behind.
    DELETE FROM ready WHERE ctid = ANY (%(places)s::tid[])
), leased AS (
    INSERT INTO leases (campaign_id, unit_id, lane, host_id, user_id, leased_at, deadline, alone)
    SELECT l.campaign_id, l.unit_id, l.lane, l.host_id, l.user_id, %(now)s, l.deadline, l.alone
    FROM unnest(%(campaigns)b::int[], %(units)b::bigint[], %(lanes)b::smallint[], %(hosts)b::bigint[],
                %(users)b::bigint[], %(deadlines)b::timestamptz[], %(alone)b::bool[])
        AS l (campaign_id, unit_id, lane, host_id, user_id, deadline, alone)
    ON CONFLICT DO NOTHING
    RETURNING campaign_id, unit_id, lane
), born AS (
    INSERT INTO ready (campaign_id, perspective_id, tier, lane, block, shuffle, unit_id)
    SELECT campaign_id, perspective_id, tier, lane + 1, block, shuffle, unit_id
    FROM ready
    -- IS TRUE keeps it a hashed lookup: as a join it would compare every replica with every other.
    WHERE ctid = ANY (%(births)s::tid[])
      AND ((campaign_id, unit_id, lane) IN (SELECT campaign_id, unit_id, lane FROM leased)) IS TRUE
    ON CONFLICT DO NOTHING
)
SELECT campaign_id, unit_id, lane FROM leased
"""


async def count_waiting(tx: Transaction) -> list[tuple[int, int, int]]:
    """(campaign id, tier, replicas) that wait, for people; it reads the whole index."""
    found = await tx.raw.execute("SELECT campaign_id, tier, count(*) FROM ready GROUP BY 1, 2 ORDER BY 1, 2")
    return [tuple(row) for row in await found.fetchall()]
