"""The door to PostgreSQL: what is retried, what is not, and what is said when it stays shut."""

import asyncio

import psycopg
import pytest
import sqlalchemy as sa
from prometheus_client import REGISTRY

from store import database as database_module
from store.database import ATTEMPTS, Database, DatabaseError, Transaction, driver_url


async def _table(db: Database) -> None:
    async def body(tx: Transaction) -> None:
        await tx.raw.execute("CREATE TABLE pairs (id int PRIMARY KEY, n int NOT NULL)")
        await tx.raw.execute("INSERT INTO pairs VALUES (1, 0), (2, 0)")

    await db.transaction("table", body)


async def _counts(db: Database) -> list[int]:
    async def body(tx: Transaction) -> list[int]:
        found = await tx.raw.execute("SELECT n FROM pairs ORDER BY id")
        return [row[0] for row in await found.fetchall()]

    return await db.transaction("counts", body)


@pytest.mark.parametrize("kind", ["raw", "sql"])
async def test_a_real_deadlock_is_tried_again_and_both_succeed(db: Database, kind: str):
    await _table(db)
    both_hold_one = asyncio.Barrier(2)
    attempts = [0, 0]

    async def move(number: int, ids: tuple[int, int]) -> None:
        async def body(tx: Transaction) -> None:
            attempts[number] += 1
            for place, row in enumerate(ids):
                if place == 1 and attempts[number] == 1:
                    await both_hold_one.wait()
                if kind == "raw":
                    await tx.raw.execute("UPDATE pairs SET n = n + 1 WHERE id = %s", (row,))
                else:
                    await tx.sql.execute(sa.text("UPDATE pairs SET n = n + 1 WHERE id = :row"), {"row": row})

        await db.transaction("move", body)

    await asyncio.gather(move(0, (1, 2)), move(1, (2, 1)))
    assert sorted(attempts) == [1, 2]
    assert await _counts(db) == [2, 2]


async def test_a_serialisation_failure_is_tried_a_few_times_and_then_told_by_name(db: Database):
    tries = 0

    async def body(tx: Transaction) -> None:
        nonlocal tries
        tries += 1
        await tx.raw.execute("DO $$ BEGIN RAISE serialization_failure; END $$")

    with pytest.raises(psycopg.errors.SerializationFailure) as failed:
        await db.transaction("stubborn", body)
    assert tries == ATTEMPTS
    assert any("stubborn" in note for note in failed.value.__notes__)


async def test_any_other_error_is_not_tried_again_and_leaves_nothing(db: Database):
    await _table(db)
    tries = 0

    async def body(tx: Transaction) -> None:
        nonlocal tries
        tries += 1
        await tx.raw.execute("UPDATE pairs SET n = 7")
        raise LookupError("ours")

    with pytest.raises(LookupError):
        await db.transaction("faulty", body)
    assert (tries, await _counts(db)) == (1, [0, 0])


@pytest.mark.parametrize("pipelined", [False, True])
async def test_what_is_told_on_commit_is_told_once_and_when_all_is_durable(
    db: Database, database_url: str, pipelined: bool
):
    await _table(db)
    seen: list[int] = []
    tries = 0

    def look() -> None:
        with psycopg.connect(database_url) as other:
            seen.append(other.execute("SELECT n FROM pairs WHERE id = 1").fetchone()[0])

    async def body(tx: Transaction) -> None:
        nonlocal tries
        tries += 1
        tx.on_commit.append(look)
        await tx.raw.execute("UPDATE pairs SET n = 7 WHERE id = 1")
        if tries == 1:
            await tx.raw.execute("DO $$ BEGIN RAISE serialization_failure; END $$")

    await db.transaction("told", body, pipelined=pipelined)
    assert (tries, seen) == (2, [7])


async def test_what_is_rolled_back_is_not_told(db: Database):
    told: list[bool] = []

    async def body(tx: Transaction) -> None:
        tx.on_commit.append(lambda: told.append(True))
        raise LookupError("ours")

    with pytest.raises(LookupError):
        await db.transaction("untold", body)
    assert told == []


async def test_transactions_are_measured_by_name(db: Database, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(database_module, "SLOW_S", 0.0)
    told: list[dict[str, object]] = []
    monkeypatch.setattr(database_module.log, "warning", lambda _, **words: told.append(words))

    async def fails(tx: Transaction) -> None:
        await tx.raw.execute("DO $$ BEGIN RAISE serialization_failure; END $$")

    await db.transaction("measured", lambda tx: tx.raw.execute("SELECT 1"))
    with pytest.raises(psycopg.errors.SerializationFailure):
        await db.transaction("measured", fails)

    def figure(name: str) -> float | None:
        return REGISTRY.get_sample_value(name, {"name": "measured"})

    assert figure("chorus_transaction_seconds_count") == 1
    assert figure("chorus_transaction_retries_total") == ATTEMPTS - 1
    assert figure("chorus_transaction_failures_total") == 1
    assert [words["transaction"] for words in told] == ["measured"]
    assert REGISTRY.get_sample_value("chorus_pool_in_use") == 0


async def test_a_cancelled_transaction_leaves_nothing_and_its_connection_is_not_lost(database_url: str):
    db = Database.connect(database_url, pool_size=1)
    await _table(db)
    inside = asyncio.Event()

    async def body(tx: Transaction) -> None:
        await tx.raw.execute("UPDATE pairs SET n = 7")
        inside.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(db.transaction("endless", body))
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await _counts(db) == [0, 0]
    await db.close()


async def test_a_connection_that_was_cut_is_replaced(db: Database, database_url: str):
    await _table(db)
    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            "AND datname = current_database()"
        )
    with pytest.raises((sa.exc.DBAPIError, psycopg.OperationalError)):
        await _counts(db)
    assert await _counts(db) == [0, 0]


async def test_the_server_at_hand_is_new_enough(db: Database):
    await db.check_server()


async def test_an_old_server_is_refused_with_its_version(db: Database, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(database_module, "MINIMUM_SERVER", 990_000)
    with pytest.raises(DatabaseError, match=r"needs PostgreSQL 17 or newer; this server is 18\.") as refused:
        await db.check_server()
    assert refused.value.code == "database_too_old"


async def test_a_server_that_does_not_answer_is_told_in_one_line():
    db = Database.connect("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(DatabaseError, match="PostgreSQL does not answer: ") as refused:
        await db.check_server()
    assert refused.value.code == "database_unreachable"
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://h/d", "sqlite:///x", "postgresql+psycopg2:", "\0"])
def test_a_url_of_another_kind_is_refused_without_being_repeated(url: str):
    with pytest.raises(DatabaseError, match="database URL") as refused:
        driver_url(url)
    assert refused.value.code == "database_url_invalid"


@pytest.mark.parametrize("url", ["postgres://u:secret@h:1/d", "postgresql://u:secret@h:1/d?sslmode=require"])
def test_both_common_spellings_get_our_driver(url: str):
    parsed = driver_url(url)
    assert parsed.drivername == "postgresql+psycopg"
    assert (parsed.host, parsed.port, parsed.database) == ("h", 1, "d")
    assert "secret" not in str(parsed)
