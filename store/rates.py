"""Host rates: how many seconds a host takes for a unit of a perspective, as coordinators have seen it."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from store.database import Transaction, rows_of
from store.schema import metadata

host_rates = sa.Table(
    "host_rates",
    metadata,
    sa.Column("host_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("campaign_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("perspective_id", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("samples", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint("seconds >= 0", name="seconds"),
    sa.Index("ix_host_rates_updated_at", "updated_at"),
)


class Rate(NamedTuple):
    """Seconds that a unit takes a host, and of how many units that was learned."""

    host_id: int
    campaign_id: int
    perspective_id: int
    seconds: float
    samples: int

    @property
    def kind(self) -> tuple[int, int, int]:
        """(host id, campaign id, perspective id)"""
        return self[:3]


async def write(tx: Transaction, learned: Sequence[Rate], now: datetime) -> None:
    """Keeps rates, given by key in order; the latest one stands, samples add up."""
    if learned:
        columns: dict[str, object] = {name: [getattr(r, name) for r in learned] for name in Rate._fields}
        await tx.raw.execute(WRITE, {**columns, "now": now})


WRITE = """
INSERT INTO host_rates (host_id, campaign_id, perspective_id, seconds, samples, updated_at)
SELECT r.*, %(now)s
FROM unnest(%(host_id)b::bigint[], %(campaign_id)b::int[], %(perspective_id)b::smallint[],
            %(seconds)b::float8[], %(samples)b::bigint[]) AS r
ON CONFLICT (host_id, campaign_id, perspective_id) DO UPDATE
SET seconds = EXCLUDED.seconds, samples = host_rates.samples + EXCLUDED.samples,
    updated_at = EXCLUDED.updated_at
"""


async def since(tx: Transaction, moment: datetime) -> list[Rate]:
    """Rates that were written since."""
    cursor = tx.raw.cursor(row_factory=rows_of(Rate))
    await cursor.execute(SINCE, {"since": moment})
    return await cursor.fetchall()


SINCE = """
SELECT host_id, campaign_id, perspective_id, seconds, samples FROM host_rates WHERE updated_at >= %(since)s
"""
