"""The ledger of judged work, append-only, and `standings`: the same, folded per host and task."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from psycopg.rows import class_row

from store.database import Transaction
from store.schema import metadata, one_of

JUDGEMENTS = ("agreed", "disagreed", "failed")

ledger = sa.Table(
    "ledger",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("campaign_id", sa.Integer, nullable=False),
    sa.Column("unit_id", sa.BigInteger, nullable=False),
    sa.Column("user_id", sa.BigInteger, nullable=False),
    sa.Column("host_id", sa.BigInteger, nullable=False),
    sa.Column("perspective_id", sa.SmallInteger, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("judgement", sa.Text, nullable=False),
    sa.Column("credit", sa.Float, nullable=False),
    sa.Column("folded", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    one_of("judgement", JUDGEMENTS),
    sa.Index("ix_ledger_unfolded", "id", postgresql_where=sa.text("NOT folded")),
    # A result is judged, and credited, once.
    sa.Index(
        "uq_ledger_once",
        "campaign_id",
        "unit_id",
        "user_id",
        unique=True,
        postgresql_where=sa.text("judgement <> 'failed'"),
    ),
)

standings = sa.Table(
    "standings",
    metadata,
    sa.Column("host_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("campaign_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("perspective_id", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("agreed", sa.BigInteger, nullable=False),
    sa.Column("disagreed", sa.BigInteger, nullable=False),
    sa.Column("failed", sa.BigInteger, nullable=False),
    sa.Column("credit", sa.Float, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One judged result or failure; `credit` in the published unit of the task."""

    campaign_id: int
    unit_id: int
    user_id: int
    host_id: int
    perspective_id: int
    model: str
    judgement: str
    credit: float


@dataclass(frozen=True, slots=True)
class StandingRow:
    """A host's folded evidence over all its tasks."""

    agreed: int
    disagreed: int
    failed: int
    credit: float


async def add(tx: Transaction, entries: Sequence[Entry], now: datetime) -> None:
    """Appends entries; a result that is in the ledger already is not credited again."""
    if entries:
        columns: dict[str, object] = {name: [getattr(e, name) for e in entries] for name in Entry.__slots__}
        await tx.raw.execute(ADD, {**columns, "now": now})


ADD = """
INSERT INTO ledger (campaign_id, unit_id, user_id, host_id, perspective_id, model, judgement, credit,
                    created_at)
SELECT e.*, %(now)s
FROM unnest(%(campaign_id)b::int[], %(unit_id)b::bigint[], %(user_id)b::bigint[], %(host_id)b::bigint[],
            %(perspective_id)b::smallint[], %(model)b::text[], %(judgement)b::text[],
            %(credit)b::float8[]) AS e
ON CONFLICT DO NOTHING
"""


async def fold(tx: Transaction, limit: int) -> int:
    """Adds up to `limit` unfolded entries to the standings, each once however many fold at a time."""
    found = await tx.raw.execute(FOLD, {"limit": limit})
    row = await found.fetchone()
    return 0 if row is None else int(row[0])


FOLD = """
WITH picked AS (
    SELECT id FROM ledger WHERE NOT folded ORDER BY id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), taken AS (
    UPDATE ledger l SET folded = true FROM picked p WHERE l.id = p.id
    RETURNING l.host_id, l.campaign_id, l.perspective_id, l.model, l.judgement, l.credit
), sums AS (
    SELECT host_id, campaign_id, perspective_id, model,
           count(*) FILTER (WHERE judgement = 'agreed') AS agreed,
           count(*) FILTER (WHERE judgement = 'disagreed') AS disagreed,
           count(*) FILTER (WHERE judgement = 'failed') AS failed, sum(credit) AS credit
    FROM taken GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
), folded AS (
    INSERT INTO standings AS s (host_id, campaign_id, perspective_id, model, agreed, disagreed, failed,
                                credit)
    SELECT * FROM sums
    ON CONFLICT (host_id, campaign_id, perspective_id, model) DO UPDATE
    SET agreed = s.agreed + excluded.agreed, disagreed = s.disagreed + excluded.disagreed,
        failed = s.failed + excluded.failed, credit = s.credit + excluded.credit
)
SELECT count(*) FROM taken
"""


async def standing(tx: Transaction, host_id: int) -> StandingRow:
    """The host's standing over all tasks, folded entries only."""
    cursor = tx.raw.cursor(row_factory=class_row(StandingRow))
    await cursor.execute(STANDING, {"host": host_id})
    row = await cursor.fetchone()
    return row or StandingRow(0, 0, 0, 0.0)


STANDING = """
SELECT COALESCE(sum(agreed), 0)::bigint AS agreed, COALESCE(sum(disagreed), 0)::bigint AS disagreed,
       COALESCE(sum(failed), 0)::bigint AS failed, COALESCE(sum(credit), 0) AS credit
FROM standings WHERE host_id = %(host)s
"""


async def total_credit(tx: Transaction) -> float:
    """All credit that was ever given."""
    found = await tx.raw.execute("SELECT COALESCE(sum(credit), 0) FROM ledger")
    row = await found.fetchone()
    return 0.0 if row is None else float(row[0])
