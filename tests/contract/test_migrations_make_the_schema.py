"""The migrations make what the tables say, and the tables say what the rules say."""

import re
from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from conftest import in_database

from coordinator.lifecycle import LeaseEnding, UnitMove, UnitState, states_before
from coordinator.settlement import LANES
from coordinator.submission import KIND
from store import (
    annotations,
    campaigns,
    contents,
    credit,
    leases,
    ledger,
    messages,
    replicas,
    results,
    rounds,
    shelves,
    tables,
    units,
    users,
)
from store.database import driver_url
from store.migrations import newest

CATALOGUE = {
    "columns": """
        SELECT table_name, column_name, data_type, is_nullable, column_default, is_identity
        FROM information_schema.columns WHERE table_schema = 'public'""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace""",
    "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "storage": """
        SELECT relname, reloptions FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND reloptions IS NOT NULL""",
    "sequences": "SELECT sequencename, data_type::text FROM pg_sequences WHERE schemaname = 'public'",
}


@pytest.fixture(scope="module")
def migrated(postgres: str) -> str:
    """The database that the migrations made."""
    return in_database(postgres, "template_chorus")


@pytest.fixture(scope="module")
def declared(postgres: str) -> Iterator[str]:
    """A database made from the tables alone."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE declared")
        url = in_database(postgres, "declared")
        engine = sa.create_engine(driver_url(url), poolclass=sa.NullPool)
        with engine.begin() as fresh:
            fresh.execute(sa.text("CREATE EXTENSION vector"))
            tables.metadata.create_all(fresh)
        yield url
        connection.execute("DROP DATABASE declared WITH (FORCE)")


def _catalogue(url: str, part: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = {str(row) for row in connection.execute(CATALOGUE[part])}
    return {row for row in rows if "alembic_version" not in row}


@pytest.mark.parametrize("part", CATALOGUE)
def test_the_migrations_make_exactly_what_the_tables_declare(migrated: str, declared: str, part: str):
    made, said = _catalogue(migrated, part), _catalogue(declared, part)
    assert made, "nothing was read"
    assert (sorted(made - said), sorted(said - made)) == ([], [])


def test_alembic_finds_nothing_to_migrate(migrated: str):
    engine = sa.create_engine(driver_url(migrated), poolclass=sa.NullPool)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, tables.metadata) == []


def test_migrations_are_one_line_and_the_newest_is_known_by_its_file(migrated: str):
    with psycopg.connect(migrated) as connection:
        at = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    assert at == [(newest(),)]


def test_every_table_module_is_gathered():
    named = {name for name, module in vars(tables).items() if module in tables.MODULES}
    held = {
        table.name
        for module in tables.MODULES
        for table in vars(module).values()
        if isinstance(table, sa.Table)
    }
    assert len(named) == len(tables.MODULES)
    assert held == set(tables.metadata.tables)


LISTS: dict[str, tuple[str, ...]] = {
    "ck_units_state": tuple(UnitState),
    "ck_units_kind": units.KINDS,
    "ck_past_leases_ending": tuple(ending for ending in LeaseEnding if ending is not LeaseEnding.ANSWERED),
    "ck_ledger_judgement": ledger.JUDGEMENTS,
    "ck_credit_totals_owner": credit.OWNERS,
    "ck_annotations_status": annotations.STATUSES,
    "ck_contents_status": contents.STATUSES,
    "ck_content_events_status": contents.STATUSES,
    "ck_content_sources_type": ("file", "url"),
    "ck_users_role": users.ROLES,
    "ck_messages_code": messages.CODES,
    "ck_hosts_state": ("active", "revoked"),
    "ck_campaigns_state": campaigns.STATES,
    "ck_past_rounds_state": tuple(states_before(UnitMove.REOPEN)),
}


def test_every_list_in_the_database_is_the_list_in_the_code(migrated: str):
    with psycopg.connect(migrated) as connection:
        found = connection.execute(
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'c' "
            "AND connamespace = 'public'::regnamespace AND pg_get_constraintdef(oid) LIKE '%= ANY%'"
        ).fetchall()
    listed = {name: set(re.findall(r"'(\w+)'::text", definition)) for name, definition in found}
    assert listed == {name: set(values) for name, values in LISTS.items()}


def test_the_stores_words_are_the_rules_words():
    assert set(units.STATES) == set(UnitState)
    assert set(leases.ENDINGS) == set(LeaseEnding) - {LeaseEnding.ANSWERED}
    assert KIND in units.KINDS


def test_an_answer_that_is_left_behind_keeps_all_that_is_known_of_it():
    kept = {
        column.name: repr(column.type) for column in rounds.past_results.columns if column.name != "round"
    }
    assert kept == {column.name: repr(column.type) for column in results.results.columns}
    for column in kept:
        assert f"l.{column}" in rounds.LEAVE_ANSWERS


def test_a_shelf_has_room_for_every_lane(migrated: str):
    with psycopg.connect(migrated) as connection:
        found = connection.execute(
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conname LIKE 'ck_ready%'"
        ).fetchall()
    numbers = {name: set(map(int, re.findall(r"\d+", definition))) for name, definition in found}
    assert numbers == {"ck_ready_lane": {0, LANES - 1}, "ck_ready_shuffle": {0, shelves.SHUFFLE_RANGE}}
    for statement in (units.SETTLE, replicas.LANES_OF):
        assert f"generate_series(0, {LANES - 1})" in statement
