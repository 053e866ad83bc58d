"""Annotations, after OMI's names: the accepted answer for an image, with its sources, ratings and reports."""

import functools
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from psycopg.rows import class_row
from sqlalchemy.dialects.postgresql import JSONB

from store.arrays import key_columns
from store.database import Database, Transaction
from store.ledger import SUMMED_UP, HalfLives
from store.schema import metadata, one_of

STATUSES = ("published", "held", "withdrawn")

annotations = sa.Table(
    "annotations",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("content_id", sa.ForeignKey("contents.id"), nullable=False, index=True),
    sa.Column("campaign_id", sa.Integer, nullable=False),
    sa.Column("unit_id", sa.BigInteger, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("annotation", JSONB, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("confidence", sa.Float, nullable=False),
    sa.Column("manually_adjusted", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("overall_rating", sa.Float),
    # No reference: each acceptance would lock its unit's and its volunteer's row to check one.
    sa.Column("from_user_id", sa.BigInteger),
    sa.Column("from_team_id", sa.ForeignKey("teams.id")),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
    sa.UniqueConstraint("campaign_id", "unit_id", "version"),
    one_of("status", STATUSES),
)

annotation_sources = sa.Table(
    "annotation_sources",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("annotation_schema", JSONB, nullable=False),
    sa.Column("license", sa.Text),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
)

annotation_source_links = sa.Table(
    "annotation_source_links",
    metadata,
    sa.Column("annotation_id", sa.ForeignKey("annotations.id"), primary_key=True),
    sa.Column("source_id", sa.ForeignKey("annotation_sources.id"), primary_key=True, index=True),
)

annotation_ratings = sa.Table(
    "annotation_ratings",
    metadata,
    sa.Column("annotation_id", sa.ForeignKey("annotations.id"), primary_key=True),
    sa.Column("user_id", sa.ForeignKey("users.id"), primary_key=True, index=True),
    sa.Column("rating", sa.SmallInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint("rating BETWEEN 0 AND 10", name="rating"),
)

annotation_reports = sa.Table(
    "annotation_reports",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("annotation_id", sa.ForeignKey("annotations.id"), nullable=False, index=True),
    sa.Column("user_id", sa.ForeignKey("users.id"), nullable=False, index=True),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
)


async def add_source(
    tx: Transaction, name: str, schema: dict[str, Any], license_: str, now: datetime
) -> None:
    """Makes the source that a campaign's annotations of one perspective link to."""
    values = {"name": name, "annotation_schema": schema, "license": license_, "created_at": now}
    await tx.sql.execute(sa.insert(annotation_sources).values(**values))


async def book_settled(tx: Transaction, limit: int, now: datetime, half_lives: HalfLives) -> int:
    """Books up to `limit` settled units, each exactly once, and gives how many.

    An accepted unit becomes the next version of its annotation (published, or held where its campaign
    moderates) with its source; every judged result becomes a ledger entry with its credit.
    """
    parameters = {"limit": limit, "now": now, **asdict(half_lives)}
    found = await tx.raw.execute(BOOK_SETTLED, parameters)
    row = await found.fetchone()
    return 0 if row is None else int(row[0])


BOOK_SETTLED = f"""
WITH taken AS (
    DELETE FROM settled WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM settled ORDER BY campaign_id, unit_id LIMIT %(limit)s FOR UPDATE SKIP LOCKED))
    RETURNING campaign_id, unit_id
), unit AS (
    SELECT u.campaign_id, u.id, u.perspective_id, u.content_id, u.state, u.canonical_user_id, u.verdict,
           (u.verdict->'numbers'->>'voices')::int AS voices, t.credit,
           CASE WHEN c.policy->>'moderation' = 'none' THEN 'published' ELSE 'held' END AS status
    FROM taken s
    JOIN units u ON u.campaign_id = s.campaign_id AND u.id = s.unit_id
    JOIN tasks t ON t.campaign_id = u.campaign_id AND t.perspective_id = u.perspective_id
    JOIN campaigns c ON c.id = u.campaign_id
), annotated AS (
    INSERT INTO annotations (content_id, campaign_id, unit_id, version, annotation, status, confidence,
                             from_user_id, created_at, updated_at)
    SELECT u.content_id, u.campaign_id, u.id,
           1 + COALESCE((SELECT max(version) FROM annotations
                         WHERE campaign_id = u.campaign_id AND unit_id = u.id), 0),
           COALESCE(r.answer, convert_from(r.body, 'UTF8')::jsonb),
           u.status, (u.verdict->>'confidence')::float8, u.canonical_user_id, %(now)s, %(now)s
    FROM unit u
    JOIN results r ON r.campaign_id = u.campaign_id AND r.unit_id = u.id AND r.user_id = u.canonical_user_id
    WHERE u.state = 'accepted'
    RETURNING id, campaign_id, unit_id
), linked AS (
    INSERT INTO annotation_source_links (annotation_id, source_id)
    SELECT a.id, s.id FROM annotated a
    CROSS JOIN LATERAL (
        SELECT perspective_id FROM units WHERE campaign_id = a.campaign_id AND id = a.unit_id OFFSET 0
    ) AS u
    CROSS JOIN LATERAL (
        SELECT c.name || '/' || t.name || '/' || t.version AS source
        FROM tasks t JOIN campaigns c ON c.id = t.campaign_id
        WHERE t.campaign_id = a.campaign_id AND t.perspective_id = u.perspective_id OFFSET 0
    ) AS t
    JOIN annotation_sources s ON s.name = t.source
), entries AS (
    INSERT INTO ledger (campaign_id, unit_id, user_id, host_id, perspective_id, model, judgement, credit,
                        folded, created_at)
    SELECT r.campaign_id, r.unit_id, r.user_id, r.host_id, u.perspective_id, r.model,
           CASE WHEN u.voices = 1 THEN 'unchecked' WHEN j.agrees THEN 'agreed' ELSE 'disagreed' END,
           CASE WHEN j.agrees THEN u.credit ELSE 0 END, true, %(now)s
    FROM unit u
    JOIN results r ON r.campaign_id = u.campaign_id AND r.unit_id = u.id AND NOT r.late
    CROSS JOIN LATERAL (SELECT (u.verdict->'judgements'->(r.user_id::text)->>'agrees')::bool AS agrees) AS j
    WHERE u.state = 'accepted'
    ON CONFLICT DO NOTHING
    RETURNING user_id, host_id, campaign_id, perspective_id, model, judgement, credit, created_at AS at,
              1 AS sign
), {SUMMED_UP}
SELECT count(*) FROM taken
"""  # noqa: S608 (constants of this room)


async def withdraw(tx: Transaction, keys: Sequence[tuple[int, int]], now: datetime) -> None:
    """Withdraws what stands for these locked units: it stays, and is no longer exported."""
    columns = key_columns(keys)
    await tx.raw.execute(WITHDRAW, {**columns, "now": now})


WITHDRAW = """
UPDATE annotations SET status = 'withdrawn', updated_at = %(now)s WHERE id = ANY (ARRAY(
    SELECT a.id
    FROM unnest(%(campaigns)b::int[], %(units)b::bigint[]) AS wanted (campaign_id, unit_id)
    CROSS JOIN LATERAL (
        SELECT id FROM annotations
        WHERE campaign_id = wanted.campaign_id AND unit_id = wanted.unit_id AND status <> 'withdrawn'
        OFFSET 0
    ) AS a))
"""


@dataclass(frozen=True, slots=True)
class ExportRow:
    """An annotation with all that a dataset line says of it."""

    id: int
    annotation: dict[str, Any]
    confidence: float
    version: int
    manually_adjusted: bool
    perspective: str
    perspective_version: str
    unit_id: int
    verdict: dict[str, Any]
    filename: str
    url: str
    hash: bytes
    derivative_hash: bytes
    width: int
    height: int
    license: str | None
    attribution: str | None
    meta: dict[str, Any]
    model: str
    endpoint: str
    results: list[dict[str, Any]]


async def published(db: Database, campaign_id: int, page: int = 500) -> AsyncIterator[ExportRow]:
    """The campaign's published annotations by id, read in short keyset pages, each its own transaction."""
    after = 0
    while True:
        read = functools.partial(_page, campaign_id=campaign_id, after=after, limit=page)
        rows = await db.transaction("export", read)
        for row in rows:
            yield row
        if len(rows) < page:
            return
        after = rows[-1].id


async def _page(tx: Transaction, campaign_id: int, after: int, limit: int) -> Sequence[ExportRow]:
    cursor = tx.raw.cursor(row_factory=class_row(ExportRow))
    await cursor.execute(PUBLISHED, {"campaign": campaign_id, "after": after, "limit": limit})
    return await cursor.fetchall()


PUBLISHED = """
SELECT a.id, a.annotation, a.confidence, a.version, a.manually_adjusted, t.name AS perspective,
       t.version AS perspective_version, u.id AS unit_id, u.verdict, c.filename, c.url, c.hash,
       c.derivative_hash, c.width, c.height, c.license, c.attribution, c.meta, canonical.model,
       canonical.endpoint, voices.results
FROM (SELECT * FROM annotations WHERE campaign_id = %(campaign)s AND status = 'published' AND id > %(after)s
      ORDER BY id LIMIT %(limit)s) AS a
JOIN units u ON u.campaign_id = a.campaign_id AND u.id = a.unit_id
JOIN tasks t ON t.campaign_id = u.campaign_id AND t.perspective_id = u.perspective_id
JOIN contents c ON c.id = a.content_id
JOIN results canonical ON canonical.campaign_id = u.campaign_id AND canonical.unit_id = u.id
                      AND canonical.user_id = u.canonical_user_id
CROSS JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_object(
        'user', r.user_id, 'host', r.host_id, 'model', r.model, 'endpoint', r.endpoint, 'seed', r.seed,
        'sha256', encode(r.hash, 'hex'), 'return', r.return_id, 'late', r.late,
        'agrees', u.verdict->'judgements'->(r.user_id::text)->'agrees',
        'support', u.verdict->'judgements'->(r.user_id::text)->'support',
        'canonical', r.user_id = u.canonical_user_id) ORDER BY r.returned_at, r.user_id) AS results
    FROM results r
    WHERE r.campaign_id = u.campaign_id AND r.unit_id = u.id
) AS voices
ORDER BY a.id
"""


async def count(tx: Transaction) -> list[tuple[int, str, int]]:
    """(campaign id, status, annotations)."""
    found = await tx.raw.execute("SELECT campaign_id, status, count(*) FROM annotations GROUP BY 1, 2")
    return [tuple(row) for row in await found.fetchall()]
