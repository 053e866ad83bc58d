"""Tables can be split by campaign: keys hold the campaign, or docs/scale.md says what they need instead."""

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import in_database
from support.engine import Engine, caption, key_of
from support.partitions import GROWING, partition

from coordinator.upkeep import jobs
from store import tables, vitals
from store.database import Database

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text("utf-8")
SPLIT = {table.name for table in tables.metadata.sorted_tables if "campaign_id" in table.c}
QUEUES = {"ready", "leases", "settled"}


def _keys(url: str) -> dict[str, set[str]]:
    """By index: the columns of every unique one, of tables that know their campaign."""
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT t.relname, i.relname, pg_get_indexdef(x.indexrelid) FROM pg_index x "
            "JOIN pg_class t ON t.oid = x.indrelid JOIN pg_class i ON i.oid = x.indexrelid "
            "WHERE indisunique AND t.relnamespace = 'public'::regnamespace"
        ).fetchall()
    return {
        index: set(re.findall(r"\w+", definition.partition("USING btree ")[2].partition(" WHERE ")[0]))
        for table, index, definition in found
        if table in SPLIT
    }


def test_every_key_without_the_campaign_is_in_the_page(postgres: str):
    keys = _keys(in_database(postgres, "template_chorus"))
    without = {index for index, columns in keys.items() if "campaign_id" not in columns}
    assert without == set(re.findall(r"^\| `(pk_\w+|uq_\w+|ix_\w+)` \|", PAGE, re.MULTILINE))


def test_every_table_of_a_campaign_has_its_place_in_the_page():
    section = PAGE.partition("## Partitioning by campaign")[2].partition("\n## ")[0]
    assert {table for table in SPLIT if f"`{table}`" not in section} == set()
    assert set(GROWING) <= SPLIT


def test_every_upkeep_job_says_in_the_page_what_it_guarantees():
    section = PAGE.partition("Every machine runs every upkeep job")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [
        job.name for job in jobs(None, None, lambda: None)
    ]


def test_rows_of_a_table_that_may_be_split_are_not_changed_by_their_place_alone():
    """A place (ctid) is unique in one partition; with others, a statement must look at the key again."""
    sources = "\n".join(path.read_text("utf-8") for path in (ROOT / "store").glob("*.py"))
    found = re.findall(
        r"(?:DELETE FROM|UPDATE) (\w+)(?: SET [^\"]*?)? WHERE (?:\w+\.)?ctid = (.*?)\"\"\"",
        sources,
        re.DOTALL,
    )
    assert {table for table, _ in found} >= {"ready", "results"}
    alone = {table for table, rest in found if "AS r))\n  AND" not in re.sub(r" {2,}", "  ", rest)}
    assert alone <= QUEUES


async def _work(url: str) -> dict[str, Any]:
    """Three campaigns worked on by four hosts, with failures, expiry and all of upkeep; what came of it."""
    db = Database.connect(url, pool_size=4)
    engine = Engine(db, seed=7)
    campaigns = [
        await engine.campaign(name, replication=2, lease_s=60, max_failures=1) for name in ("a", "b", "c")
    ]
    for campaign in campaigns:
        await engine.images(campaign, 40)
    hosts = [await engine.host() for _ in range(4)]
    for turn in range(40):
        for caller in hosts:
            units = await engine.lease(caller, want=12)
            failing = [key_of(unit) for unit in units if unit.id % 10 == 3]
            answered = [unit for unit in units if unit.id % 10 not in {3, 4} or turn > 20]
            answers = {key_of(unit): caption(unit.id) for unit in answered}
            if failing:
                await engine.fail(caller, failing)
            if answers:
                await engine.give(caller, {key: text for key, text in answers.items() if key not in failing})
        if turn % 3 == 2:
            engine.pass_time(61)
        await engine.upkeep()
    found = {
        table: await engine.fetch(
            f"SELECT campaign_id, count(*) FROM {table} GROUP BY 1 ORDER BY 1"  # noqa: S608 (ours)
        )
        for table in (*GROWING, *sorted(QUEUES), "annotations")
    }
    found["states"] = await engine.fetch(
        "SELECT campaign_id, state, verdict->>'reason', count(*) FROM units GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
    )
    found["credit"] = await engine.fetch(
        "SELECT campaign_id, sum(credit) FROM standings GROUP BY 1 ORDER BY 1"
    )
    found["open without replica"] = await engine.fetch(
        "SELECT count(*) FROM units u WHERE state = 'open' AND NOT EXISTS (SELECT FROM ready r "
        "WHERE r.campaign_id = u.campaign_id AND r.unit_id = u.id) AND NOT EXISTS (SELECT FROM leases l "
        "WHERE l.campaign_id = u.campaign_id AND l.unit_id = u.id)"
    )
    await db.transaction("vitals", vitals.read)
    await db.close()
    return found


async def test_the_engine_ends_every_unit_on_split_tables(database_url: str):
    partition(database_url, (1, 2))
    found = await _work(database_url)
    assert dict(found["units"]) == {1: 40, 2: 40, 3: 40}
    assert {state for _, state, _, _ in found["states"]} == {"accepted", "exhausted"}
    assert found["open without replica"] == [(0,)]
    assert found["ready"] == found["leases"] == found["settled"] == []
    accepted = {campaign: count for campaign, state, _, count in found["states"] if state == "accepted"}
    assert dict(found["annotations"]) == accepted
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT tableoid::regclass::text, count(*) FROM results GROUP BY 1 ORDER BY 1"
        ).fetchall()
    assert [table for table, _ in rows] == ["results_1", "results_2", "results_rest"]


@pytest.mark.parametrize("table", GROWING)
def test_a_campaigns_partition_can_be_taken_away(database_url: str, table: str):
    partition(database_url, (1, 2))
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"ALTER TABLE {table} DETACH PARTITION {table}_1")
        connection.execute(f"DROP TABLE {table}_1")
