"""Random plans on real PostgreSQL: whatever clients do and wherever servers die, every promise is kept.

The promises are in `invariants.py`, one sentence each. A failure prints its seed and the shortest plan that
was found to break a promise still; `SIMULATION_SEED=<seed>` makes the tests begin with that plan.
"""

import os

import pytest
from simulation.plan import Plan, random_plan
from simulation.world import World

from coordinator import operations, returns
from store.database import Database

FIRST = int(os.environ.get("SIMULATION_SEED", "1"))
BLOCK = 100


@pytest.fixture
async def world(db: Database, monkeypatch: pytest.MonkeyPatch) -> World:
    """Its servers commit one return at a time, so that a few that come together share a transaction.

    Operators' commands take two units a step, so that others come between.
    """
    monkeypatch.setattr(operations, "STEP", 2)
    monkeypatch.setattr(returns, "AT_ONCE", 1)
    return await World.prepared(db)


async def smallest(world: World, plan: Plan) -> tuple[Plan, list[str]]:
    """A part of a broken plan that is broken still, from which no step can go; and what breaks."""
    faults = await world.play(plan)
    size = len(plan.steps)
    while size:
        for first in range(0, len(plan.steps), size):
            shorter = plan.without(first, size)
            found = await world.play(shorter)
            if found:
                plan, faults = shorter, found
                break
        else:
            size //= 2
    return plan, faults


async def keep_promises(world: World, seeds: range) -> None:
    for seed in seeds:
        faults = await world.play(random_plan(seed))
        if faults:
            plan, less = await smallest(world, random_plan(seed))
            steps = "\n  ".join(map(str, plan.steps))
            told = "\n".join(less or ["(did not break again: it needs luck in concurrent steps)", *faults])
            kind = "honest" if plan.honest else "mixed"
            pytest.fail(f"seed {seed}: {plan.images} images, {kind}, {plan.policy}\n  {steps}\n{told}")


@pytest.mark.parametrize("block", range(5))
async def test_every_promise_is_kept_whatever_happens(world: World, block: int) -> None:
    first = FIRST + block * BLOCK
    await keep_promises(world, range(first, first + BLOCK))


@pytest.mark.long
@pytest.mark.parametrize("block", range(5, 100))
async def test_every_promise_is_kept_for_long(world: World, block: int) -> None:
    first = FIRST + block * BLOCK
    await keep_promises(world, range(first, first + BLOCK))
