"""Selections: the units of a campaign that an operator means, read page by page."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row

from store.arrays import key_columns
from store.database import Database, Transaction

PAGE = 5000  # units looked at in one transaction
EVERY_ID = (0, 2**63 - 1)


@dataclass(frozen=True, slots=True)
class Selection:
    """Units of one campaign in these states, with this reason where one is named.

    `ranges` are of unit ids, both ends included.
    """

    campaign_id: int
    states: frozenset[str]
    ranges: Sequence[tuple[int, int]] = (EVERY_ID,)
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class UnitRow:
    """A unit as people are shown it."""

    id: int
    campaign: str
    perspective: str
    filename: str
    state: str
    block: int
    verdict: dict[str, Any] | None
    created_at: datetime
    settled_at: datetime | None


async def pages(db: Database, selection: Selection) -> AsyncIterator[list[int]]:
    """The ids of the selected units in order, each page read in a short transaction of its own."""
    for first, last in sorted(selection.ranges):
        after = first - 1
        while after < last:
            step = {
                "campaign": selection.campaign_id,
                "states": sorted(selection.states),
                "reason": selection.reason,
                "after": after,
                "last": last,
                "page": PAGE,
            }

            async def body(tx: Transaction, step: dict[str, object] = step) -> tuple[int | None, list[int]]:
                [row] = await (await tx.raw.execute(SELECT, step)).fetchall()
                return row[0], list(row[1] or ())

            seen, chosen = await db.transaction("select units", body)
            if seen is None:
                break
            if chosen:
                yield chosen
            after = seen


SELECT = """
SELECT max(id), array_agg(id) FILTER (
    WHERE state = ANY (%(states)s::text[])
      AND (%(reason)s::text IS NULL OR verdict->>'reason' = %(reason)s::text))
FROM (
    SELECT id, state, verdict FROM units
    WHERE campaign_id = %(campaign)s AND id > %(after)s AND id <= %(last)s
    ORDER BY id LIMIT %(page)s
) AS page
"""


async def places(tx: Transaction, unit_ids: Sequence[int]) -> list[tuple[int, int]]:
    """(campaign id, unit id) of those of these units that exist."""
    found = await tx.raw.execute(PLACES, {"ids": list(unit_ids)})
    return [(row[0], row[1]) for row in await found.fetchall()]


PLACES = """
SELECT u.campaign_id, u.id
FROM campaigns c CROSS JOIN unnest(%(ids)s::bigint[]) AS wanted (unit_id)
CROSS JOIN LATERAL (
    SELECT campaign_id, id FROM units WHERE campaign_id = c.id AND id = wanted.unit_id OFFSET 0
) AS u
ORDER BY 1, 2
"""


async def rows(tx: Transaction, keys: Sequence[tuple[int, int]]) -> list[UnitRow]:
    """These units, for people."""
    cursor = tx.raw.cursor(row_factory=class_row(UnitRow))
    columns = key_columns(keys)
    await cursor.execute(ROWS, columns)
    return await cursor.fetchall()


ROWS = """
SELECT u.id, c.name AS campaign, t.name AS perspective, i.filename, u.state, u.block, u.verdict,
       u.created_at, u.settled_at
FROM unnest(%(campaigns)b::int[], %(units)b::bigint[]) AS wanted (campaign_id, unit_id)
CROSS JOIN LATERAL (
    SELECT * FROM units WHERE campaign_id = wanted.campaign_id AND id = wanted.unit_id OFFSET 0
) AS u
CROSS JOIN LATERAL (SELECT name FROM campaigns WHERE id = u.campaign_id OFFSET 0) AS c
CROSS JOIN LATERAL (
    SELECT name FROM tasks WHERE campaign_id = u.campaign_id AND perspective_id = u.perspective_id OFFSET 0
) AS t
CROSS JOIN LATERAL (SELECT filename FROM contents WHERE id = u.content_id OFFSET 0) AS i
ORDER BY u.campaign_id, u.id
"""


async def whole(tx: Transaction, campaign_id: int, unit_id: int) -> dict[str, Any]:
    """All that is known of a unit, for people: its answers, leases, annotations and past rounds."""
    found = await tx.raw.execute(WHOLE, {"campaign": campaign_id, "unit": unit_id})
    [(known,)] = await found.fetchall()
    return dict(known)


_ANSWER = """json_build_object(
    'user', (SELECT name FROM users WHERE id = r.user_id), 'host', r.host_id, 'model', r.model,
    'returned_at', r.returned_at, 'late', r.late,
    'answer', COALESCE(r.answer, convert_from(r.body, 'UTF8')::jsonb))"""

WHOLE = f"""
SELECT json_build_object(
    'id', u.id, 'campaign', c.name, 'perspective', t.name, 'image', i.filename, 'state', u.state,
    'block', u.block, 'verdict', u.verdict, 'created_at', u.created_at, 'settled_at', u.settled_at,
    'batch', (SELECT b.name FROM batch_ranges s JOIN batches b ON b.id = s.batch_id
              WHERE s.campaign_id = u.campaign_id AND u.id BETWEEN s.first_unit AND s.last_unit
              ORDER BY s.first_unit DESC LIMIT 1),
    'canonical_user', (SELECT name FROM users WHERE id = u.canonical_user_id),
    'waiting', (SELECT count(*) FROM ready
                WHERE campaign_id = u.campaign_id AND perspective_id = u.perspective_id AND tier = u.tier
                  AND lane BETWEEN 0 AND 31 AND block = u.block AND shuffle = u.shuffle AND unit_id = u.id),
    'leases', (SELECT COALESCE(json_agg(json_build_object(
                   'user', (SELECT name FROM users WHERE id = l.user_id), 'host', l.host_id,
                   'leased_at', l.leased_at, 'deadline', l.deadline) ORDER BY l.leased_at), '[]')
               FROM leases l WHERE l.campaign_id = u.campaign_id AND l.unit_id = u.id),
    'ended_leases', (SELECT COALESCE(json_agg(json_build_object(
                         'user', (SELECT name FROM users WHERE id = p.user_id), 'host', p.host_id,
                         'ending', p.ending, 'detail', p.detail, 'ended_at', p.ended_at) ORDER BY p.id), '[]')
                     FROM past_leases p WHERE p.campaign_id = u.campaign_id AND p.unit_id = u.id),
    'results', (SELECT COALESCE(json_agg({_ANSWER} ORDER BY r.returned_at, r.user_id), '[]')
                FROM results r WHERE r.campaign_id = u.campaign_id AND r.unit_id = u.id),
    'annotations', (SELECT COALESCE(json_agg(json_build_object(
                        'id', a.id, 'version', a.version, 'status', a.status) ORDER BY a.version), '[]')
                    FROM annotations a WHERE a.campaign_id = u.campaign_id AND a.unit_id = u.id),
    'past_rounds', (SELECT COALESCE(json_agg(json_build_object(
                        'round', o.round, 'state', o.state, 'verdict', o.verdict,
                        'settled_at', o.settled_at, 'reopened_at', o.reopened_at, 'reason', o.reason,
                        'results', (SELECT COALESCE(json_agg({_ANSWER} ORDER BY r.returned_at), '[]')
                                    FROM past_results r
                                    WHERE r.campaign_id = o.campaign_id AND r.unit_id = o.unit_id
                                      AND r.round = o.round)) ORDER BY o.round), '[]')
                    FROM past_rounds o WHERE o.campaign_id = u.campaign_id AND o.unit_id = u.id))
FROM units u
JOIN campaigns c ON c.id = u.campaign_id
JOIN tasks t ON t.campaign_id = u.campaign_id AND t.perspective_id = u.perspective_id
JOIN contents i ON i.id = u.content_id
WHERE u.campaign_id = %(campaign)s AND u.id = %(unit)s
"""  # noqa: S608 (constants of this module)
