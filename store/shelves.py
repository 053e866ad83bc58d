"""The shelves: `ready` holds every replica that waits, ordered so that one claim reads one short range."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from psycopg.rows import class_row

from store.database import Transaction
from store.schema import metadata

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
    postgresql_with={"autovacuum_vacuum_scale_factor": "0.02", "autovacuum_vacuum_cost_delay": "0"},
)


@dataclass(frozen=True, slots=True)
class Shelf:
    """Replicas that any one claim may draw from together; `block` is the leading one."""

    campaign_id: int
    perspective_id: int
    tier: int
    lane: int
    block: int


@dataclass(frozen=True, slots=True)
class LeasedUnit:
    """A replica that left its shelf and is now leased, with all that its holder is told of it."""

    campaign_id: int
    id: int
    lane: int
    kind: str
    perspective_id: int
    content_id: int
    image_hash: bytes
    params: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class Holder:
    """Who draws: a host and its owner."""

    host_id: int
    user_id: int


@dataclass(frozen=True, slots=True)
class Checks:
    """Which of the replicas that are drawn others answer too: a `share` of them, picked by `salt`."""

    share: float
    salt: int


EVERY = Checks(1.0, 0)


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


async def guard_user(tx: Transaction, user_id: int) -> None:
    """Until this transaction ends nobody else draws for this user, so that no unit reaches one twice.

    It is a statement of its own: a statement that both waited and drew would draw by an old snapshot.
    """
    await tx.raw.execute("SELECT pg_advisory_xact_lock(7381, hashint8(%s))", (user_id,))


async def draw(
    tx: Transaction,
    shelf: Shelf,
    holder: Holder,
    *,
    start: tuple[int, int],
    want: int,
    next_lane: bool,
    checks: Checks = EVERY,
    now: datetime,
    deadline: datetime,
) -> list[LeasedUnit]:
    """Moves at most `want` replicas from a shelf into leases of `holder`, from (block, shuffle) `start` on.

    No replica goes to two callers, and none to a user who holds, has answered or has failed its unit. With
    `next_lane` the following lane of each unit whose replica is leased for the first time is born, unless
    `checks` leaves it out: its lease is then marked as one whose answer may settle the unit alone. A replica
    of a unit that is no longer open, or that is leased already, leaves its shelf and is not leased.
    """
    parameters = {
        "campaign": shelf.campaign_id,
        "perspective": shelf.perspective_id,
        "tier": shelf.tier,
        "lane": shelf.lane,
        "block": start[0],
        "shuffle": start[1],
        "host": holder.host_id,
        "user": holder.user_id,
        "want": want,
        "next_lane": next_lane,
        "share": checks.share,
        "salt": checks.salt,
        "now": now,
        "deadline": deadline,
    }
    cursor = tx.raw.cursor(row_factory=class_row(LeasedUnit))
    await cursor.execute(DRAW, parameters)
    return await cursor.fetchall()


DRAW = """
WITH picked AS (
    SELECT r.ctid
    FROM ready r
    WHERE r.campaign_id = %(campaign)s AND r.perspective_id = %(perspective)s AND r.tier = %(tier)s
      AND r.lane = %(lane)s AND (r.block, r.shuffle) >= (%(block)s, %(shuffle)s)
      AND (SELECT true FROM leases l WHERE l.campaign_id = r.campaign_id AND l.unit_id = r.unit_id
           AND l.user_id = %(user)s) IS NULL
      AND (SELECT true FROM results s WHERE s.campaign_id = r.campaign_id AND s.unit_id = r.unit_id
           AND s.user_id = %(user)s) IS NULL
      AND (SELECT true FROM past_leases p WHERE p.campaign_id = r.campaign_id AND p.unit_id = r.unit_id
           AND p.user_id = %(user)s AND p.ending = 'failed' LIMIT 1) IS NULL
    ORDER BY r.block, r.shuffle, r.unit_id
    LIMIT %(want)s
    FOR UPDATE OF r SKIP LOCKED
), taken AS (
    -- By place: the rows are locked, and a join would be planned by statistics that may be hours behind.
    DELETE FROM ready r WHERE r.ctid = ANY (ARRAY(SELECT ctid FROM picked))
    RETURNING r.campaign_id, r.unit_id, r.fresh
), wanted AS (
    SELECT u.*, t.fresh FROM taken t CROSS JOIN LATERAL (
        SELECT * FROM units WHERE campaign_id = t.campaign_id AND id = t.unit_id OFFSET 0
    ) AS u
    WHERE u.state = 'open'
), leased AS (
    INSERT INTO leases (campaign_id, unit_id, lane, host_id, user_id, leased_at, deadline, alone)
    SELECT campaign_id, id, %(lane)s, %(host)s, %(user)s, %(now)s, %(deadline)s,
           (hashint8extended(id, %(salt)s::bigint) & 65535) >= %(share)s::float8 * 65536
    FROM wanted
    ON CONFLICT DO NOTHING
    RETURNING unit_id, alone
), born AS (
    INSERT INTO ready (campaign_id, perspective_id, tier, lane, block, shuffle, unit_id)
    SELECT campaign_id, perspective_id, tier, %(lane)s + 1, block, shuffle, id
    FROM wanted JOIN leased ON unit_id = id
    WHERE %(next_lane)s AND fresh AND NOT alone
    ON CONFLICT DO NOTHING
)
SELECT campaign_id, id, %(lane)s::int AS lane, kind, perspective_id, content_id, image_hash, params, signature
FROM wanted JOIN leased ON unit_id = id ORDER BY id
"""


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica by its full place on the shelves."""

    campaign_id: int
    perspective_id: int
    tier: int
    lane: int
    block: int
    shuffle: int
    unit_id: int


async def put(tx: Transaction, replicas: Sequence[Replica]) -> None:
    """Puts replicas on their shelves, not fresh; one that is there already stays one."""
    if replicas:
        columns = {name: [getattr(replica, name) for replica in replicas] for name in Replica.__slots__}
        await tx.raw.execute(PUT, columns)


PUT = """
INSERT INTO ready (campaign_id, perspective_id, tier, lane, block, shuffle, unit_id, fresh)
SELECT r.*, false
FROM unnest(%(campaign_id)b::int[], %(perspective_id)b::smallint[], %(tier)b::smallint[],
            %(lane)b::smallint[], %(block)b::int[], %(shuffle)b::int[], %(unit_id)b::bigint[]) AS r
ON CONFLICT DO NOTHING
"""


async def lanes_of(tx: Transaction, keys: Sequence[tuple[int, int]]) -> list[tuple[int, int, int, bool]]:
    """(campaign id, unit id, lane, fresh) of the replicas of these units that wait on their shelves."""
    columns = {"campaigns": [key[0] for key in keys], "units": [key[1] for key in keys]}
    found = await tx.raw.execute(LANES_OF, columns)
    return [tuple(row) for row in await found.fetchall()]


LANES_OF = """
SELECT r.campaign_id, r.unit_id, r.lane, r.fresh
FROM unnest(%(campaigns)b::int[], %(units)b::bigint[]) AS wanted (campaign_id, unit_id)
CROSS JOIN LATERAL (
    SELECT * FROM units WHERE campaign_id = wanted.campaign_id AND id = wanted.unit_id OFFSET 0
) AS u
CROSS JOIN LATERAL (
    SELECT * FROM ready
    WHERE campaign_id = u.campaign_id AND perspective_id = u.perspective_id AND tier = u.tier
      AND lane = ANY (ARRAY(SELECT generate_series(0, 31)))
      AND block = u.block AND shuffle = u.shuffle AND unit_id = u.id
    OFFSET 0
) AS r
"""


async def remove(tx: Transaction, replicas: Sequence[Replica]) -> None:
    """Takes replicas off their shelves, because a late answer fills their place."""
    if replicas:
        columns = {name: [getattr(replica, name) for replica in replicas] for name in Replica.__slots__}
        await tx.raw.execute(REMOVE, columns)


REMOVE = """
DELETE FROM ready WHERE ctid = ANY (ARRAY(
    SELECT r.ctid
    FROM unnest(%(campaign_id)b::int[], %(perspective_id)b::smallint[], %(tier)b::smallint[],
                %(lane)b::smallint[], %(block)b::int[], %(shuffle)b::int[], %(unit_id)b::bigint[])
        AS gone (campaign_id, perspective_id, tier, lane, block, shuffle, unit_id)
    CROSS JOIN LATERAL (
        SELECT ready.ctid FROM ready
        WHERE campaign_id = gone.campaign_id AND perspective_id = gone.perspective_id
          AND tier = gone.tier AND lane = gone.lane AND block = gone.block
          AND shuffle = gone.shuffle AND unit_id = gone.unit_id
        OFFSET 0
    ) AS r))
"""


async def count_waiting(tx: Transaction) -> list[tuple[int, int, int]]:
    """(campaign id, tier, replicas) that wait, for people; it reads the whole index."""
    found = await tx.raw.execute("SELECT campaign_id, tier, count(*) FROM ready GROUP BY 1, 2 ORDER BY 1, 2")
    return [tuple(row) for row in await found.fetchall()]
