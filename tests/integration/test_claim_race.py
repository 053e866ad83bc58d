"""Many hosts claim at once: no replica is in two hands, no user holds a unit twice, nothing is left over."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import psycopg
import pytest
from support.engine import Engine, caption, key_of

from coordinator.identity import Caller
from store import leases, shelves
from store.database import Transaction
from store.leases import Lease
from store.shelves import Holder, LeasedUnit

UNITS = 400
HOSTS = 12


async def _claim_until_empty(engine: Engine, caller: Caller) -> list[LeasedUnit]:
    """Claims until three empty answers in a row: one empty answer may only mean "locked just now"."""
    got: list[LeasedUnit] = []
    empty = 0
    while empty < 3:
        await engine.work.look_at_shelves()
        units = (await engine.work.lease(caller, caller.tier_cap, (), 16)).units
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


async def _claim_without_guard(engine: Engine, caller: Caller) -> None:
    """The obvious claim: count who holds a unit, then lease it, with nothing that makes claimers wait."""

    async def body(tx: Transaction) -> None:
        await tx.raw.execute(
            """
            INSERT INTO leases (campaign_id, unit_id, lane, host_id, user_id, leased_at, deadline)
            SELECT u.campaign_id, u.id, %s, %s, %s, now(), now()
            FROM units u
            WHERE (SELECT count(*) FROM leases l WHERE l.campaign_id = u.campaign_id AND l.unit_id = u.id) < 2
            ORDER BY random() LIMIT 40
            """,
            (caller.host_id % 32, caller.host_id, caller.user_id),
        )

    await engine.db.transaction("obvious claim", body)


async def test_the_race_is_real_a_claim_without_the_guard_leases_too_much(engine: Engine):
    """Shows that the tests above can fail: the claim that first comes to mind breaks the promise."""
    campaign = await engine.campaign(replication=2)
    await engine.images(campaign, UNITS // 4)
    callers = [await engine.host() for _ in range(HOSTS)]

    for _ in range(20):
        await asyncio.gather(*(_claim_without_guard(engine, caller) for caller in callers))
        too_many = await engine.value(
            "SELECT count(*) FROM (SELECT 1 FROM leases GROUP BY unit_id HAVING count(*) > 2) AS over"
        )
        if too_many:
            return
        await engine.fetch("WITH gone AS (DELETE FROM leases RETURNING 1) SELECT count(*) FROM gone")
    pytest.fail("twenty rounds of unguarded claims never leased a unit too often")


async def test_without_the_users_lock_two_hosts_of_one_user_collide(engine: Engine):
    """The UNIQUE constraint is the last defence: without the lock it is what two claims run into."""
    campaign = await engine.campaign(replication=2)
    await engine.images(campaign, 50)
    one, other = await engine.host(user="same"), await engine.host(user="same")
    first = (await engine.db.transaction("shelves", shelves.waiting))[0]
    both_drew = asyncio.Barrier(2)

    async def draw(caller: Caller, lane: int) -> None:
        async def body(tx: Transaction) -> None:
            await shelves.draw(
                tx,
                shelves.Shelf(first.campaign_id, first.perspective_id, first.tier, lane, 0),
                Holder(caller.host_id, caller.user_id),
                start=(0, 0),
                want=50,
                next_lane=False,
                now=engine.time,
                deadline=engine.time + timedelta(seconds=60),
            )

        await both_drew.wait()
        await engine.db.transaction("unguarded draw", body)

    await engine.fetch(
        "INSERT INTO ready SELECT campaign_id, perspective_id, tier, 1, block, shuffle, unit_id FROM ready "
        "RETURNING unit_id"
    )
    outcomes = []
    for _ in range(20):
        outcomes = await asyncio.gather(draw(one, 0), draw(other, 1), return_exceptions=True)
        if any(isinstance(outcome, psycopg.errors.UniqueViolation) for outcome in outcomes):
            return
        await engine.fetch(
            "WITH back AS (DELETE FROM leases RETURNING *) INSERT INTO ready "
            "SELECT u.campaign_id, u.perspective_id, u.tier, b.lane, u.block, u.shuffle, u.id "
            "FROM back b JOIN units u ON u.id = b.unit_id RETURNING unit_id"
        )
    pytest.fail(f"twenty unguarded rounds never collided: {outcomes}")


async def test_a_replica_drawn_while_its_unit_asks_for_more_is_not_born_twice(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    """An answer that wants a second voice looks for the second lane just when somebody draws it."""
    campaign = await engine.campaign(replication=2)
    await engine.images(campaign, 1)
    one, two = await engine.host(), await engine.host()
    [unit] = await engine.lease(one)
    looks: list[str] = []
    read_shelves, read_leases = shelves.lanes_of, leases.of_units

    async def watched_shelves(tx: Transaction, keys: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
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

    monkeypatch.setattr(shelves, "lanes_of", watched_shelves)
    monkeypatch.setattr(leases, "of_units", watched_leases)
    await engine.give(one, {key_of(unit): caption(5)})

    assert len(looks) == 2
    assert await engine.fetch("SELECT lane, user_id FROM leases") == [(1, two.user_id)]
    assert await engine.value("SELECT count(*) FROM ready") == 0
