"""How the database itself is: its sessions, its hot tables, and what waits in them. Cheap at any size.

Sizes are those that PostgreSQL keeps count of, or are counted along an index up to a limit, or from a sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.rows import class_row

from store import shelves
from store.database import Transaction

HOT_TABLES = ("units", "ready", "leases", "past_leases", "results", "returns", "settled", "ledger")
COUNTED_IN_ALL = 200_000  # waiting replicas, over all shelves
COUNTED_AT_MOST = 10_000  # per shelf, and per outbox
SAMPLED_LEASES = 20_000
MINE = "SET LOCAL statement_timeout = '3s'"


@dataclass(frozen=True, slots=True)
class TableVitals:
    """A table by PostgreSQL's own statistics: rows and dead rows are estimates, updates are counted."""

    name: str
    rows: int
    dead_rows: int
    bytes: int
    updates: int
    hot_updates: int
    changed_since_analyze: int


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """A session in a transaction; `holds_snapshot` keeps dead rows of everybody from being cleared."""

    pid: int
    started: str
    application: str
    state: str
    age_s: float
    holds_snapshot: bool


@dataclass(frozen=True, slots=True)
class Vitals:
    """One reading. `waiting` is (campaign, kind, tier, count), `leased` (campaign, tier, count)."""

    tables: list[TableVitals]
    transactions: list[OpenTransaction]
    waiting: list[tuple[str, str, int, int]]
    leased: list[tuple[str, int, float]]
    outboxes: dict[str, int]


async def read(tx: Transaction) -> Vitals:
    """Reads everything; no statement may take longer than three seconds."""
    await tx.raw.execute(MINE)
    found = await tables(tx)
    live = next((table.rows for table in found if table.name == "leases"), 0)
    return Vitals(
        tables=found,
        transactions=await open_transactions(tx),
        waiting=await _waiting(tx),
        leased=await _leased(tx, live),
        outboxes=await _outboxes(tx),
    )


async def tables(tx: Transaction) -> list[TableVitals]:
    """The hot tables."""
    cursor = tx.raw.cursor(row_factory=class_row(TableVitals))
    await cursor.execute(TABLES, {"names": list(HOT_TABLES)})
    return await cursor.fetchall()


TABLES = """
SELECT relname::text AS name, n_live_tup AS rows, n_dead_tup AS dead_rows,
       pg_total_relation_size(relid) AS bytes, n_tup_upd AS updates, n_tup_hot_upd AS hot_updates,
       n_mod_since_analyze AS changed_since_analyze
FROM pg_stat_user_tables WHERE schemaname = 'public' AND relname = ANY (%(names)s)
"""


async def analyze(tx: Transaction, name: str) -> None:
    """Takes new statistics of a hot table, unless somebody is at it."""
    if name not in HOT_TABLES:
        raise ValueError(f"{name} is not a hot table")
    await tx.raw.execute(f"ANALYZE (SKIP_LOCKED) {name}")


async def open_transactions(tx: Transaction) -> list[OpenTransaction]:
    """Every other session of this database that is in a transaction, oldest first."""
    cursor = tx.raw.cursor(row_factory=class_row(OpenTransaction))
    await cursor.execute(OPEN_TRANSACTIONS)
    return await cursor.fetchall()


OPEN_TRANSACTIONS = """
SELECT pid, xact_start::text AS started, application_name AS application, COALESCE(state, '') AS state,
       extract(epoch FROM clock_timestamp() - xact_start)::float8 AS age_s,
       backend_xmin IS NOT NULL AS holds_snapshot
FROM pg_stat_activity
WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
  AND backend_type NOT LIKE 'autovacuum%%'
ORDER BY xact_start
"""


async def _waiting(tx: Transaction) -> list[tuple[str, str, int, int]]:
    found = await shelves.waiting(tx)
    if not found:
        return []
    columns = {
        "campaigns": [shelf.campaign_id for shelf in found],
        "perspectives": [shelf.perspective_id for shelf in found],
        "tiers": [shelf.tier for shelf in found],
        "lanes": [shelf.lane for shelf in found],
    }
    limit = max(1, min(COUNTED_AT_MOST, COUNTED_IN_ALL // len(found)))
    rows = await tx.raw.execute(WAITING, {**columns, "limit": limit})
    return [tuple(row) for row in await rows.fetchall()]


# From the back of each shelf: its front is full of rows that claims have just deleted.
WAITING = """
SELECT c.name, u.kind, s.tier::int, sum(w.replicas)::bigint
FROM unnest(%(campaigns)b::int[], %(perspectives)b::smallint[], %(tiers)b::smallint[],
            %(lanes)b::smallint[]) AS s (campaign_id, perspective_id, tier, lane)
CROSS JOIN LATERAL (
    SELECT count(*) AS replicas, max(unit_id) AS any_unit FROM (
        SELECT unit_id FROM ready r
        WHERE r.campaign_id = s.campaign_id AND r.perspective_id = s.perspective_id AND r.tier = s.tier
          AND r.lane = s.lane
        ORDER BY campaign_id DESC, perspective_id DESC, tier DESC, lane DESC, block DESC, shuffle DESC,
                 unit_id DESC
        LIMIT %(limit)s
    ) AS last
) AS w
CROSS JOIN LATERAL (
    SELECT kind FROM units WHERE campaign_id = s.campaign_id AND id = w.any_unit OFFSET 0
) AS u
JOIN campaigns c ON c.id = s.campaign_id
GROUP BY 1, 2, 3
"""


async def _leased(tx: Transaction, live: int) -> list[tuple[str, int, float]]:
    """Live leases by campaign and tier: all of them, or as a sample of so many pages shows them."""
    percent = 100.0 if live <= SAMPLED_LEASES else 100.0 * SAMPLED_LEASES / live
    found = await tx.raw.execute(LEASED, {"percent": percent})
    return [(name, tier, count * 100.0 / percent) for name, tier, count in await found.fetchall()]


LEASED = """
SELECT c.name, u.tier::int, count(*)
FROM leases l TABLESAMPLE SYSTEM (%(percent)s)
CROSS JOIN LATERAL (
    SELECT tier FROM units WHERE campaign_id = l.campaign_id AND id = l.unit_id OFFSET 0
) AS u
JOIN campaigns c ON c.id = l.campaign_id
GROUP BY 1, 2
"""


async def _outboxes(tx: Transaction) -> dict[str, int]:
    found = await tx.raw.execute(OUTBOXES, {"limit": COUNTED_AT_MOST})
    row = await found.fetchone() or (0, 0)
    return {"settled": row[0], "ledger": row[1]}


OUTBOXES = """
SELECT (SELECT count(*) FROM (SELECT 1 FROM settled ORDER BY campaign_id, unit_id LIMIT %(limit)s) AS s),
       (SELECT count(*) FROM (SELECT 1 FROM ledger WHERE NOT folded ORDER BY id LIMIT %(limit)s) AS l)
"""


async def revision(tx: Transaction) -> str | None:
    """The migration that the database is at."""
    found = await tx.raw.execute("SELECT version_num FROM alembic_version")
    row = await found.fetchone()
    return None if row is None else str(row[0])


def oldest(transactions: Sequence[OpenTransaction], *, with_snapshot: bool) -> float:
    """The age in seconds of the oldest transaction, or of the oldest that holds a snapshot; 0 without any."""
    return max((t.age_s for t in transactions if t.holds_snapshot or not with_snapshot), default=0.0)
