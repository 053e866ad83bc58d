"""The simulation can fail: thirteen bugs are planted, and each breaks the promise that it should.

- a claim without the user's lock, the look at what the user has, and the constraint behind them
- booking that credits late results again, without the constraint behind it
- an expiry that forgets to put the replica back on its shelf
- a unit that asks for more voices without a look at the leases that run
- settling that leaves the replicas of closed units on their shelves, and a claim that does not mind
- a return that is acknowledged before it is committed
- a first answer that settles its unit whoever gave it
- reopening that takes no judgement back
- reopening that counts what was answered as on its way
- a priority that is written on the unit alone
- leases that expire while no coordinator works
- lost leases of which one is told
- a copied client that is let in once it has tried often enough
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from simulation.plan import random_plan
from simulation.server import MortalDatabase, ServerDied
from simulation.world import World

from coordinator import operations, settlement, work
from coordinator.lifecycle import LeaseEnding
from coordinator.policy import Policy
from store import annotations, hosts, leases, replicas, rounds, shelves, units
from store.database import Database, Transaction
from store.leases import Lease
from store.replicas import Replica
from store.rounds import Kept
from store.units import LockedUnit

PLANS = 150


async def seen(db: Database, promise: str) -> None:
    """Plays plans until one breaks the promise."""
    world = await World.prepared(db)
    others = []
    for seed in range(1, PLANS + 1):
        faults = await world.play(random_plan(seed))
        if any(fault.startswith(f"{promise}: ") for fault in faults):
            return
        others += faults
    pytest.fail(f"{PLANS} plans never broke {promise}, but: {others[:5]}")


def cut(sql: str, part: str, instead: str = "") -> str:
    """A statement with one part planted otherwise."""
    assert sql.count(part) == 1, f"the statement changed: plant this bug anew\n{part}\n{sql}"
    return sql.replace(part, instead)


async def change_schema(db: Database, statement: bytes) -> None:
    async def body(tx: Transaction) -> None:
        await tx.raw.execute(statement)

    await db.transaction("plant", body)


async def test_the_simulation_sees_a_claim_that_forgets_what_a_user_has(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_guard(_tx: Transaction, _user_ids: Collection[int]) -> None:
        return None

    forgetful = cut(shelves.CANDIDATES, "WHEN r.fresh AND r.lane = 0 THEN", "WHEN true THEN")
    monkeypatch.setattr(shelves, "CANDIDATES", forgetful)
    monkeypatch.setattr(shelves, "guard_users", no_guard)
    await change_schema(db, b"ALTER TABLE leases DROP CONSTRAINT uq_leases_one_per_user")
    await seen(db, "no_user_has_a_unit_twice")


async def test_the_simulation_sees_late_results_credited_twice(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotations, "BOOK_SETTLED", cut(annotations.BOOK_SETTLED, "AND NOT r.late"))
    await change_schema(db, b"DROP INDEX uq_ledger_once")
    await seen(db, "credit_is_never_given_twice")


async def test_the_simulation_sees_an_expiry_that_loses_the_replica(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    puts_back = property(lambda ending: ending in {LeaseEnding.RELEASED, LeaseEnding.FAILED})
    monkeypatch.setattr(LeaseEnding, "puts_back", puts_back)
    await seen(db, "an_open_unit_has_a_way_forward")


async def test_the_simulation_sees_a_lane_that_is_born_twice(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none_at_all(_tx: Transaction, _keys: Sequence[tuple[int, int]]) -> list[Lease]:
        return []

    blind = SimpleNamespace(**{**vars(leases), "of_units": none_at_all})
    monkeypatch.setattr(settlement, "leases", blind)
    await seen(db, "no_replica_is_in_two_hands")


async def test_the_simulation_sees_replicas_of_closed_units(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "SETTLE", cut(units.SETTLE, "AND r.unit_id = c.id", "AND false"))
    monkeypatch.setattr(shelves, "CANDIDATES", cut(shelves.CANDIDATES, "u.state,", "'open' AS state,"))
    await seen(db, "a_closed_unit_is_not_handed_out")


async def test_the_simulation_sees_an_acknowledgement_before_the_commit(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = MortalDatabase.transaction

    async def hasty(
        self: MortalDatabase,
        name: str,
        body: Callable[[Transaction], Awaitable[Any]],
        *,
        pipelined: bool = False,
    ) -> Any:
        promised: list[Any] = []

        async def remembered(tx: Transaction) -> Any:
            promised.append(await body(tx))
            return promised[-1]

        try:
            return await honest(self, name, remembered, pipelined=pipelined)
        except ServerDied:
            if name == "return" and promised:
                return promised[-1]
            raise

    monkeypatch.setattr(MortalDatabase, "transaction", hasty)
    await seen(db, "nothing_acknowledged_is_lost")


async def test_the_simulation_sees_a_first_answer_that_settles_whoever_gave_it(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Policy, "sole_weight", 0.0)
    await seen(db, "only_the_trusted_settle_alone")


async def test_the_simulation_sees_a_reopening_that_leaves_credit(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(_tx: Transaction, _keys: Sequence[tuple[int, int]]) -> None:
        return None

    monkeypatch.setattr(rounds, "ledger", SimpleNamespace(reverse=nothing))
    await seen(db, "reopening_leaves_no_orphan")


async def test_the_simulation_sees_a_reopened_unit_that_nobody_is_asked_for(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = operations._replicas

    def blind(unit: LockedUnit, replication: int, kept: Sequence[Kept], taken: set[int]) -> list[Replica]:
        return honest(unit, replication, kept, taken | {one.lane for one in kept})

    monkeypatch.setattr(operations, "_replicas", blind)
    await seen(db, "an_open_unit_has_a_way_forward")


async def test_the_simulation_sees_a_priority_that_leaves_replicas_where_they_were(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nowhere(_tx: Transaction, _moves: Sequence[tuple[Replica, int]]) -> None:
        return None

    monkeypatch.setattr(replicas, "move", nowhere)
    await seen(db, "a_replica_waits_where_its_unit_is")


async def test_the_simulation_sees_leases_that_lapse_in_our_outage(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def always(_tx: Transaction, _now: datetime, _patience: timedelta) -> bool:
        return True

    monkeypatch.setattr(work, "is_steady", always)
    await seen(db, "no_lease_lapses_early_for_an_outage")


async def test_the_simulation_sees_lost_leases_that_stay_lost(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "TOLD_AGAIN", f"{leases.TOLD_AGAIN} LIMIT 1")
    await seen(db, "who_asks_for_its_leases_holds_them")


async def test_the_simulation_sees_a_copy_that_is_let_in_when_it_tries_again(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = hosts.next_session

    async def forgetful(tx: Transaction, host_id: int, sequence: int, mark: bytes) -> bool:
        if await honest(tx, host_id, sequence, mark):
            return True
        await tx.raw.execute("UPDATE hosts SET sequence = sequence - 1 WHERE id = %s", (host_id,))
        return False

    monkeypatch.setattr(hosts, "next_session", forgetful)
    await seen(db, "servers_answer_well")
