"""Units, and `settled`: those whose verdict is written but not yet booked (published, credited)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from psycopg.types.json import Jsonb
from sqlalchemy.dialects.postgresql import JSONB

from store.arrays import key_columns
from store.database import Transaction, rows_of
from store.schema import GROWING, QUEUE, metadata, one_of

KINDS = ("caption", "synthesis", "revision", "validate", "embed")
STATES = ("open", "accepted", "exhausted", "cancelled")

units = sa.Table(
    "units",
    metadata,
    sa.Column("campaign_id", sa.ForeignKey("campaigns.id"), primary_key=True),
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("perspective_id", sa.SmallInteger, nullable=False),
    sa.Column("content_id", sa.ForeignKey("contents.id"), nullable=False),
    sa.Column("task_version", sa.SmallInteger, nullable=False),
    sa.Column("ordinal", sa.SmallInteger, nullable=False),
    sa.Column("tier", sa.SmallInteger, nullable=False),
    sa.Column("block", sa.Integer, nullable=False),
    sa.Column("shuffle", sa.Integer, nullable=False),
    sa.Column("image_hash", sa.LargeBinary, nullable=False),
    sa.Column("params", sa.Text, nullable=False, server_default=""),
    sa.Column("signature", sa.LargeBinary, nullable=False),
    sa.Column("state", sa.Text, nullable=False, server_default="open"),
    sa.Column("canonical_user_id", sa.BigInteger),
    sa.Column("verdict", JSONB),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("settled_at", sa.DateTime(timezone=True)),
    # Voices that it may have beyond its policy's cap: as many as were kept when it was reopened.
    sa.Column("extra_voices", sa.SmallInteger, nullable=False, server_default="0"),
    sa.UniqueConstraint(
        "campaign_id", "content_id", "kind", "perspective_id", "task_version", "ordinal", name="uq_units_key"
    ),
    sa.ForeignKeyConstraint(
        ("campaign_id", "perspective_id"), ("tasks.campaign_id", "tasks.perspective_id"), name="fk_units_task"
    ),
    one_of("kind", KINDS),
    one_of("state", STATES),
    sa.CheckConstraint("(state = 'open') = (settled_at IS NULL)", name="settled_at"),
    sa.CheckConstraint("(state = 'accepted') = (canonical_user_id IS NOT NULL)", name="canonical"),
    # Settling must stay a heap-only update: no index on a column that it changes, and room on the page for
    # every row's verdict: at 40 % of the page, 97 % of them are; at 85 %, 43 % (40,000 units, measured).
    postgresql_with={**GROWING, "fillfactor": "40"},
)
unit_ids = sa.Sequence("unit_ids", metadata=metadata)

settled = sa.Table(
    "settled",
    metadata,
    sa.Column("campaign_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("unit_id", sa.BigInteger, primary_key=True, autoincrement=False),
    postgresql_with=QUEUE,
)


@dataclass(frozen=True, slots=True)
class NewUnit:
    """A unit about to be born; `signature` is the coordinator's over `protos.signing.unit`."""

    campaign_id: int
    id: int
    kind: str
    perspective_id: int
    content_id: int
    task_version: int
    ordinal: int
    tier: int
    block: int
    shuffle: int
    image_hash: bytes
    params: str
    signature: bytes
    created_at: datetime


class LockedUnit(NamedTuple):
    """A unit whose row this transaction has locked."""

    campaign_id: int
    id: int
    perspective_id: int
    content_id: int
    tier: int
    block: int
    shuffle: int
    state: str
    canonical_user_id: int | None
    extra_voices: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a unit ended: the state, the canonical voter of an accepted one, and the verdict to show people."""

    campaign_id: int
    unit_id: int
    state: str
    canonical_user_id: int | None
    verdict: dict[str, Any]


async def reserve_ids(tx: Transaction, count: int) -> list[int]:
    """Ids for units about to be born; one that is not used is lost, which harms nothing."""
    rows = await tx.sql.execute(
        sa.text("SELECT nextval('unit_ids') FROM generate_series(1, :count)"), {"count": count}
    )
    return [int(row[0]) for row in rows]


async def add(tx: Transaction, rows: Sequence[NewUnit]) -> list[int]:
    """Births units with lane 0 on its shelf, and gives the ids of those that were new.

    A unit whose key exists already is left as it is, so that an import can run again.
    """
    columns = {name: [getattr(row, name) for row in rows] for name in NewUnit.__slots__}
    found = await tx.raw.execute(BIRTH, columns)
    return [int(row[0]) for row in await found.fetchall()]


BIRTH = """
WITH born AS (
    INSERT INTO units (campaign_id, id, kind, perspective_id, content_id, task_version, ordinal, tier,
                       block, shuffle, image_hash, params, signature, created_at)
    SELECT * FROM unnest(%(campaign_id)b::int[], %(id)b::bigint[], %(kind)b::text[],
                         %(perspective_id)b::smallint[], %(content_id)b::bigint[],
                         %(task_version)b::smallint[], %(ordinal)b::smallint[], %(tier)b::smallint[],
                         %(block)b::int[], %(shuffle)b::int[], %(image_hash)b::bytea[], %(params)b::text[],
                         %(signature)b::bytea[], %(created_at)b::timestamptz[])
    ON CONFLICT DO NOTHING
    RETURNING campaign_id, perspective_id, tier, block, shuffle, id
), shelved AS (
    INSERT INTO ready (campaign_id, perspective_id, tier, lane, block, shuffle, unit_id)
    SELECT campaign_id, perspective_id, tier, 0, block, shuffle, id FROM born
)
SELECT id FROM born
"""


async def lock(tx: Transaction, keys: Sequence[tuple[int, int]]) -> list[LockedUnit]:
    """Locks units in id order, so that two returns over the same units wait and never deadlock."""
    cursor = tx.raw.cursor(row_factory=rows_of(LockedUnit))
    await cursor.execute(LOCK, key_columns(keys))
    return await cursor.fetchall()


LOCK = """
SELECT u.campaign_id, u.id, u.perspective_id, u.content_id, u.tier, u.block, u.shuffle, u.state,
       u.canonical_user_id, u.extra_voices
FROM (
    SELECT * FROM unnest(%(campaigns)b::int[], %(units)b::bigint[]) AS keys (campaign_id, unit_id)
    ORDER BY campaign_id, unit_id
) AS wanted
CROSS JOIN LATERAL (
    SELECT * FROM units WHERE campaign_id = wanted.campaign_id AND id = wanted.unit_id
    OFFSET 0 FOR NO KEY UPDATE
) AS u
"""


async def facts(tx: Transaction, keys: Sequence[tuple[int, int]]) -> dict[tuple[int, int], tuple[int, int]]:
    """(perspective id, content id) of each unit that exists: what never changes, read without a lock."""
    found = await tx.raw.execute(FACTS, key_columns(keys))
    return {(row[0], row[1]): (row[2], row[3]) for row in await found.fetchall()}


FACTS = """
SELECT u.campaign_id, u.id, u.perspective_id, u.content_id
FROM unnest(%(campaigns)b::int[], %(units)b::bigint[]) AS wanted (campaign_id, unit_id)
CROSS JOIN LATERAL (
    SELECT * FROM units WHERE campaign_id = wanted.campaign_id AND id = wanted.unit_id OFFSET 0
) AS u
"""


async def set_blocks(tx: Transaction, blocks: Sequence[tuple[int, int, int]]) -> None:
    """Puts locked units, by campaign and id, into other blocks."""
    columns = {
        "campaigns": [one[0] for one in blocks],
        "units": [one[1] for one in blocks],
        "blocks": [one[2] for one in blocks],
    }
    await tx.raw.execute(SET_BLOCKS, columns)


SET_BLOCKS = """
UPDATE units u SET block = moved.block
FROM unnest(%(campaigns)b::int[], %(units)b::bigint[], %(blocks)b::int[])
    AS moved (campaign_id, unit_id, block)
WHERE u.campaign_id = moved.campaign_id AND u.id = moved.unit_id
"""


async def settle(tx: Transaction, settlements: Sequence[Settlement], now: datetime) -> None:
    """Writes verdicts of locked, open units, clears their unsent replicas and queues their booking."""
    if not settlements:
        return
    columns = {
        **key_columns([(s.campaign_id, s.unit_id) for s in settlements]),
        "states": [s.state for s in settlements],
        "canonicals": [s.canonical_user_id for s in settlements],
        "verdicts": [Jsonb(s.verdict) for s in settlements],
        "now": now,
    }
    await tx.raw.execute(SETTLE, columns)


SETTLE = """
WITH verdicts AS (
    SELECT * FROM unnest(%(campaigns)b::int[], %(units)b::bigint[], %(states)b::text[],
                         %(canonicals)b::bigint[], %(verdicts)b::jsonb[])
        AS v (campaign_id, unit_id, state, canonical, verdict)
), closed AS (
    UPDATE units u SET state = v.state, canonical_user_id = v.canonical, verdict = v.verdict,
                       settled_at = %(now)s
    FROM verdicts v
    WHERE u.campaign_id = v.campaign_id AND u.id = v.unit_id AND u.state = 'open'
    RETURNING u.campaign_id, u.perspective_id, u.tier, u.block, u.shuffle, u.id
), cleared AS (
    DELETE FROM ready WHERE ctid = ANY (ARRAY(
        SELECT spare.ctid FROM closed c CROSS JOIN LATERAL (
            SELECT r.ctid FROM ready r
            WHERE r.campaign_id = c.campaign_id AND r.perspective_id = c.perspective_id AND r.tier = c.tier
              AND r.lane = ANY (ARRAY(SELECT generate_series(0, 31)))
              AND r.block = c.block AND r.shuffle = c.shuffle AND r.unit_id = c.id
            OFFSET 0
        ) AS spare))
)
INSERT INTO settled (campaign_id, unit_id) SELECT campaign_id, id FROM closed
"""


async def count_by_state(tx: Transaction) -> list[tuple[int, str, str, int]]:
    """(campaign id, perspective name, state, units) for people; it reads the whole table."""
    found = await tx.raw.execute(COUNT_BY_STATE)
    return [tuple(row) for row in await found.fetchall()]


COUNT_BY_STATE = """
SELECT u.campaign_id, t.name, u.state, count(*)
FROM units u JOIN tasks t USING (campaign_id, perspective_id)
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""


async def count_exhausted_by_reason(tx: Transaction) -> list[tuple[int, str, int]]:
    """(campaign id, reason, units) of units that ended without an answer."""
    found = await tx.raw.execute(
        "SELECT campaign_id, verdict->>'reason', count(*) FROM units WHERE state = 'exhausted' GROUP BY 1, 2"
    )
    return [tuple(row) for row in await found.fetchall()]


async def accepted_answers(tx: Transaction, campaign_id: int) -> list[tuple[str, str, dict[str, Any]]]:
    """(file name, perspective name, canonical answer) of every accepted unit of a campaign."""
    found = await tx.raw.execute(ACCEPTED_ANSWERS, {"campaign": campaign_id})
    return [tuple(row) for row in await found.fetchall()]


ACCEPTED_ANSWERS = """
SELECT c.filename, t.name, COALESCE(r.answer, convert_from(r.body, 'UTF8')::jsonb)
FROM units u
JOIN contents c ON c.id = u.content_id
JOIN tasks t ON t.campaign_id = u.campaign_id AND t.perspective_id = u.perspective_id
JOIN results r ON r.campaign_id = u.campaign_id AND r.unit_id = u.id AND r.user_id = u.canonical_user_id
WHERE u.campaign_id = %(campaign)s AND u.state = 'accepted'
ORDER BY u.id
"""
