"""Replicas by their full place on the shelves: put there, found, moved, taken off."""

from collections.abc import Sequence
from dataclasses import dataclass

from store.arrays import key_columns
from store.database import Transaction


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
        tx.tell_here()


PUT = """
INSERT INTO ready (campaign_id, perspective_id, tier, lane, block, shuffle, unit_id, fresh)
SELECT r.*, false
FROM unnest(%(campaign_id)b::int[], %(perspective_id)b::smallint[], %(tier)b::smallint[],
            %(lane)b::smallint[], %(block)b::int[], %(shuffle)b::int[], %(unit_id)b::bigint[]) AS r
ON CONFLICT DO NOTHING
"""


async def lanes_of(tx: Transaction, keys: Sequence[tuple[int, int]]) -> list[tuple[int, int, int, bool]]:
    """(campaign id, unit id, lane, fresh) of the replicas of these units that wait on their shelves."""
    columns = key_columns(keys)
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


async def move(tx: Transaction, moves: Sequence[tuple[Replica, int]]) -> None:
    """Moves whatever waits of these locked units, each given by any lane, into another block.

    A claim may be taking a replica meanwhile, and put the next lane where the first was: then a row that
    was seen is gone when its turn comes, and all is looked at again.
    """
    columns: dict[str, object] = {
        name: [getattr(replica, name) for replica, _ in moves] for name in Replica.__slots__ if name != "lane"
    }
    seen, moved = len(moves), 0
    while seen != moved:
        found = await tx.raw.execute(MOVE, {**columns, "to": [block for _, block in moves]})
        [(seen, moved)] = await found.fetchall()


MOVE = """
WITH seen AS (
    SELECT r.place, m.destination
    FROM unnest(%(campaign_id)b::int[], %(perspective_id)b::smallint[], %(tier)b::smallint[],
                %(block)b::int[], %(shuffle)b::int[], %(unit_id)b::bigint[], %(to)b::int[])
        AS m (campaign_id, perspective_id, tier, block, shuffle, unit_id, destination)
    CROSS JOIN LATERAL (
        SELECT ready.ctid AS place FROM ready
        WHERE campaign_id = m.campaign_id AND perspective_id = m.perspective_id AND tier = m.tier
          AND lane = ANY (ARRAY(SELECT generate_series(0, 31)))
          AND block = m.block AND shuffle = m.shuffle AND unit_id = m.unit_id
        OFFSET 0
    ) AS r
), moved AS (
    UPDATE ready SET block = seen.destination FROM seen WHERE ready.ctid = seen.place RETURNING 1
)
SELECT (SELECT count(*) FROM seen), (SELECT count(*) FROM moved)
"""
