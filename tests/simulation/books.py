"""What the database says, read whole in one statement: the ground that the invariants stand on."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from coordinator.pulse import PATIENCE
from store.database import Database, Transaction


@dataclass(frozen=True, slots=True)
class Books:
    """Every row that matters, as short records."""

    units: Sequence[dict[str, Any]]
    waiting: Sequence[dict[str, Any]]
    leases: Sequence[dict[str, Any]]
    past: Sequence[dict[str, Any]]
    results: Sequence[dict[str, Any]]
    left_behind: Sequence[dict[str, Any]]
    settled: Sequence[dict[str, Any]]
    ledger: Sequence[dict[str, Any]]
    standings: Sequence[dict[str, Any]]
    annotations: Sequence[dict[str, Any]]

    def states(self) -> dict[int, str]:
        """The state of each unit, by id."""
        return {unit["id"]: unit["state"] for unit in self.units}

    def judgements(self) -> list[dict[str, Any]]:
        """The ledger's entries on results that stand: neither taken back nor taking back."""
        return [e for e in self.ledger if e["judgement"] != "failed" and not e["reversed"]]

    def standing_annotations(self) -> list[dict[str, Any]]:
        """Those that are not withdrawn."""
        return [row for row in self.annotations if row["status"] != "withdrawn"]


def _rows(query: str) -> str:
    return f"(SELECT COALESCE(json_agg(row_to_json(t)), '[]') FROM ({query}) AS t)"  # noqa: S608 (ours)


TABLES = {
    "units": "SELECT id, state, canonical_user_id AS canonical, verdict, block FROM units",
    "waiting": "SELECT unit_id AS unit, lane, block FROM ready",
    "leases": """SELECT unit_id AS unit, lane, user_id AS user, host_id AS host, leased_at AS since,
                        deadline FROM leases""",
    "past": """SELECT unit_id AS unit, lane, host_id AS host, leased_at AS since, ended_at AS ended
               FROM past_leases WHERE ending = 'expired'""",
    "results": """SELECT unit_id AS unit, user_id AS user, encode(hash, 'hex') AS hash, late,
                         convert_from(body, 'UTF8') AS body FROM results""",
    "left_behind": "SELECT unit_id AS unit, user_id AS user, encode(hash, 'hex') AS hash FROM past_results",
    "settled": "SELECT unit_id AS unit FROM settled",
    "ledger": """SELECT id, unit_id AS unit, user_id AS user, host_id AS host, judgement, credit, reversed,
                        reversal_of FROM ledger""",
    "standings": "SELECT host_id AS host, agreed, disagreed, failed, unchecked, credit FROM standings",
    "annotations": "SELECT unit_id AS unit, from_user_id AS user, annotation, status FROM annotations",
}
READ = "SELECT " + ", ".join(_rows(TABLES[field.name]) for field in fields(Books))


async def read_books(db: Database) -> Books:
    """One snapshot of everything."""

    async def body(tx: Transaction) -> Books:
        [row] = await (await tx.raw.execute(READ)).fetchall()
        return Books(*row)

    return await db.transaction("books", body)


BELIEVE = """
INSERT INTO standings (host_id, campaign_id, perspective_id, model, agreed, disagreed, failed, unchecked,
                       credit, month_agreed, month_disagreed, month_failed, hour_agreed, hour_disagreed,
                       as_of, folded_at)
SELECT DISTINCT host, %s, 1, 'm', 0, 0, 0, 0, 0.0, 500, 0, 0, 0, 0, %s::timestamptz, %s::timestamptz
FROM unnest(%s::bigint[]) AS host
"""


async def believe(db: Database, campaign_id: int, host_ids: Sequence[int], when: datetime) -> None:
    """Gives hosts evidence for which they may work alone."""

    async def body(tx: Transaction) -> None:
        await tx.raw.execute(BELIEVE, (campaign_id, when, when, list(host_ids)))

    await db.transaction("believe", body)


RELAX = """
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$
"""


async def relax(db: Database) -> None:
    """Lets commits not wait for the disk: here servers die, PostgreSQL does not."""

    async def body(tx: Transaction) -> None:
        await tx.raw.execute(RELAX)

    await db.transaction("relax", body)
    await db.close()


CLEAR = """
DELETE FROM pulse;
DELETE FROM outages;
DELETE FROM messages;
DELETE FROM host_quotas;
UPDATE hosts SET sequence = 0, session_mark = NULL WHERE sequence > 0;
DELETE FROM annotation_source_links;
DELETE FROM annotations;
DELETE FROM annotation_sources;
DELETE FROM ledger;
DELETE FROM standings;
DELETE FROM settled;
DELETE FROM results;
DELETE FROM past_results;
DELETE FROM past_rounds;
DELETE FROM returns;
DELETE FROM leases;
DELETE FROM past_leases;
DELETE FROM ready;
DELETE FROM units;
DELETE FROM tasks;
DELETE FROM campaigns;
"""


ALIVE = "UPDATE pulse SET beat_at = %s WHERE beat_at >= %s"


async def stay_alive(db: Database, before: datetime, now: datetime) -> None:
    """Notes that coordinators worked all the time between, if they did before."""

    async def body(tx: Transaction) -> None:
        await tx.raw.execute(ALIVE, (now, before - PATIENCE))

    await db.transaction("alive", body)


async def clear_books(db: Database) -> None:
    """Empties all but hosts, users and images."""

    async def body(tx: Transaction) -> None:
        await tx.raw.execute(CLEAR)

    await db.transaction("clear", body)
