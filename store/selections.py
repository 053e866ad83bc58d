"""Selections: the units of a campaign that an operator means, read page by page."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row

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
        while True:
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
    columns = {"campaigns": [key[0] for key in keys], "units": [key[1] for key in keys]}
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
