"""Credit added up: `credit_totals`, of each user, host and team. Folding the ledger fills it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from psycopg.rows import class_row

from store.database import Transaction
from store.schema import metadata, one_of

OWNERS = ("user", "host", "team")

# `week_credit` fades with a half-life of a week, and is as of `as_of`.
credit_totals = sa.Table(
    "credit_totals",
    metadata,
    sa.Column("owner", sa.Text, primary_key=True),
    sa.Column("owner_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("results", sa.BigInteger, nullable=False),
    sa.Column("credit", sa.Float, nullable=False),
    sa.Column("week_credit", sa.Float, nullable=False),
    sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
    one_of("owner", OWNERS),
)


@dataclass(frozen=True, slots=True)
class CreditRow:
    """One owner's accepted results and credit; `week_credit` fades from `as_of` on."""

    name: str
    results: int
    credit: float
    week_credit: float
    as_of: datetime


async def most(tx: Transaction, owner: str, limit: int) -> list[CreditRow]:
    """The `limit` owners of one of OWNERS with the most credit, most first."""
    cursor = tx.raw.cursor(row_factory=class_row(CreditRow))
    await cursor.execute(MOST[owner], {"limit": limit})
    return await cursor.fetchall()


def _most(owner: str, name: str, tables: str) -> bytes:
    return f"""
    SELECT {name} AS name, c.results, c.credit, c.week_credit, c.as_of
    FROM credit_totals c {tables}
    WHERE c.owner = '{owner}'
    ORDER BY c.credit DESC, c.owner_id LIMIT %(limit)s
    """.encode()  # noqa: S608 (constants of this module)


MOST = {
    "user": _most("user", "u.name", "JOIN users u ON u.id = c.owner_id"),
    "team": _most("team", "t.name", "JOIN teams t ON t.id = c.owner_id"),
    "host": _most(
        "host",
        "u.name || '/' || h.name || ' (' || h.id || ')'",
        "JOIN hosts h ON h.id = c.owner_id JOIN users u ON u.id = h.user_id",
    ),
}


async def of(tx: Transaction, owner: str, owner_id: int) -> CreditRow | None:
    """The credit of one owner; None where it has none yet."""
    cursor = tx.raw.cursor(row_factory=class_row(CreditRow))
    await cursor.execute(OF, {"owner": owner, "id": owner_id})
    return await cursor.fetchone()


OF = """
SELECT owner AS name, results, credit, week_credit, as_of
FROM credit_totals WHERE owner = %(owner)s AND owner_id = %(id)s
"""


@dataclass(frozen=True, slots=True)
class TaskCreditRow:
    """A task's published credit for one accepted result, and what was given for it so far."""

    campaign: str
    perspective: str
    credit_each: float
    results: int
    credit: float


async def by_task(tx: Transaction) -> Sequence[TaskCreditRow]:
    """Every task with its published credit."""
    cursor = tx.raw.cursor(row_factory=class_row(TaskCreditRow))
    await cursor.execute(BY_TASK)
    return await cursor.fetchall()


BY_TASK = """
SELECT c.name AS campaign, t.name AS perspective, t.credit AS credit_each,
       COALESCE(sum(s.agreed + s.unchecked), 0)::bigint AS results, COALESCE(sum(s.credit), 0) AS credit
FROM tasks t
JOIN campaigns c ON c.id = t.campaign_id
LEFT JOIN standings s ON s.campaign_id = t.campaign_id AND s.perspective_id = t.perspective_id
GROUP BY c.id, c.name, t.perspective_id, t.name, t.credit
ORDER BY c.id, t.perspective_id
"""
