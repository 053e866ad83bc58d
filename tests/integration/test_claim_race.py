"""Many hosts claim at once: no replica is in two hands, no user holds a unit twice, nothing is left over."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime

import pytest
from support.engine import Engine, caption, key_of

from coordinator.identity import Caller
from coordinator.scheduler import Ability
from store import leases, replicas, shelves
from store.database import Transaction
from store.leases import Lease
from store.shelves import LeasedUnit, NewLease

UNITS = 400
HOSTS = 12


async def _claim_until_empty(engine: Engine, caller: Caller) -> list[LeasedUnit]:
    """Claims until three empty answers in a row: one empty answer may only mean "locked just now"."""
    got: list[LeasedUnit] = []
    empty = 0
    while empty < 3:
        await engine.leasing.look_at_shelves()
        units = (await engine.leasing(caller, Ability(caller.tier_cap), 16)).units
        got += units
        empty = 0 if units else empty + 1
    return got


async def test_concurrent_claims_lease_every_replica_exactly_once(engine: Engine):
    campaign = await engine.campaign(replication=2)
    await engine.images(campaign, UNITS)
    callers = [await engine.host() for _ in range(HOSTS)]

    taken = await asyncio.gather(*(_claim_until_empty(engine, caller) for caller in callers))

    replicas = Counter((key_of(unit), unit.lane) for units in taken for unit in units)
    assert max(replicas.values()) == 1
    assert len(replicas) == 2 * UNITS
    assert await engine.value("SELECT count(*) FROM leases") == 2 * UNITS
    assert await engine.value("SELECT count(*) FROM ready") == 0


async def test_two_hosts_of_one_user_never_hold_the_same_unit(engine: Engine):
    campaign = await engine.campaign(replication=3, max_voices=3)
    await engine.images(campaign, UNITS // 4)
    callers = [await engine.host(user=f"user{number % 3}") for number in range(HOSTS)]

    taken = await asyncio.gather(*(_claim_until_empty(engine, caller) for caller in callers))

    held = Counter(
        (caller.user_id, key_of(unit)) for caller, units in zip(callers, taken, strict=True) for unit in units
    )
    assert max(held.values()) == 1
    assert len(held) == 3 * (UNITS // 4)


def _without_deleting(sql: str) -> str:
    """The claim, but replicas stay on their shelf: the guard that makes it give each to one caller alone."""
    assert "DELETE FROM ready" in sql
    return sql.replace("DELETE FROM ready", "SELECT FROM ready")  # our own SQL, altered


@pytest.mark.parametrize("guarded", [True, False])
async def test_the_race_is_lost_where_replicas_do_not_leave_their_shelf(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, guarded: bool
):
    """The same claims as above, with and without the guard; the last defence (UNIQUE) is out of the way."""
    campaign = await engine.campaign(replication=2)
    await engine.images(campaign, UNITS // 4)
    await _drop_unique_leases(engine)
    if not guarded:
        monkeypatch.setattr(shelves, "TAKE", _without_deleting(shelves.TAKE))
    callers = [await engine.host() for _ in range(HOSTS)]

    leases_by_call = await asyncio.gather(*(engine.lease(caller, 16) for caller in callers for _ in range(3)))

    replicas = Counter((key_of(unit), unit.lane) for units in leases_by_call for unit in units)
    assert (max(replicas.values()) == 1) is guarded


@pytest.mark.parametrize("guarded", [True, False])
async def test_the_race_is_lost_where_a_users_hosts_do_not_wait_for_each_other(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, guarded: bool
):
    """One host of a user has drawn and not yet committed; another of the same user draws the next lane."""
    campaign = await engine.campaign(replication=2)
    await engine.images(campaign, 20)
    await _drop_unique_leases(engine)
    first, second = await engine.host(user="same"), await engine.host(user="same")
    await engine.fetch(SECOND_LANES)
    another = Engine(engine.db)  # another process: calls of one share a transaction
    for process in (engine, another):
        await process.campaigns.refresh()
        await process.leasing.look_at_shelves()
        monkeypatch.setattr(process.scheduler, "start", lambda _shelf: (0, 0))
    drawn, other_done = asyncio.Event(), asyncio.Event()
    real_take = shelves.take

    async def slow_commit(
        tx: Transaction, new: Sequence[NewLease], closed: Sequence[str], now: datetime
    ) -> set[tuple[int, int, int]]:
        taken = await real_take(tx, new, closed, now)
        if new and new[0].host_id == first.host_id:
            drawn.set()
            with contextlib.suppress(TimeoutError):  # with the guard the other one waits for this commit
                await asyncio.wait_for(other_done.wait(), 1)
        return taken

    async def no_guard(_tx: Transaction, _user_ids: Collection[int]) -> None:
        return

    monkeypatch.setattr(shelves, "take", slow_commit)
    if not guarded:
        monkeypatch.setattr(shelves, "guard_users", no_guard)

    async def claim_after_the_first() -> list[LeasedUnit]:
        await drawn.wait()
        units = list((await another.leasing(second, Ability(second.tier_cap), 20)).units)
        other_done.set()
        return units

    one, other = await asyncio.gather(
        engine.leasing(first, Ability(first.tier_cap), 20), claim_after_the_first()
    )

    twice = {key_of(unit) for unit in one.units} & {key_of(unit) for unit in other}
    assert len(one.units) == 20
    assert (not twice) is guarded


SECOND_LANES = """
WITH first AS (UPDATE ready SET fresh = false RETURNING *)
INSERT INTO ready (campaign_id, perspective_id, tier, lane, block, shuffle, unit_id)
SELECT campaign_id, perspective_id, tier, 1, block, shuffle, unit_id FROM first RETURNING unit_id
"""


async def _drop_unique_leases(engine: Engine) -> None:
    async def body(tx: Transaction) -> None:
        await tx.raw.execute("ALTER TABLE leases DROP CONSTRAINT pk_leases")
        await tx.raw.execute("ALTER TABLE leases DROP CONSTRAINT uq_leases_one_per_user")

    await engine.db.transaction("drop the last defence", body)


async def test_a_replica_of_a_settled_unit_is_not_leased_but_leaves_its_shelf(engine: Engine):
    campaign = await engine.campaign()
    await engine.images(campaign, 1)
    await engine.fetch(
        "UPDATE units SET state = 'exhausted', settled_at = now(), verdict = '{}' RETURNING id"
    )

    assert await engine.lease(await engine.host()) == []
    assert await engine.value("SELECT count(*) FROM ready") == 0


async def test_a_replica_drawn_while_its_unit_asks_for_more_is_not_born_twice(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    """An answer that wants a second voice looks for the second lane just when somebody draws it."""
    campaign = await engine.campaign(replication=2)
    await engine.images(campaign, 1)
    one, two = await engine.host(), await engine.host()
    [unit] = await engine.lease(one)
    looks: list[str] = []
    read_shelves, read_leases = replicas.lanes_of, leases.of_units

    async def watched_shelves(
        tx: Transaction, keys: Sequence[tuple[int, int]]
    ) -> list[tuple[int, int, int, bool]]:
        found = await read_shelves(tx, keys)
        await between_looks("shelves")
        return found

    async def watched_leases(tx: Transaction, keys: Sequence[tuple[int, int]]) -> list[Lease]:
        found = await read_leases(tx, keys)
        await between_looks("leases")
        return found

    async def between_looks(name: str) -> None:
        """Somebody draws the second lane after the first of the two looks by which a unit is widened."""
        looks.append(name)
        if len(looks) == 1:
            assert await engine.lease(two)

    monkeypatch.setattr(replicas, "lanes_of", watched_shelves)
    monkeypatch.setattr(leases, "of_units", watched_leases)
    await engine.give(one, {key_of(unit): caption(5)})

    assert len(looks) == 2
    assert await engine.fetch("SELECT lane, user_id FROM leases") == [(1, two.user_id)]
    assert await engine.value("SELECT count(*) FROM ready") == 0
