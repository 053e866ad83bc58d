"""Results, append-only, and `returns`: the signed batches that brought them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from psycopg.types.json import Jsonb
from sqlalchemy.dialects.postgresql import JSONB

from store.arrays import Integers, key_columns
from store.database import Transaction, rows_of
from store.schema import GROWING, metadata

returns = sa.Table(
    "returns",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("host_id", sa.BigInteger, nullable=False),
    sa.Column("hashes", sa.LargeBinary, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
    sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint("octet_length(signature) = 64", name="signature"),
    postgresql_with=GROWING,
)

return_ids = sa.Sequence("return_ids", metadata=metadata)

# `body` is what the host signed; `answer` is what we read in it, kept only where the two differ.
results = sa.Table(
    "results",
    metadata,
    sa.Column("campaign_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("unit_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("user_id", sa.BigInteger, primary_key=True, autoincrement=False),
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
    postgresql_with=GROWING,
)


class NewResult(NamedTuple):
    """One answer about to be stored; `return_id` is that of its batch."""

    campaign_id: int
    unit_id: int
    user_id: int
    lane: int
    host_id: int
    hash: bytes
    body: bytes
    answer: dict[str, Any] | None
    model: str
    endpoint: str
    seed: int
    elapsed_ms: int
    late: bool
    leased_at: datetime | None
    return_id: int


INTEGERS = ("campaign_id", "unit_id", "user_id", "lane", "host_id", "seed", "elapsed_ms", "return_id")


@dataclass(frozen=True, slots=True)
class NewReturn:
    """A signed batch about to be kept: `hashes` has 32 bytes a result, in order."""

    id: int
    host_id: int
    hashes: bytes
    signature: bytes


class VoiceRow(NamedTuple):
    """A stored result, without its answer."""

    campaign_id: int
    unit_id: int
    user_id: int
    host_id: int
    lane: int
    hash: bytes
    model: str
    late: bool


async def reserve_return_ids(tx: Transaction, count: int) -> list[int]:
    """Ids for batches about to come; one that is not used is lost, which harms nothing."""
    found = await tx.raw.execute("SELECT nextval('return_ids') FROM generate_series(1, %s)", (count,))
    return [int(row[0]) for row in await found.fetchall()]


async def add(
    tx: Transaction, batches: Sequence[NewReturn], rows: Sequence[NewResult], now: datetime
) -> None:
    """Stores answers and their batches; a second answer of a user for a unit fails the transaction."""
    if not rows:
        return
    kept = {name: [getattr(batch, name) for batch in batches] for name in NewReturn.__slots__}
    await tx.raw.execute(ADD_RETURNS, {**kept, "now": now})
    columns: dict[str, Any] = dict(zip(NewResult._fields, map(list, zip(*rows, strict=True)), strict=True))
    for name in INTEGERS:
        columns[name] = Integers(columns[name])
    columns["answer"] = [None if answer is None else Jsonb(answer) for answer in columns["answer"]]
    await tx.raw.execute(ADD, {**columns, "now": now})


ADD_RETURNS = """
INSERT INTO returns (id, host_id, hashes, signature, received_at)
SELECT b.*, %(now)s
FROM unnest(%(id)b::bigint[], %(host_id)b::bigint[], %(hashes)b::bytea[], %(signature)b::bytea[]) AS b
"""

ADD = """
INSERT INTO results (campaign_id, unit_id, user_id, lane, host_id, hash, body, answer, model, endpoint, seed,
                     elapsed_ms, late, leased_at, return_id, returned_at)
SELECT r.*, %(now)s
FROM unnest(%(campaign_id)b::int[], %(unit_id)b::bigint[], %(user_id)b::bigint[], %(lane)b::smallint[],
            %(host_id)b::bigint[], %(hash)b::bytea[], %(body)b::bytea[], %(answer)b::jsonb[],
            %(model)b::text[], %(endpoint)b::text[], %(seed)b::bigint[], %(elapsed_ms)b::int[],
            %(late)b::bool[], %(leased_at)b::timestamptz[], %(return_id)b::bigint[]) AS r
"""


async def of_units(tx: Transaction, keys: Sequence[tuple[int, int]]) -> list[VoiceRow]:
    """Every result of these units, in the order in which they came."""
    cursor = tx.raw.cursor(row_factory=rows_of(VoiceRow))
    columns = key_columns(keys)
    await cursor.execute(OF_UNITS, columns)
    return await cursor.fetchall()


OF_UNITS = """
SELECT r.campaign_id, r.unit_id, r.user_id, r.host_id, r.lane, r.hash, r.model, r.late
FROM unnest(%(campaigns)b::int[], %(units)b::bigint[]) AS wanted (campaign_id, unit_id)
CROSS JOIN LATERAL (
    SELECT * FROM results WHERE campaign_id = wanted.campaign_id AND unit_id = wanted.unit_id OFFSET 0
) AS r
ORDER BY r.campaign_id, r.unit_id, r.returned_at, r.user_id
"""


async def answers(tx: Transaction, voices: Sequence[VoiceRow]) -> dict[bytes, dict[str, Any]]:
    """The answers of these results, by hash."""
    columns = {
        "campaigns": [voice.campaign_id for voice in voices],
        "units": [voice.unit_id for voice in voices],
        "users": [voice.user_id for voice in voices],
    }
    found = await tx.raw.execute(ANSWERS, columns)
    return dict(await found.fetchall())


ANSWERS = """
SELECT r.hash, COALESCE(r.answer, convert_from(r.body, 'UTF8')::jsonb)
FROM unnest(%(campaigns)b::int[], %(units)b::bigint[], %(users)b::bigint[])
    AS w (campaign_id, unit_id, user_id)
CROSS JOIN LATERAL (
    SELECT * FROM results WHERE campaign_id = w.campaign_id AND unit_id = w.unit_id AND user_id = w.user_id
    OFFSET 0
) AS r
"""


async def recent_answers(
    tx: Transaction, campaign_id: int, perspective_id: int, limit: int
) -> list[tuple[int, dict[str, Any]]]:
    """(content id, answer) of up to `limit` units settled or answered: a background for the cross-check."""
    found = await tx.raw.execute(
        RECENT_ANSWERS, {"campaign": campaign_id, "perspective": perspective_id, "limit": limit}
    )
    return [(content_id, answer) for content_id, answer in await found.fetchall()]


RECENT_ANSWERS = """
SELECT u.content_id, COALESCE(r.answer, convert_from(r.body, 'UTF8')::jsonb)
FROM (SELECT * FROM results WHERE campaign_id = %(campaign)s ORDER BY unit_id DESC LIMIT %(limit)s * 8) AS r
JOIN units u ON u.campaign_id = r.campaign_id AND u.id = r.unit_id AND u.perspective_id = %(perspective)s
LIMIT %(limit)s
"""


async def usual_turnaround(tx: Transaction, campaign_id: int) -> timedelta | None:
    """The median time from lease to return of the campaign's latest units; None where nothing came back."""
    found = await tx.raw.execute(USUAL_TURNAROUND, {"campaign": campaign_id})
    [(usual,)] = await found.fetchall()
    return usual if isinstance(usual, timedelta) else None


USUAL_TURNAROUND = """
SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY returned_at - leased_at)
FROM (SELECT * FROM results WHERE campaign_id = %(campaign)s ORDER BY unit_id DESC LIMIT 200) AS latest
"""


async def count_waiting(tx: Transaction, host_id: int) -> int:
    """How many results of this host are on units that are still open."""
    found = await tx.raw.execute(OPEN_OF_HOST, {"host": host_id})
    row = await found.fetchone()
    return 0 if row is None else int(row[0])


OPEN_OF_HOST = """
SELECT count(*) FROM units u JOIN results r ON r.campaign_id = u.campaign_id AND r.unit_id = u.id
WHERE u.state = 'open' AND r.host_id = %(host)s
"""


async def count(tx: Transaction) -> list[tuple[int, int]]:
    """(campaign id, results) for people; it reads the whole index."""
    found = await tx.raw.execute("SELECT campaign_id, count(*) FROM results GROUP BY 1")
    return [tuple(row) for row in await found.fetchall()]


async def count_by_host(tx: Transaction, campaign_id: int) -> list[tuple[str, int, int, int, int]]:
    """(host name, results, agreed, disagreed and said of over two units, disagreed otherwise)."""
    found = await tx.raw.execute(COUNT_BY_HOST, {"campaign": campaign_id})
    return [tuple(row) for row in await found.fetchall()]


COUNT_BY_HOST = """
SELECT h.name, count(*), count(*) FILTER (WHERE r.judgement = 'agreed'),
       count(*) FILTER (WHERE r.judgement = 'disagreed' AND r.said > 2),
       count(*) FILTER (WHERE r.judgement = 'disagreed' AND r.said <= 2)
FROM (
    SELECT r.host_id, l.judgement, count(*) OVER (PARTITION BY r.host_id, r.body) AS said
    FROM results r
    LEFT JOIN ledger l ON l.campaign_id = r.campaign_id AND l.unit_id = r.unit_id AND l.user_id = r.user_id
                      AND l.judgement <> 'failed' AND NOT l.reversed
    WHERE r.campaign_id = %(campaign)s
) AS r
JOIN hosts h ON h.id = r.host_id
GROUP BY h.name ORDER BY h.name
"""


async def units_by_host(tx: Transaction, campaign_id: int) -> list[tuple[int, int, str]]:
    """(campaign id, unit id, host name) of every result of a campaign."""
    found = await tx.raw.execute(
        "SELECT r.campaign_id, r.unit_id, h.name FROM results r JOIN hosts h ON h.id = r.host_id "
        "WHERE r.campaign_id = %(campaign)s",
        {"campaign": campaign_id},
    )
    return [tuple(row) for row in await found.fetchall()]
