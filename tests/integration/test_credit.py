"""Credit is accepted work, added up once for its user, host and team, however many machines add up."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime

import pytest
from support.engine import Engine, caption, key_of

from coordinator import credit, upkeep
from coordinator.errors import OperatorError
from coordinator.identity import Caller
from coordinator.upkeep import jobs
from store.database import Database

WEEK_S = 7 * 86_400


async def _accept(engine: Engine, callers: list[Caller], units: int) -> None:
    """Units that all of these hosts answer alike."""
    await engine.images(engine.campaigns.running()[0], units)
    for caller in callers:
        leased = await engine.lease(caller, want=units)
        await engine.give(caller, {key_of(unit): caption(unit.id) for unit in leased})


async def _fold_at_once(engine: Engine, machines: int) -> None:
    folds = [next(job for job in jobs(engine.db, engine.work, engine.now) if job.name == "fold")] * machines
    await asyncio.gather(*(fold.run() for fold in folds))


async def test_credit_is_accepted_work_whoever_folds_at_once(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(upkeep, "BATCH", 7)
    await engine.campaign()
    pairs = [await engine.host(user=f"u{number % 3}") for number in range(6)]
    await credit.create_team(engine.db, "owls", engine.time)
    await credit.join_team(engine.db, "owls", "u1", engine.time)
    for first, second in ((0, 1), (3, 4), (2, 1), (5, 4)):
        await _accept(engine, [pairs[first], pairs[second]], 15)
    for job in jobs(engine.db, engine.work, engine.now):
        if job.name == "book":
            await job.run()
    await _fold_at_once(engine, 6)
    for owner in ("user", "host"):
        totals = await engine.fetch(
            "SELECT owner_id, results, credit FROM credit_totals WHERE owner = %s ORDER BY 1", owner
        )
        given = await engine.fetch(
            "SELECT CASE %s WHEN 'user' THEN user_id ELSE host_id END, count(*), sum(credit) FROM ledger "
            "GROUP BY 1 ORDER BY 1",
            owner,
        )
        assert totals == given
    [owls] = await credit.leaders(engine.db, "team", 10, engine.time)
    assert (owls.name, owls.results, owls.credit) == ("owls", 60, 60.0)
    await _fold_at_once(engine, 2)
    assert await credit.leaders(engine.db, "team", 10, engine.time) == [owls]


async def test_only_what_agrees_earns(engine: Engine):
    await engine.images(await engine.campaign(), 5)
    good, also, liar = [await engine.host(user=name) for name in ("good", "also", "liar")]
    for caller, truth in ((good, 0), (liar, 1), (also, 0)):
        leased = await engine.lease(caller, want=5)
        await engine.give(caller, {key_of(unit): caption(unit.id + 5000 * truth) for unit in leased})
    await engine.upkeep()
    found = await credit.leaders(engine.db, "user", 10, engine.time)
    assert {(one.name, one.results, one.credit) for one in found} == {("good", 5, 5.0), ("also", 5, 5.0)}


async def test_a_team_earns_what_its_members_earn_while_they_are_in_it(engine: Engine):
    await engine.campaign()
    ann, bob = await engine.host(user="ann"), await engine.host(user="bob")
    for team in ("owls", "cats"):
        await credit.create_team(engine.db, team, engine.time)

    async def earn(units: int) -> None:
        engine.pass_time(10)
        await _accept(engine, [ann, bob], units)
        for job in jobs(engine.db, engine.work, engine.now):
            if job.name == "book":
                await job.run()
        engine.pass_time(10)

    await earn(1)
    await credit.join_team(engine.db, "owls", "ann", engine.time)
    await earn(2)
    await credit.join_team(engine.db, "cats", "ann", engine.time)
    await earn(4)
    await credit.leave_team(engine.db, "ann", engine.time)
    await earn(8)
    await engine.upkeep()
    found = await credit.leaders(engine.db, "team", 10, engine.time)
    assert [(team.name, team.credit) for team in found] == [("cats", 4.0), ("owls", 2.0)]
    assert await credit.members(engine.db) == {"cats": [], "owls": []}


async def test_recent_credit_is_what_a_day_earns_and_halves_in_a_week_of_rest(engine: Engine):
    await engine.campaign(spot_check=1)
    ann, bob = await engine.host(user="ann"), await engine.host(user="bob")
    for _ in range(28):
        await _accept(engine, [ann, bob], 3)
        await engine.upkeep()
        engine.pass_time(86_400)
    recent = (await credit.leaders(engine.db, "user", 1, engine.time))[0].recent
    assert recent == pytest.approx(3.0 * (1 - 0.5**4), rel=0.06)
    engine.pass_time(WEEK_S)
    assert (await credit.leaders(engine.db, "user", 1, engine.time))[0].recent == pytest.approx(recent / 2)


async def test_a_tasks_weight_is_published_with_what_it_gave(engine: Engine):
    await engine.campaign()
    [before] = await credit.tasks(engine.db)
    assert (before.campaign, before.perspective, before.credit_each, before.results, before.credit) == (
        "c", "sentence1", 1.0, 0, 0.0,
    )  # fmt: skip
    await _accept(engine, [await engine.host(), await engine.host()], 3)
    await engine.upkeep()
    [after] = await credit.tasks(engine.db)
    assert (after.results, after.credit) == (6, 6.0)


async def test_joining_twice_and_leaving_at_once_change_nothing(engine: Engine):
    await engine.host(user="ann")
    await credit.create_team(engine.db, "owls", engine.time)
    for _ in range(2):
        await credit.join_team(engine.db, "owls", "ann", engine.time)
    assert await credit.members(engine.db) == {"owls": ["ann"]}
    await credit.leave_team(engine.db, "ann", engine.time)
    assert await engine.value("SELECT count(*) FROM team_members") == 0


@pytest.mark.parametrize(
    ("code", "deed"),
    [
        ("team_exists", lambda db, now: credit.create_team(db, "owls", now)),
        ("team_name_invalid", lambda db, now: credit.create_team(db, " ", now)),
        ("team_name_invalid", lambda db, now: credit.create_team(db, "o\x00wls", now)),
        ("team_unknown", lambda db, now: credit.join_team(db, "cats", "ann", now)),
        ("user_unknown", lambda db, now: credit.join_team(db, "owls", "nobody", now)),
        ("not_in_a_team", lambda db, now: credit.leave_team(db, "ann", now)),
    ],
)
async def test_operators_mistakes_with_teams_get_words(
    engine: Engine, code: str, deed: Callable[[Database, datetime], Awaitable[None]]
):
    await engine.host(user="ann")
    await credit.create_team(engine.db, "owls", engine.time)
    with pytest.raises(OperatorError) as caught:
        await deed(engine.db, engine.time)
    assert caught.value.code == code


async def test_nobody_leads_before_anything_was_accepted(engine: Engine):
    await engine.host(user="ann")
    for owner in ("user", "host", "team"):
        assert await credit.leaders(engine.db, owner, 10, engine.time) == []
