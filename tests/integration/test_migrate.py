"""Migrations: one process at a time, nothing to do the second time, and never backwards."""

import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest
from conftest import in_database

from store.database import DatabaseError
from store.migrate import upgrade


@pytest.fixture
def empty_url(postgres: str) -> Iterator[str]:
    """A database with nothing in it."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty_one")
        yield in_database(postgres, "empty_one")
        connection.execute("DROP DATABASE empty_one WITH (FORCE)")


def _tables(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return {row[0] for row in found}


def test_processes_that_migrate_at_once_wait_for_each_other(empty_url: str):
    command = [sys.executable, "-c", "import sys; from store.migrate import upgrade; upgrade(sys.argv[1])"]
    processes = [
        subprocess.Popen([*command, empty_url], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(3)
    ]
    outcomes = [(process.communicate(timeout=60)[0], process.returncode) for process in processes]
    assert [code for _, code in outcomes] == [0, 0, 0], outcomes
    assert {"units", "ready", "leases", "results"} <= _tables(empty_url)


def test_migrating_again_changes_nothing(database_url: str):
    before = _tables(database_url)
    upgrade(database_url)
    assert _tables(database_url) == before


def test_a_schema_of_a_newer_chorus_is_refused_and_left_alone(database_url: str):
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(DatabaseError, match=r"9999.*Update Chorus") as refused:
        upgrade(database_url)
    assert refused.value.code == "schema_too_new"
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]
        locks = connection.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone()
        assert locks == (0,)


def test_a_migration_that_fails_leaves_the_database_as_it_was(empty_url: str):
    with psycopg.connect(empty_url) as connection:
        connection.execute("CREATE TABLE ledger (mine int)")
    with pytest.raises(Exception, match="ledger"):
        upgrade(empty_url)
    assert _tables(empty_url) == {"ledger"}


def test_a_database_that_does_not_answer_is_told_in_words():
    with pytest.raises(DatabaseError, match="does not answer") as refused:
        upgrade("postgresql://nobody@127.0.0.1:1/none")
    assert refused.value.code == "database_unreachable"
