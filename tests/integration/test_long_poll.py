"""Waiting for work: word of it is enough, nobody needs to poll, and nobody who hung up is handed any."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress

import psycopg
import pytest
from support.engine import Engine, key_of

from coordinator import campaigns as campaign_commands
from coordinator import lookout
from coordinator.campaigns import Campaign
from coordinator.identity import Caller
from coordinator.leasing import Leased
from coordinator.scheduler import Ability
from protos.tier import Tier
from store import notices, shelves
from store.database import Database
from store.notices import Ear

NEVER_S = 3600.0
AT_MOST_S = 60.0


@pytest.fixture
async def elsewhere(database_url: str) -> AsyncIterator[Engine]:
    """An engine of another process on the same database."""
    database = Database.connect(database_url, pool_size=2)
    yield Engine(database, seed=2)
    await database.close()


@pytest.fixture
def no_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked at without word of it."""
    monkeypatch.setattr(lookout, "QUICK_S", NEVER_S)
    monkeypatch.setattr(lookout, "SLOW_S", NEVER_S)


@asynccontextmanager
async def served(engine: Engine, url: str | None = None) -> AsyncIterator[None]:
    """Keeps the engine's picture fresh as a server does."""
    watch = engine.long_poll.lookout
    tasks = [asyncio.create_task(watch.keep(engine.long_poll.look))]
    if url is not None:
        tasks.append(asyncio.create_task(watch.listen(url, engine.db.bell)))
        await until(lambda: watch.hears)
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(AT_MOST_S):
        while True:
            if condition():
                return
            await asyncio.sleep(0)


async def counted(engine: Engine, sql: str, count: int) -> None:
    """Until the database counts so many rows."""
    async with asyncio.timeout(AT_MOST_S):
        while True:
            if await engine.value(sql) == count:
                return


def waiting(engine: Engine, caller: Caller, wait_s: float = NEVER_S) -> asyncio.Task[Leased]:
    return asyncio.create_task(engine.long_poll(caller, Ability(Tier.G80), 5, wait_s))


async def settled(engine: Engine, callers: int) -> None:
    """Until so many calls wait."""
    await until(lambda: engine.long_poll.waiting == callers)


async def arrived(call: asyncio.Task[Leased]) -> int:
    return len((await asyncio.wait_for(call, AT_MOST_S)).units)


@pytest.mark.usefixtures("no_polls")
async def test_work_of_another_process_arrives_by_word_alone(
    engine: Engine, elsewhere: Engine, database_url: str
):
    campaign = await engine.campaign()
    async with served(engine, database_url):
        call = waiting(engine, await engine.host())
        await settled(engine, 1)
        await elsewhere.images(campaign, 2)
        assert await arrived(call) == 2


@pytest.mark.usefixtures("no_polls")
async def test_a_campaign_that_is_new_arrives_by_word_alone(
    engine: Engine, elsewhere: Engine, database_url: str
):
    async with served(engine, database_url):
        call = waiting(engine, await engine.host())
        await settled(engine, 1)
        await elsewhere.images(await elsewhere.campaign(), 1)
        assert await arrived(call) == 1


@pytest.mark.usefixtures("no_polls")
async def test_a_campaign_that_is_resumed_arrives_by_word_alone(
    engine: Engine, elsewhere: Engine, database_url: str
):
    campaign = await engine.campaign()
    await engine.images(campaign, 1)
    await campaign_commands.set_state(elsewhere.db, campaign.name, "paused")
    await engine.campaigns.refresh()
    await engine.long_poll.look()
    async with served(engine, database_url):
        call = waiting(engine, await engine.host())
        await settled(engine, 1)
        await campaign_commands.set_state(elsewhere.db, campaign.name, "running")
        assert await arrived(call) == 1


async def _all_leased(engine: Engine, elsewhere: Engine) -> tuple[Campaign, Caller, list[tuple[int, int]]]:
    campaign = await engine.campaign(replication=1, lease_s=60)
    await elsewhere.campaigns.refresh()
    await engine.images(campaign, 3)
    holder = await engine.host()
    return campaign, holder, [key_of(unit) for unit in await engine.lease(holder)]


@pytest.mark.usefixtures("no_polls")
async def test_what_a_host_releases_elsewhere_arrives_by_word_alone(
    engine: Engine, elsewhere: Engine, database_url: str
):
    _, holder, held = await _all_leased(engine, elsewhere)
    async with served(engine, database_url):
        call = waiting(engine, await engine.host())
        await settled(engine, 1)
        await elsewhere.work.release(holder, held, "tired")
        assert await arrived(call) == 3


@pytest.mark.usefixtures("no_polls")
async def test_what_expires_elsewhere_arrives_by_word_alone(
    engine: Engine, elsewhere: Engine, database_url: str
):
    await _all_leased(engine, elsewhere)
    async with served(engine, database_url):
        call = waiting(engine, await engine.host())
        await settled(engine, 1)
        engine.pass_time(61)
        elsewhere.pass_time(61)
        assert await elsewhere.work.expire(100) == 3
        assert await arrived(call) == 3


@pytest.mark.usefixtures("no_polls")
async def test_a_replica_that_a_lease_births_wakes_its_own_process_without_a_notice(engine: Engine):
    campaign = await engine.campaign(replication=2, spot_check=1)
    async with served(engine):
        await engine.images(campaign, 1)
        first, second = await engine.host(), await engine.host()
        calls = [waiting(engine, first), waiting(engine, second)]
        assert [await arrived(call) for call in calls] == [1, 1]


@pytest.mark.usefixtures("no_polls")
async def test_a_replica_that_a_return_births_wakes_its_own_process_without_a_notice(engine: Engine):
    campaign = await engine.campaign(replication=2, spot_check=1)
    await engine.images(campaign, 1)
    async with served(engine):
        first, third = await engine.host(), await engine.host()
        unit = (await engine.lease(first))[0]
        assert len(await engine.lease(await engine.host())) == 1
        call = waiting(engine, third)
        await settled(engine, 1)
        await engine.fail(first, [key_of(unit)])
        assert await arrived(call) == 1


async def test_a_listener_that_is_deaf_is_known_and_work_is_found_all_the_same(
    engine: Engine, elsewhere: Engine, postgres: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(notices, "CHECK_S", 0.05)
    campaign = await engine.campaign()
    async with served(engine):
        listening = asyncio.create_task(engine.long_poll.lookout.listen(postgres, engine.db.bell))
        call = waiting(engine, await engine.host())
        await settled(engine, 1)
        await elsewhere.images(campaign, 1)
        assert await arrived(call) == 1
        # Notices stay inside their database: LISTEN succeeds and nothing comes, as behind some poolers.
        assert not engine.long_poll.lookout.hears
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


@pytest.mark.usefixtures("no_polls")
async def test_a_listener_whose_connection_is_cut_listens_again(
    engine: Engine, elsewhere: Engine, database_url: str
):
    campaign = await engine.campaign()
    cut = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE application_name = 'chorus listener' AND datname = current_database()"""
    watch = engine.long_poll.lookout
    async with served(engine, database_url):
        assert await engine.value(cut) == 1
        await until(lambda: not watch.hears)
        await until(lambda: watch.hears)
        call = waiting(engine, await engine.host())
        await settled(engine, 1)
        await elsewhere.images(campaign, 1)
        assert await arrived(call) == 1


async def test_rings_that_come_together_are_two_notices_at_most(db: Database, database_url: str):
    heard = 0

    def hear() -> None:
        nonlocal heard
        heard += 1

    ear = Ear(database_url, db.bell, hear)
    listening = asyncio.create_task(ear.listen())
    await until(lambda: ear.hears)
    before = heard
    for _ in range(100):
        db.bell.ring()
        await asyncio.sleep(0)
    await db.bell.close()
    await db.bell.say("")  # all that was sent before it is heard before it
    await until(lambda: heard >= before + 3)
    assert heard == before + 3
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


@pytest.fixture
def locked_out(database_url: str) -> Iterator[psycopg.Connection]:
    """Somebody else's transaction, to keep a lease waiting by."""
    with psycopg.connect(database_url) as connection:
        yield connection


async def _hold(connection: psycopg.Connection, caller: Caller) -> None:
    await asyncio.to_thread(connection.execute, shelves.GUARD_USERS, {"users": [caller.user_id]})


async def _blocked(engine: Engine, count: int) -> None:
    """Until so many lease transactions wait for a user's lock."""
    await counted(engine, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", count)


async def test_a_call_that_hangs_up_while_its_lease_is_made_leaves_none_behind(
    engine: Engine, locked_out: psycopg.Connection
):
    await engine.images(await engine.campaign(), 3)
    gone, other = await engine.host(), await engine.host()
    await _hold(locked_out, gone)
    call = waiting(engine, gone)
    await _blocked(engine, 1)
    call.cancel()
    with suppress(asyncio.CancelledError):
        await call
    locked_out.rollback()
    await counted(engine, "SELECT count(*) FROM past_leases", 3)
    await engine.leasing.close()
    assert await engine.value("SELECT count(*) FROM leases") == 0
    assert await engine.fetch("SELECT DISTINCT ending FROM past_leases") == [("released",)]
    assert len(await engine.lease(other)) == 3


async def test_a_call_that_hangs_up_before_its_turn_is_never_leased_anything(
    engine: Engine, locked_out: psycopg.Connection
):
    await engine.images(await engine.campaign(), 3)
    busy, gone = await engine.host(), await engine.host()
    await _hold(locked_out, busy)
    first = waiting(engine, busy)
    await _blocked(engine, 1)
    call = waiting(engine, gone)
    await asyncio.sleep(0)
    call.cancel()
    with suppress(asyncio.CancelledError):
        await call
    locked_out.rollback()
    assert await arrived(first) == 3
    rows = await engine.fetch(
        "SELECT host_id FROM leases UNION ALL SELECT host_id FROM past_leases WHERE host_id = %s",
        gone.host_id,
    )
    assert gone.host_id not in {row[0] for row in rows}


async def test_a_call_is_told_of_nothing_when_its_time_is_over(engine: Engine):
    await engine.campaign()
    call = waiting(engine, await engine.host(), wait_s=0.01)
    assert await arrived(call) == 0
    assert engine.long_poll.waiting == 0


@pytest.mark.usefixtures("no_polls")
async def test_a_host_waits_with_two_calls_and_more_are_answered_at_once(engine: Engine):
    await engine.campaign()
    busy, other = await engine.host(), await engine.host()
    async with served(engine):
        held = [waiting(engine, busy), waiting(engine, busy)]
        await settled(engine, 2)
        assert await arrived(waiting(engine, busy)) == 0
        held.append(waiting(engine, other))
        await settled(engine, 3)
        engine.long_poll.end()
        await asyncio.gather(*held)
