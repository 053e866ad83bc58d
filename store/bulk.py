"""Statements for benches: many units at once, and what became of them."""

from datetime import datetime

from store.database import Transaction


async def fill(tx: Transaction, campaign_id: int, count: int, now: datetime) -> None:
    """Births `count` units of the campaign's first task, all about one made-up image, each on its shelf."""
    await tx.raw.execute(FILL, {"campaign": campaign_id, "count": count, "now": now})


FILL = """
WITH image AS (
    INSERT INTO contents (hash, derivative_hash, phash, filename, url, width, height, format, size, meta,
                          created_at)
    SELECT sha256(%(campaign)s::text::bytea), sha256('bench'), 0, 'bench.jpg', 'file:///bench.jpg', 64, 64,
           'jpeg', 1000, '{}', %(now)s
    RETURNING id
), born AS (
    INSERT INTO units (campaign_id, id, kind, perspective_id, content_id, task_version, ordinal, tier, block,
                       shuffle, image_hash, signature, created_at)
    SELECT %(campaign)s, nextval('unit_ids'), 'caption', 1, image.id, (n / 30000)::smallint,
           (n %% 30000)::smallint, 0, (n / 2000)::int, (random() * 1073741823)::int, sha256('bench'),
           sha256('bench') || sha256('signature'), %(now)s
    FROM image, generate_series(0, %(count)s - 1) AS n
    RETURNING campaign_id, perspective_id, tier, block, shuffle, id
)
INSERT INTO ready (campaign_id, perspective_id, tier, lane, block, shuffle, unit_id)
SELECT campaign_id, perspective_id, tier, 0, block, shuffle, id FROM born
"""


async def empty_shelves(tx: Transaction, campaign_id: int) -> None:
    """Takes whatever waits off the campaign's shelves."""
    await tx.raw.execute("DELETE FROM ready WHERE campaign_id = %s", (campaign_id,))


async def counts(tx: Transaction, campaign_id: int) -> dict[str, int]:
    """{"accepted", "exhausted", "results", "commits"}: of the campaign, and the database's commits so far."""
    found = await tx.raw.execute(COUNTS, {"campaign": campaign_id})
    row = await found.fetchone()
    names = ("accepted", "exhausted", "results", "commits")
    return dict(zip(names, row or (0, 0, 0, 0), strict=True))


COUNTS = """
SELECT (SELECT count(*) FROM units WHERE campaign_id = %(campaign)s AND state = 'accepted'),
       (SELECT count(*) FROM units WHERE campaign_id = %(campaign)s AND state = 'exhausted'),
       (SELECT count(*) FROM results WHERE campaign_id = %(campaign)s),
       (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database())
"""
