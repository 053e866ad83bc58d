"""Statements for benches: many units at once, what became of them, and a clean floor for the next case."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import datetime

import sqlalchemy as sa

from store.database import Database, Transaction


async def fill(
    tx: Transaction, campaign_id: int, perspective_id: int, first: int, count: int, now: datetime
) -> None:
    """Births units number `first` to `first` + `count` of a task on their shelf, about made-up images."""
    parameters = {
        "campaign": campaign_id,
        "perspective": perspective_id,
        "first": first,
        "count": count,
        "now": now,
    }
    await tx.raw.execute(FILL, parameters)


# A thousand units share an image, so that ten million can be made within minutes.
FILL = """
WITH wanted AS (
    SELECT n, sha256((%(campaign)s || ' ' || n / 1000)::bytea) AS hash
    FROM generate_series(%(first)s::int, %(first)s::int + %(count)s::int - 1) AS n
), made AS (
    INSERT INTO contents (hash, derivative_hash, phash, filename, url, width, height, format, size, meta,
                          created_at)
    SELECT DISTINCT hash, hash, 0, 'bench.jpg', 'file:///bench.jpg', 64, 64, 'jpeg', 1000, '{}'::jsonb,
                    %(now)s::timestamptz
    FROM wanted
    ON CONFLICT (hash) DO UPDATE SET size = 1000
    RETURNING id, hash
), born AS (
    INSERT INTO units (campaign_id, id, kind, perspective_id, content_id, task_version, ordinal, tier, block,
                       shuffle, image_hash, signature, created_at)
    SELECT %(campaign)s, nextval('unit_ids'), 'caption', %(perspective)s, made.id, 1, (n %% 1000)::smallint,
           0, n / 2000, (random() * 1073741823)::int, hash, hash || hash, %(now)s
    FROM wanted JOIN made USING (hash)
    RETURNING campaign_id, perspective_id, tier, block, shuffle, id
)
INSERT INTO ready (campaign_id, perspective_id, tier, lane, block, shuffle, unit_id)
SELECT campaign_id, perspective_id, tier, 0, block, shuffle, id FROM born
"""


async def first_units(tx: Transaction, campaign_id: int, count: int) -> list[int]:
    """The ids of the campaign's first units."""
    found = await tx.raw.execute(
        "SELECT id FROM units WHERE campaign_id = %s ORDER BY id LIMIT %s", (campaign_id, count)
    )
    return [int(row[0]) for row in await found.fetchall()]


async def answer(
    tx: Transaction, campaign_id: int, host_id: int, bodies: Sequence[tuple[int, bytes]], now: datetime
) -> None:
    """Stores a host's answers (unit id, body), as if it had leased lane 0 of each; lane 1 then waits."""
    parameters = {
        "campaign": campaign_id,
        "host": host_id,
        "units": [unit_id for unit_id, _ in bodies],
        "bodies": [body for _, body in bodies],
        "now": now,
    }
    await tx.raw.execute(ANSWER, parameters)


ANSWER = """
WITH given AS (
    INSERT INTO results (campaign_id, unit_id, user_id, lane, host_id, return_id, hash, body, model, endpoint,
                         seed, elapsed_ms, late, leased_at, returned_at)
    SELECT %(campaign)s, a.unit_id, h.user_id, 0, h.id, 0, sha256(a.body || a.unit_id::text::bytea), a.body,
           'bench', 'bench', 1, 1000, false, %(now)s, %(now)s
    FROM unnest(%(units)b::bigint[], %(bodies)b::bytea[]) AS a (unit_id, body), hosts h WHERE h.id = %(host)s
    RETURNING unit_id
)
UPDATE ready SET lane = 1
-- IS TRUE keeps it a hashed lookup.
WHERE campaign_id = %(campaign)s AND (unit_id IN (SELECT unit_id FROM given)) IS TRUE
"""


async def counts(tx: Transaction, campaign_ids: Sequence[int]) -> dict[str, int]:
    """{"accepted", "exhausted", "results", "commits"}: of these campaigns; commits are the database's."""
    found = await tx.raw.execute(COUNTS, {"campaigns": campaign_ids})
    row = await found.fetchone()
    names = ("accepted", "exhausted", "results", "commits")
    return dict(zip(names, row or (0, 0, 0, 0), strict=True))


COUNTS = """
SELECT (SELECT count(*) FROM units WHERE campaign_id = ANY (%(campaigns)b::int[]) AND state = 'accepted'),
       (SELECT count(*) FROM units WHERE campaign_id = ANY (%(campaigns)b::int[]) AND state = 'exhausted'),
       (SELECT count(*) FROM results WHERE campaign_id = ANY (%(campaigns)b::int[]) AND return_id > 0),
       (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database())
"""


async def accepted(tx: Transaction) -> int:
    """Units accepted in the whole database."""
    found = await tx.raw.execute("SELECT count(*) FROM units WHERE state = 'accepted'")
    row = await found.fetchone()
    return 0 if row is None else int(row[0])


@contextlib.asynccontextmanager
async def old_snapshot(db: Database) -> AsyncIterator[None]:
    """Holds a snapshot open, as somebody's long report would."""
    async with db.engine.execution_options(isolation_level="REPEATABLE READ").connect() as connection:
        for statement in ("idle_in_transaction_session_timeout", "transaction_timeout", "statement_timeout"):
            await connection.execute(sa.text(f"SET LOCAL {statement} = 0"))
        await connection.execute(sa.text("SELECT count(*) FROM tasks"))
        yield


async def unbooked(tx: Transaction) -> int:
    """Units that are settled and not booked yet."""
    found = await tx.raw.execute("SELECT count(*) FROM settled")
    row = await found.fetchone()
    return 0 if row is None else int(row[0])


async def sweep(db: Database) -> None:
    """Leaves nothing waiting or leased, and statistics and visibility as after a quiet night."""
    async with db.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(sa.text("TRUNCATE ready, leases"))
        await connection.execute(sa.text("SET statement_timeout = 0"))
        await connection.execute(sa.text("VACUUM ANALYZE"))
        await connection.execute(sa.text("RESET statement_timeout"))


async def settle_down(db: Database) -> None:
    """Statistics and visibility as some time after an import."""
    async with db.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(sa.text("VACUUM ANALYZE ready, units"))
        await connection.execute(sa.text("CHECKPOINT"))
