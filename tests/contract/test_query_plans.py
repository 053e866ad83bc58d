"""Hot statements find their rows by index, planned as in the server: prepared, and for any values."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from conftest import in_database
from psycopg import sql
from psycopg.types.json import Jsonb
from support.partitions import GROWING, partition

from store import (
    annotations,
    batches,
    leases,
    ledger,
    quotas,
    rates,
    replicas,
    results,
    rounds,
    selections,
    shelves,
    units,
    vitals,
)
from store.database import BY_INDEX

HOT = {
    *("units", "ready", "leases", "results", "ledger", "settled", "past_leases"),
    *("annotations", "past_rounds", "past_results", "standings", "host_rates"),
}
PARTIAL = {"ix_ledger_unfolded"}  # these hold none but the rows that are wanted
NOW = datetime(2026, 1, 1, tzinfo=UTC)

FILL = """
INSERT INTO users (name, role, created_at) SELECT 'u' || n, 'volunteer', now() FROM generate_series(1, 50) n;
INSERT INTO hosts (user_id, name, public_key, tier_cap, created_at)
    SELECT n, 'h', sha256(n::text::bytea), 6, now() FROM generate_series(1, 50) n;
INSERT INTO campaigns (name, policy, created_at)
    SELECT 'c' || n, '{"moderation": "none"}', now() FROM generate_series(1, 3) n;
INSERT INTO tasks SELECT c, p, 'p' || p, '1', sha256(''), '', 0, 1
    FROM generate_series(1, 3) c, generate_series(1, 2) p;
INSERT INTO annotation_sources (name, annotation_schema, created_at)
    SELECT 'c' || c || '/p' || p || '/1', '{}', now() FROM generate_series(1, 3) c, generate_series(1, 2) p;
INSERT INTO contents (hash, derivative_hash, phash, filename, url, width, height, format, size, meta,
                      created_at)
    SELECT sha256(n::text::bytea), sha256(n::text::bytea), n, n, n, 1, 1, 'jpeg', 1, '{}', now()
    FROM generate_series(1, 10000) n;
INSERT INTO units (campaign_id, id, kind, perspective_id, content_id, task_version, ordinal, tier, block,
                   shuffle, image_hash, signature, created_at, state, canonical_user_id, settled_at, verdict)
    SELECT c, c * 10000 + n, 'caption', 1 + n % 2, n, 1, 0, 0, n / 2000, n, sha256(''), '', now(),
           CASE WHEN n <= 5000 THEN 'accepted' ELSE 'open' END, CASE WHEN n <= 5000 THEN 1 END,
           CASE WHEN n <= 5000 THEN now() END, '{"confidence": 1, "judgements": {}}'
    FROM generate_series(1, 3) c, generate_series(1, 10000) n;
INSERT INTO ready SELECT campaign_id, perspective_id, tier, 0, block, shuffle, id FROM units
    WHERE state = 'open';
INSERT INTO leases SELECT campaign_id, id, 1, 1 + id % 50, 1 + id % 50, now(), now() + interval '1 h'
    FROM units WHERE state = 'open' AND id % 2 = 0;
INSERT INTO past_leases (campaign_id, unit_id, lane, host_id, user_id, leased_at, ended_at, ending, detail)
    SELECT campaign_id, id, 1, 2, 2, now(), now(), 'expired', '' FROM units;
INSERT INTO results SELECT campaign_id, id, 1, 0, 1, 1, sha256(''), '{"caption": "x"}', NULL, 'm', 'e', 0, 1,
                           false, NULL, now() FROM units WHERE state = 'accepted';
INSERT INTO ledger (campaign_id, unit_id, user_id, host_id, perspective_id, model, judgement, credit, folded,
                    created_at)
    SELECT campaign_id, id, 1, 1, 1, 'm', 'agreed', 1, id % 100 > 0, now() FROM units
    WHERE state = 'accepted';
INSERT INTO annotations (content_id, campaign_id, unit_id, version, annotation, status, confidence,
                         created_at, updated_at)
    SELECT content_id, campaign_id, id, 1, '{}', 'published', 1, now(), now() FROM units
    WHERE state = 'accepted' AND campaign_id < 3;
INSERT INTO past_rounds SELECT campaign_id, id, 1, 'exhausted', NULL, '{}', now(), now(), '' FROM units;
INSERT INTO past_results SELECT campaign_id, id, 1, 1, 0, 1, 1, sha256(''), '{}', NULL, 'm', 'e', 0, 1, false,
                                NULL, now() FROM units;
INSERT INTO settled SELECT campaign_id, id FROM units WHERE state = 'accepted';
INSERT INTO host_rates SELECT n, 1, 1, 2.5, 9, now() - n * interval '1 h' FROM generate_series(1, 5000) n;
INSERT INTO standings SELECT n, 1, 1, 'm', 1, 0, 0, 0, 1, 1, 0, 0, 1, 0, now(), now() - n * interval '1 h'
    FROM generate_series(1, 5000) n;
"""

KEYS = {"campaigns": [1] * 32, "units": list(range(15_001, 15_033))}
ENDED = {"campaigns": [1] * 32, "units": list(range(10_001, 10_033))}
VERDICTS = {
    "states": ["accepted"] * 32, "canonicals": [1] * 32, "verdicts": [Jsonb({})] * 32, "now": NOW
}  # fmt: skip
SHELF = {"campaign": 1, "perspective": 1, "tier": 0, "lane": 0, "block": 3}
STRETCH = {"low": 7000, "high": 8000, "users": [7], "want": 64}
LEASES = {
    "places": ["(0,1)", "(0,2)"], "campaigns": [1], "units": [15_001], "lanes": [0], "hosts": [7],
    "users": [7], "deadlines": [NOW], "births": ["(0,1)"], "alone": [False], "now": NOW,
}  # fmt: skip
PAGE = {"campaign": 1, "states": ["open"], "reason": None, "after": 0, "last": 2**63 - 1, "page": 5000}
PLACE = {"campaign_id": [1], "perspective_id": [1], "tier": [0], "lane": [0], "block": [3]}

DAY = timedelta(days=1)
LIVES = {"month": 2e6, "hour": 3600.0, "week": 6e5}

STATEMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "shelves.CANDIDATES": (shelves.CANDIDATES, SHELF | STRETCH),
    "shelves.BLOCK_AFTER": (shelves.BLOCK_AFTER, SHELF),
    "shelves.AT": (shelves.AT, PLACE | {"shuffle": [7000]}),
    "shelves.TAKE": (shelves.TAKE, LEASES),
    "shelves.WAITING": (shelves.WAITING, {}),
    "replicas.LANES_OF": (replicas.LANES_OF, KEYS),
    "replicas.REMOVE": (replicas.REMOVE, PLACE | {"shuffle": [7000], "unit_id": [17_000]}),
    "units.LOCK": (units.LOCK, KEYS),
    "units.FACTS": (units.FACTS, KEYS),
    "units.SETTLE": (units.SETTLE, KEYS | VERDICTS),
    "leases.OF_UNITS": (leases.OF_UNITS, KEYS),
    "leases.ANSWERED": (leases.ANSWERED, KEYS | {"users": [7] * len(KEYS["units"])}),
    "leases.RENEW": (leases.RENEW, KEYS | {"host": 7, "now": NOW, "deadline": NOW, "longest": DAY}),
    "leases.EXPIRED": (leases.EXPIRED, {"now": NOW, "limit": 2000}),
    "leases.OF_HOST": (leases.OF_HOST, {"host": 7}),
    "leases.TOLD_AGAIN": (leases.TOLD_AGAIN, KEYS | {"host": 7}),
    "leases.AFTER": (leases.AFTER, {"campaign": 1, "unit": 15_001, "limit": 1000}),
    "leases.EXTEND": (leases.EXTEND, KEYS | {"length": timedelta(hours=1), "before": NOW}),
    "leases.OF_REVOKED": (leases.OF_REVOKED, {"limit": 1000}),
    "leases.PAST": (leases.PAST, KEYS),
    "leases.PRUNE_PAST": (leases.PRUNE_PAST, {"after": 5000, "limit": 1000, "before": NOW}),
    "vitals.WAITING": (
        vitals.WAITING,
        {"campaigns": [1, 2], "perspectives": [1, 1], "tiers": [0, 0], "lanes": [0, 0], "limit": 1000},
    ),
    "leases.LONELY": (leases.LONELY, {"campaign": 1, "before": NOW, "limit": 500}),
    "results.USUAL_TURNAROUND": (results.USUAL_TURNAROUND, {"campaign": 1}),
    "results.OF_UNITS": (results.OF_UNITS, KEYS),
    "quotas.JUDGED": (quotas.JUDGED, {"last": 9000, "limit": 10_000, "until": NOW}),
    "quotas.LAPSED": (quotas.LAPSED, {"last": 9000, "limit": 10_000, "until": NOW}),
    "quotas.OVERFULL": (quotas.OVERFULL, {"most": 511}),
    "quotas.HELD": (quotas.HELD, {}),
    "ledger.FOLD": (ledger.FOLD, {"limit": 2000} | LIVES),
    "ledger.TOTAL_CREDIT": (ledger.TOTAL_CREDIT, {}),
    "rates.SINCE": (rates.SINCE, {"since": NOW}),
    "ledger.EVIDENCE_SINCE": (ledger.EVIDENCE_SINCE, {"since": NOW}),
    "units.SET_BLOCKS": (units.SET_BLOCKS, KEYS | {"blocks": [7] * 32}),
    "replicas.MOVE": (
        replicas.MOVE,
        PLACE | {"shuffle": [7000], "unit_id": [17_000], "to": [7]},
    ),
    "batches.COUNT_BY_STATE": (batches.COUNT_BY_STATE, {"batch": 1}),
    "ledger.REVERSE": (ledger.REVERSE, KEYS),
    "annotations.WITHDRAW": (annotations.WITHDRAW, KEYS | {"now": NOW}),
    "rounds.UNBOOK": (rounds.UNBOOK, KEYS),
    "rounds.FORGIVE": (rounds.FORGIVE, KEYS),
    "rounds.END_ROUND": (rounds.END_ROUND, ENDED | {"now": NOW, "reason": ""}),
    "rounds.KEEP_ANSWERS": (rounds.KEEP_ANSWERS, KEYS),
    "rounds.LEAVE_ANSWERS": (rounds.LEAVE_ANSWERS, KEYS),
    "rounds.REOPEN": (rounds.REOPEN, KEYS | {"voices": [0] * 32}),
    "rounds.LEFT_BEHIND": (rounds.LEFT_BEHIND, KEYS | {"users": [7] * 32, "hashes": [b""] * 32}),
    "selections.SELECT": (selections.SELECT, PAGE),
    "selections.PLACES": (selections.PLACES, {"ids": list(range(15_001, 15_033))}),
    "selections.ROWS": (selections.ROWS, KEYS),
    "annotations.BOOK_SETTLED": (annotations.BOOK_SETTLED, {"limit": 2000, "now": NOW} | LIVES),
}


@pytest.fixture(scope="module")
def filled(postgres: str) -> Iterator[str]:
    """A database of 30,000 units whose statistics are known."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE planned TEMPLATE template_chorus STRATEGY file_copy")
        url = in_database(postgres, "planned")
        with psycopg.connect(url, autocommit=True) as filling:
            filling.execute(FILL)
            filling.execute("VACUUM ANALYZE")
        yield url
        connection.execute("DROP DATABASE planned WITH (FORCE)")


@pytest.fixture
def connection(filled: str) -> Iterator[psycopg.Connection]:
    """A transaction that is rolled back, and whose prepared statements get generic plans."""
    with psycopg.connect(filled) as opened:
        opened.execute("SET plan_cache_mode = force_generic_plan")
        yield opened
        opened.rollback()


def _plan(connection: psycopg.Connection, name: str) -> list[dict[str, Any]]:
    """Every node of the plan of a statement, prepared by psycopg just as in the server."""
    statement, parameters = STATEMENTS[name]
    connection.execute(statement, parameters, prepare=True)
    [(prepared,)] = connection.execute(
        "SELECT name FROM pg_prepared_statements WHERE statement NOT LIKE '%%pg_prepared%%' "
        "ORDER BY prepare_time DESC LIMIT 1",
        prepare=False,
    ).fetchall()
    order = list(dict.fromkeys(re.findall(r"%\((\w+)\)[sbt]", statement)))
    values = sql.SQL(", ").join(sql.Literal(parameters[parameter]) for parameter in order)
    explain = sql.SQL("EXPLAIN (FORMAT JSON) EXECUTE {}").format(sql.Identifier(prepared))
    if order:
        explain += sql.SQL("({})").format(values)
    [(explained,)] = connection.execute(explain, prepare=False).fetchall()
    return list(_nodes(explained[0]["Plan"]))


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


def _scanned(nodes: list[dict[str, Any]]) -> set[str]:
    """Hot tables that are read from end to end: in their own order, or in an index's and then filtered."""
    return {
        node["Relation Name"]
        for node in nodes
        if node.get("Relation Name") in HOT
        and (
            node["Node Type"] == "Seq Scan"
            or (
                "Filter" in node
                and not node.keys() & {"Index Cond", "TID Cond"}
                and node.get("Index Name") not in PARTIAL
            )
        )
    }


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_hot_statement_reads_a_hot_table_from_end_to_end(connection: psycopg.Connection, name: str):
    nodes = _plan(connection, name)
    assert any(node.get("Relation Name") in HOT for node in nodes), "the plan touches nothing hot"
    assert not _scanned(nodes), json.dumps(nodes[0], indent=1)


BY_KEY = {"ready", "leases", "results", "units", "past_leases"}


@pytest.mark.parametrize(
    "name",
    [
        "shelves.CANDIDATES",
        "shelves.BLOCK_AFTER",
        "shelves.AT",
        "shelves.TAKE",
        "replicas.LANES_OF",
        "replicas.REMOVE",
        "units.LOCK",
        "units.FACTS",
        "leases.OF_UNITS",
        "leases.ANSWERED",
        "leases.OF_HOST",
        "leases.TOLD_AGAIN",
        "leases.AFTER",
        "leases.EXTEND",
        "leases.PAST",
        "results.OF_UNITS",
    ],
)
def test_a_plan_made_while_tables_were_empty_reads_by_key_all_the_same(database_url: str, name: str):
    """Statistics of emptied tables make any plan look free; a cached one then scans what has grown since."""
    with psycopg.connect(database_url, autocommit=True, options=BY_INDEX) as opened:
        opened.execute("SET plan_cache_mode = force_generic_plan")
        opened.execute("INSERT INTO ready SELECT 1, 1, 0, 0, n, n, n FROM generate_series(1, 500) n")
        opened.execute("INSERT INTO leases SELECT 1, n, 0, 1, 1, now(), now() FROM generate_series(1, 500) n")
        opened.execute("DELETE FROM ready")
        opened.execute("DELETE FROM leases")
        opened.execute("VACUUM (ANALYZE, TRUNCATE false) ready, leases, units, results")
        nodes = _plan(opened, name)
    scans = [node for node in nodes if node.get("Relation Name") in BY_KEY and "Scan" in node["Node Type"]]
    by_key = [node for node in scans if "Index Cond" in node or node["Node Type"] == "Tid Scan"]
    assert scans
    assert scans == by_key


def test_a_claim_walks_the_shelf_by_its_key_in_order(connection: psycopg.Connection):
    nodes = _plan(connection, "shelves.CANDIDATES")
    [walk] = [node for node in nodes if node.get("Alias") == "r" and "shuffle" in node.get("Index Cond", "")]
    assert (walk["Node Type"], walk["Index Name"]) == ("Index Scan", "pk_ready")
    key = ("campaign_id", "perspective_id", "tier", "lane", "block")
    assert all(f"{column} = " in walk["Index Cond"] for column in key)
    sorted_by = [key for node in nodes for key in node.get("Sort Key", ())]
    assert not [key for key in sorted_by if key.startswith("r.")]


def test_lapsed_leases_are_found_by_their_deadline(connection: psycopg.Connection):
    nodes = _plan(connection, "leases.EXPIRED")
    walks = [node for node in nodes if node.get("Relation Name") == "leases"]
    assert {walk["Index Name"] for walk in walks} == {"ix_leases_host"}
    conditions = [walk.get("Index Cond", "") for walk in walks]
    assert ["host_id" in condition for condition in conditions] == [False, True, True]
    assert ["deadline <" in condition for condition in conditions] == [False, False, True]
    assert "Sort" not in {node["Node Type"] for node in nodes}


def test_lapsed_leases_cost_a_probe_a_host_however_many_are_not_due(connection: psycopg.Connection):
    statement, parameters = STATEMENTS["leases.EXPIRED"]
    explain = "EXPLAIN (ANALYZE, FORMAT JSON) "
    [(explained,)] = connection.execute(explain + statement, parameters, prepare=False).fetchall()
    read = [
        node["Actual Rows"] * node["Actual Loops"]
        for node in _nodes(explained[0]["Plan"])
        if node.get("Relation Name") == "leases"
    ]
    counted = connection.execute("SELECT count(DISTINCT host_id), count(*) FROM leases").fetchone()
    assert counted == (sum(read), 7500)


def test_generic_plans_are_what_was_looked_at(connection: psycopg.Connection):
    _plan(connection, "units.LOCK")
    planned = connection.execute(
        "SELECT sum(generic_plans), sum(custom_plans) FROM pg_prepared_statements WHERE statement LIKE %s",
        ("%FOR NO KEY UPDATE%",),
        prepare=False,
    ).fetchone()
    assert planned is not None
    assert (planned[0] >= 2, planned[1]) == (True, 0)


DEPENDS_ON = {
    "shelves.CANDIDATES": ("ALTER TABLE ready DROP CONSTRAINT pk_ready", "ready"),
    "units.LOCK": (
        "ALTER TABLE units DROP CONSTRAINT pk_units CASCADE, DROP CONSTRAINT uq_units_key",
        "units",
    ),
    "leases.OF_UNITS": (
        """
        ALTER TABLE leases DROP CONSTRAINT pk_leases, DROP CONSTRAINT uq_leases_one_per_user;
        DROP INDEX ix_leases_host
        """,
        "leases",
    ),
    "results.OF_UNITS": ("ALTER TABLE results DROP CONSTRAINT pk_results", "results"),
    "ledger.FOLD": ("DROP INDEX ix_ledger_unfolded", "ledger"),
    "rates.SINCE": ("DROP INDEX ix_host_rates_updated_at", "host_rates"),
    "ledger.EVIDENCE_SINCE": ("DROP INDEX ix_standings_folded_at", "standings"),
    "leases.PAST": ("DROP INDEX ix_past_leases_unit", "past_leases"),
}


@pytest.mark.parametrize("name", DEPENDS_ON)
def test_a_missing_index_would_be_seen(connection: psycopg.Connection, name: str):
    drop, table = DEPENDS_ON[name]
    connection.execute(drop)
    assert table in _scanned(_plan(connection, name))


@pytest.fixture(scope="module")
def split(postgres: str, filled: str) -> Iterator[str]:
    """The same database with its growing tables partitioned by campaign."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE split TEMPLATE {filled.rpartition('/')[2].partition('?')[0]}")
        url = in_database(postgres, "split")
        partition(url, (1, 2))
        yield url
        connection.execute("DROP DATABASE split WITH (FORCE)")


@pytest.mark.parametrize("name", STATEMENTS)
def test_on_tables_partitioned_by_campaign_no_statement_reads_one_from_end_to_end(split: str, name: str):
    with psycopg.connect(split, options=BY_INDEX) as opened:
        opened.execute("SET plan_cache_mode = force_generic_plan")
        nodes = _plan(opened, name)
        opened.rollback()
    names = {*HOT, *(f"{table}_{part}" for table in GROWING for part in ("1", "2", "rest"))}
    scans = [node for node in nodes if node.get("Relation Name") in names]
    assert scans
    whole = [node for node in scans if node["Node Type"] == "Seq Scan"]
    assert not whole, json.dumps(nodes[0], indent=1)
