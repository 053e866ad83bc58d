"""The ledger of judged work, append-only, and `standings`: the same, folded per host and task."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import sqlalchemy as sa
from psycopg.rows import class_row

from store.arrays import key_columns
from store.database import Transaction
from store.schema import GROWING, metadata, one_of

JUDGEMENTS = ("agreed", "disagreed", "failed", "unchecked")

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
    # A judgement that is taken back stays, and an entry that says the contrary of it is added.
    sa.Column("reversed", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("reversal_of", sa.BigInteger),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    one_of("judgement", JUDGEMENTS),
    sa.Index("ix_ledger_unfolded", "id", postgresql_where=sa.text("NOT folded")),
    # A result is judged, and credited, once, and once more when that was taken back.
    sa.Index(
        "uq_ledger_once",
        "campaign_id",
        "unit_id",
        "user_id",
        unique=True,
        postgresql_where=sa.text("judgement <> 'failed' AND NOT reversed"),
    ),
    sa.Index(
        "uq_ledger_reversed_once",
        "campaign_id",
        "reversal_of",
        unique=True,
        postgresql_where=sa.text("reversal_of IS NOT NULL"),
    ),
    postgresql_with=GROWING,
)

# Totals are for people; the sums with a half-life in their name, as of `as_of`, are evidence. Work that was
# accepted without another's answer ("unchecked") earns credit and proves nothing. `folded_at` is by the
# database's clock, so that whoever reads what changed since misses nothing.
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
    sa.Column("unchecked", sa.BigInteger, nullable=False),
    sa.Column("credit", sa.Float, nullable=False),
    sa.Column("month_agreed", sa.Float, nullable=False),
    sa.Column("month_disagreed", sa.Float, nullable=False),
    sa.Column("month_failed", sa.Float, nullable=False),
    sa.Column("hour_agreed", sa.Float, nullable=False),
    sa.Column("hour_disagreed", sa.Float, nullable=False),
    sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
    sa.Column("folded_at", sa.DateTime(timezone=True), nullable=False),
    sa.Index("ix_standings_folded_at", "folded_at"),
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
    unchecked: int
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


async def reverse(tx: Transaction, keys: Sequence[tuple[int, int]]) -> None:
    """Takes back what was judged on these locked units, each entry once; failures stay.

    What takes an entry back has its time, so that the two fade together and leave nothing.
    """
    columns = key_columns(keys)
    await tx.raw.execute(REVERSE, columns)


REVERSE = """
WITH taken_back AS (
    UPDATE ledger SET reversed = true WHERE NOT reversed AND id = ANY (ARRAY(
        SELECT l.id
        FROM unnest(%(campaigns)b::int[], %(units)b::bigint[]) AS wanted (campaign_id, unit_id)
        CROSS JOIN LATERAL (
            SELECT id FROM ledger
            WHERE campaign_id = wanted.campaign_id AND unit_id = wanted.unit_id
              AND judgement <> 'failed' AND NOT reversed
            OFFSET 0
        ) AS l))
    RETURNING id, campaign_id, unit_id, user_id, host_id, perspective_id, model, judgement, credit,
              created_at
)
INSERT INTO ledger (campaign_id, unit_id, user_id, host_id, perspective_id, model, judgement, credit,
                    reversed, reversal_of, created_at)
SELECT campaign_id, unit_id, user_id, host_id, perspective_id, model, judgement, 0 - credit, true, id,
       created_at
FROM taken_back
"""


@dataclass(frozen=True, slots=True)
class HalfLives:
    """In seconds: of how far a host is believed, of what tells that it has turned, of recent credit."""

    month: float
    hour: float
    week: float


async def fold(tx: Transaction, limit: int, half_lives: HalfLives) -> int:
    """Adds up to `limit` unfolded entries to standings and credit totals; gives how many.

    Each is added once however many fold at a time. What fades does so by the entries' own times, so that it
    does not matter in which order they are folded. An entry that takes another back counts as one less.
    """
    found = await tx.raw.execute(FOLD, {"limit": limit, **asdict(half_lives)})
    row = await found.fetchone()
    return 0 if row is None else int(row[0])


def fading(since: str, until: str, *half_lives: str) -> str:
    """What is left at `until` of 1 that was at `since`, a column for each half-life; in the end 0."""
    age = f"extract(epoch FROM {until} - {since})::float8"
    lives = {name: f"{age} / %({name})s::float8" for name in half_lives}
    return ", ".join(
        f"CASE WHEN {many} > 100 THEN 0 ELSE power(0.5::float8, {many}) END AS {name}"
        for name, many in lives.items()
    )


def faded(sum_: str, share: str) -> str:
    """What is left of a sum. PostgreSQL refuses a product too small to be told from nothing: here it is 0."""
    return f"CASE WHEN abs({sum_}) < 1e-30 THEN 0 ELSE {sum_} * {share} END"


_LATER = "GREATEST(s.as_of, excluded.as_of)"

# Goes on with a statement whose CTE `entries` holds entries that are in no sum yet (`at`: when they were
# judged, `sign`: -1 where one takes another back), and adds them to standings and credit totals. Rows are
# upserted in the order of their keys: two at once wait for each other and never deadlock.
SUMMED_UP = f"""
dated AS (
    SELECT *, max(at) OVER () AS as_of FROM entries
), faded AS (
    SELECT *, {fading("at", "as_of", "month", "hour", "week")} FROM dated
), sums AS (
    SELECT host_id, campaign_id, perspective_id, model,
           COALESCE(sum(sign) FILTER (WHERE judgement = 'agreed'), 0) AS agreed,
           COALESCE(sum(sign) FILTER (WHERE judgement = 'disagreed'), 0) AS disagreed,
           COALESCE(sum(sign) FILTER (WHERE judgement = 'failed'), 0) AS failed,
           COALESCE(sum(sign) FILTER (WHERE judgement = 'unchecked'), 0) AS unchecked,
           sum(credit) AS credit,
           COALESCE(sum(sign * month) FILTER (WHERE judgement = 'agreed'), 0) AS month_agreed,
           COALESCE(sum(sign * month) FILTER (WHERE judgement = 'disagreed'), 0) AS month_disagreed,
           COALESCE(sum(sign * month) FILTER (WHERE judgement = 'failed'), 0) AS month_failed,
           COALESCE(sum(sign * hour) FILTER (WHERE judgement = 'agreed'), 0) AS hour_agreed,
           COALESCE(sum(sign * hour) FILTER (WHERE judgement = 'disagreed'), 0) AS hour_disagreed,
           max(as_of) AS as_of, now() AS folded_at
    FROM faded GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
), folded AS (
    INSERT INTO standings AS s (host_id, campaign_id, perspective_id, model, agreed, disagreed, failed,
                                unchecked, credit, month_agreed, month_disagreed, month_failed, hour_agreed,
                                hour_disagreed, as_of, folded_at)
    SELECT * FROM sums
    ON CONFLICT (host_id, campaign_id, perspective_id, model) DO UPDATE
    SET agreed = s.agreed + excluded.agreed, disagreed = s.disagreed + excluded.disagreed,
        failed = s.failed + excluded.failed, unchecked = s.unchecked + excluded.unchecked,
        credit = s.credit + excluded.credit,
        (month_agreed, month_disagreed, month_failed, hour_agreed, hour_disagreed) = (
            SELECT {faded("s.month_agreed", "was.month")} + {faded("excluded.month_agreed", "came.month")},
                   {faded("s.month_disagreed", "was.month")}
                   + {faded("excluded.month_disagreed", "came.month")},
                   {faded("s.month_failed", "was.month")} + {faded("excluded.month_failed", "came.month")},
                   {faded("s.hour_agreed", "was.hour")} + {faded("excluded.hour_agreed", "came.hour")},
                   {faded("s.hour_disagreed", "was.hour")} + {faded("excluded.hour_disagreed", "came.hour")}
            FROM (SELECT {fading("s.as_of", _LATER, "month", "hour")}) AS was,
                 (SELECT {fading("excluded.as_of", _LATER, "month", "hour")}) AS came),
        as_of = {_LATER}, folded_at = GREATEST(s.folded_at, excluded.folded_at)
), credited AS (
    SELECT user_id, host_id, at, sum(sign) AS results, sum(credit) AS credit,
           sum(credit * week) AS week_credit, max(as_of) AS as_of
    FROM faded WHERE judgement IN ('agreed', 'unchecked') GROUP BY 1, 2, 3
), owned AS (
    SELECT 'user' AS owner, user_id AS owner_id, results, credit, week_credit, as_of FROM credited
    UNION ALL
    SELECT 'host', host_id, results, credit, week_credit, as_of FROM credited
    UNION ALL
    SELECT 'team', team_id, results, credit, week_credit, as_of FROM credited CROSS JOIN LATERAL (
        SELECT team_id FROM team_members m
        WHERE m.user_id = credited.user_id AND joined_at <= at AND (left_at IS NULL OR left_at > at)
        OFFSET 0
    ) AS m
), totalled AS (
    INSERT INTO credit_totals AS s (owner, owner_id, results, credit, week_credit, as_of)
    SELECT owner, owner_id, sum(results), sum(credit), sum(week_credit), max(as_of)
    FROM owned GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (owner, owner_id) DO UPDATE
    SET results = s.results + excluded.results, credit = s.credit + excluded.credit,
        week_credit = (
            SELECT {faded("s.week_credit", "was.week")} + {faded("excluded.week_credit", "came.week")}
            FROM (SELECT {fading("s.as_of", _LATER, "week")}) AS was,
                 (SELECT {fading("excluded.as_of", _LATER, "week")}) AS came),
        as_of = {_LATER}
)
"""  # noqa: S608 (constants of this module)

FOLD = f"""
WITH picked AS (
    SELECT id FROM ledger WHERE NOT folded ORDER BY id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), entries AS (
    UPDATE ledger l SET folded = true FROM picked p WHERE l.id = p.id
    RETURNING user_id, host_id, campaign_id, perspective_id, model, judgement, credit, created_at AS at,
              CASE WHEN reversal_of IS NULL THEN 1 ELSE -1 END AS sign
), {SUMMED_UP}
SELECT count(*) FROM entries
"""  # noqa: S608 (constants of this module)


@dataclass(frozen=True, slots=True)
class EvidenceRow:
    """A host's evidence in one task with one model, as of a moment."""

    host_id: int
    campaign_id: int
    perspective_id: int
    model: str
    month_agreed: float
    month_disagreed: float
    hour_agreed: float
    hour_disagreed: float
    as_of: datetime
    folded_at: datetime


async def evidence_since(tx: Transaction, since: datetime) -> list[EvidenceRow]:
    """The evidence that was folded at `since` or later, by its index; failures (of no model) left out."""
    cursor = tx.raw.cursor(row_factory=class_row(EvidenceRow))
    await cursor.execute(EVIDENCE_SINCE, {"since": since})
    return await cursor.fetchall()


EVIDENCE_SINCE = """
SELECT host_id, campaign_id, perspective_id, model, month_agreed, month_disagreed, hour_agreed,
       hour_disagreed, as_of, folded_at
FROM standings WHERE folded_at >= %(since)s AND model <> ''
"""


async def standing(tx: Transaction, host_id: int) -> StandingRow:
    """The host's standing over all tasks, folded entries only."""
    cursor = tx.raw.cursor(row_factory=class_row(StandingRow))
    await cursor.execute(STANDING, {"host": host_id})
    row = await cursor.fetchone()
    return row or StandingRow(0, 0, 0, 0, 0.0)


STANDING = """
SELECT COALESCE(sum(agreed), 0)::bigint AS agreed, COALESCE(sum(disagreed), 0)::bigint AS disagreed,
       COALESCE(sum(failed), 0)::bigint AS failed, COALESCE(sum(unchecked), 0)::bigint AS unchecked,
       COALESCE(sum(credit), 0) AS credit
FROM standings WHERE host_id = %(host)s
"""


@dataclass(frozen=True, slots=True)
class TaskStandingRow:
    """How a host's answers to one task with one model fared, and what one that is accepted earns."""

    campaign: str
    perspective: str
    model: str
    agreed: int
    disagreed: int
    unchecked: int
    credit: float
    credit_each: float


async def standing_by_task(tx: Transaction, host_id: int, limit: int) -> list[TaskStandingRow]:
    """The host's standing in up to `limit` tasks, most credit first, folded entries only."""
    cursor = tx.raw.cursor(row_factory=class_row(TaskStandingRow))
    await cursor.execute(STANDING_BY_TASK, {"host": host_id, "limit": limit})
    return await cursor.fetchall()


STANDING_BY_TASK = """
SELECT c.name AS campaign, t.name AS perspective, s.model, s.agreed, s.disagreed, s.unchecked, s.credit,
       t.credit AS credit_each
FROM standings s
JOIN campaigns c ON c.id = s.campaign_id
JOIN tasks t ON t.campaign_id = s.campaign_id AND t.perspective_id = s.perspective_id
WHERE s.host_id = %(host)s AND s.model <> ''
ORDER BY s.credit DESC, s.campaign_id, s.perspective_id, s.model LIMIT %(limit)s
"""


async def total_credit(tx: Transaction) -> float:
    """All credit that was ever given, without reading what was folded again."""
    found = await tx.raw.execute(TOTAL_CREDIT)
    row = await found.fetchone()
    return 0.0 if row is None else float(row[0])


TOTAL_CREDIT = """
SELECT COALESCE((SELECT sum(credit) FROM credit_totals WHERE owner = 'user'), 0)
     + COALESCE((SELECT sum(credit) FROM ledger WHERE NOT folded), 0)
"""
