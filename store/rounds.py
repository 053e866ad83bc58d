"""Rounds: a unit's life up to an end that was reopened; `past_results` has the answers left behind in it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from psycopg.rows import class_row
from sqlalchemy.dialects.postgresql import JSONB

from store import annotations, ledger
from store.arrays import key_columns
from store.database import Transaction
from store.schema import metadata, one_of
from store.units import STATES

ENDS = tuple(state for state in STATES if state != "open")

past_rounds = sa.Table(
    "past_rounds",
    metadata,
    sa.Column("campaign_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("unit_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("round", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("canonical_user_id", sa.BigInteger),
    sa.Column("verdict", JSONB, nullable=False),
    sa.Column("settled_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("reopened_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    one_of("state", ENDS),
)

past_results = sa.Table(
    "past_results",
    metadata,
    sa.Column("campaign_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("unit_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("user_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("round", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("lane", sa.SmallInteger, nullable=False),
    sa.Column("host_id", sa.BigInteger, nullable=False),
    sa.Column("return_id", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("answer", JSONB),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("endpoint", sa.Text, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("elapsed_ms", sa.Integer, nullable=False),
    sa.Column("late", sa.Boolean, nullable=False),
    sa.Column("leased_at", sa.DateTime(timezone=True)),
    sa.Column("returned_at", sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint("octet_length(hash) = 32", name="hash"),
)


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer that counts as a voice in the new round."""

    campaign_id: int
    unit_id: int
    lane: int


async def reopen(
    tx: Transaction, keys: Sequence[tuple[int, int]], reason: str, now: datetime, *, keep_answers: bool
) -> list[Kept]:
    """Begins a new round of these locked, closed units, but for their replicas; gives the kept answers.

    What stood is withdrawn, what was judged is taken back, failures and attempts are forgiven. Answers are
    kept as voices, or left behind in the round that ends, so that their users may answer again.
    """
    columns = {**key_columns(keys), "now": now}
    # First: it waits for whoever books these units now, so that all that follows sees what was booked.
    await tx.raw.execute(UNBOOK, columns)
    await annotations.withdraw(tx, keys, now)
    await ledger.reverse(tx, keys)
    await tx.raw.execute(FORGIVE, columns)
    await tx.raw.execute(END_ROUND, {**columns, "reason": reason})
    kept: list[Kept] = []
    if keep_answers:
        cursor = tx.raw.cursor(row_factory=class_row(Kept))
        await cursor.execute(KEEP_ANSWERS, columns)
        kept = await cursor.fetchall()
    else:
        await tx.raw.execute(LEAVE_ANSWERS, columns)
    voices = Counter((one.campaign_id, one.unit_id) for one in kept)
    await tx.raw.execute(REOPEN, {**columns, "voices": [voices[key] for key in keys]})
    return kept


UNBOOK = """
DELETE FROM settled WHERE ctid = ANY (ARRAY(
    SELECT s.ctid
    FROM unnest(%(campaigns)b::int[], %(units)b::bigint[]) AS wanted (campaign_id, unit_id)
    CROSS JOIN LATERAL (
        SELECT settled.ctid FROM settled
        WHERE campaign_id = wanted.campaign_id AND unit_id = wanted.unit_id
        OFFSET 0
    ) AS s))
"""

FORGIVE = """
UPDATE past_leases SET forgiven = true WHERE id = ANY (ARRAY(
    SELECT p.id
    FROM unnest(%(campaigns)b::int[], %(units)b::bigint[]) AS wanted (campaign_id, unit_id)
    CROSS JOIN LATERAL (
        SELECT id FROM past_leases
        WHERE campaign_id = wanted.campaign_id AND unit_id = wanted.unit_id AND NOT forgiven
        OFFSET 0
    ) AS p))
"""

END_ROUND = """
INSERT INTO past_rounds (campaign_id, unit_id, round, state, canonical_user_id, verdict, settled_at,
                         reopened_at, reason)
SELECT u.campaign_id, u.id,
       1 + COALESCE((SELECT max(round) FROM past_rounds
                     WHERE campaign_id = u.campaign_id AND unit_id = u.id), 0),
       u.state, u.canonical_user_id, u.verdict, u.settled_at, %(now)s, %(reason)s
FROM unnest(%(campaigns)b::int[], %(units)b::bigint[]) AS wanted (campaign_id, unit_id)
CROSS JOIN LATERAL (
    SELECT * FROM units WHERE campaign_id = wanted.campaign_id AND id = wanted.unit_id OFFSET 0
) AS u
"""

# A place is unique in one partition alone, and results may be partitioned: the key is looked at again.
KEEP_ANSWERS = """
UPDATE results SET late = false WHERE ctid = ANY (ARRAY(
    SELECT r.ctid
    FROM unnest(%(campaigns)b::int[], %(units)b::bigint[]) AS wanted (campaign_id, unit_id)
    CROSS JOIN LATERAL (
        SELECT results.ctid FROM results
        WHERE campaign_id = wanted.campaign_id AND unit_id = wanted.unit_id
        OFFSET 0
    ) AS r))
  AND ((campaign_id, unit_id) IN (SELECT * FROM unnest(%(campaigns)b::int[], %(units)b::bigint[]))) IS TRUE
RETURNING campaign_id, unit_id, lane
"""

LEAVE_ANSWERS = """
WITH left_behind AS (
    DELETE FROM results WHERE ctid = ANY (ARRAY(
        SELECT r.ctid
        FROM unnest(%(campaigns)b::int[], %(units)b::bigint[]) AS wanted (campaign_id, unit_id)
        CROSS JOIN LATERAL (
            SELECT results.ctid FROM results
            WHERE campaign_id = wanted.campaign_id AND unit_id = wanted.unit_id
            OFFSET 0
        ) AS r))
      AND ((campaign_id, unit_id)
           IN (SELECT * FROM unnest(%(campaigns)b::int[], %(units)b::bigint[]))) IS TRUE
    RETURNING *
)
INSERT INTO past_results (campaign_id, unit_id, user_id, round, lane, host_id, return_id, hash, body, answer,
                          model, endpoint, seed, elapsed_ms, late, leased_at, returned_at)
SELECT l.campaign_id, l.unit_id, l.user_id,
       (SELECT max(round) FROM past_rounds WHERE campaign_id = l.campaign_id AND unit_id = l.unit_id),
       l.lane, l.host_id, l.return_id, l.hash, l.body, l.answer, l.model, l.endpoint, l.seed, l.elapsed_ms,
       l.late, l.leased_at, l.returned_at
FROM left_behind l
"""

REOPEN = """
UPDATE units u SET state = 'open', canonical_user_id = NULL, verdict = NULL, settled_at = NULL,
                   extra_voices = reopened.voices
FROM unnest(%(campaigns)b::int[], %(units)b::bigint[], %(voices)b::smallint[])
    AS reopened (campaign_id, unit_id, voices)
WHERE u.campaign_id = reopened.campaign_id AND u.id = reopened.unit_id
"""


async def left_behind(
    tx: Transaction, answers: Sequence[tuple[tuple[int, int], int, bytes]]
) -> set[tuple[tuple[int, int], int, bytes]]:
    """Those of these (unit, user id, hash of a result) that a round which ended has."""
    columns = {
        "campaigns": [key[0] for key, _, _ in answers],
        "units": [key[1] for key, _, _ in answers],
        "users": [user_id for _, user_id, _ in answers],
        "hashes": [digest for _, _, digest in answers],
    }
    found = await tx.raw.execute(LEFT_BEHIND, columns)
    return {((row[0], row[1]), row[2], bytes(row[3])) for row in await found.fetchall()}


LEFT_BEHIND = """
SELECT r.campaign_id, r.unit_id, r.user_id, r.hash
FROM unnest(%(campaigns)b::int[], %(units)b::bigint[], %(users)b::bigint[], %(hashes)b::bytea[])
    AS sent (campaign_id, unit_id, user_id, hash)
CROSS JOIN LATERAL (
    SELECT * FROM past_results
    WHERE campaign_id = sent.campaign_id AND unit_id = sent.unit_id AND user_id = sent.user_id
      AND hash = sent.hash
    OFFSET 0
) AS r
"""
