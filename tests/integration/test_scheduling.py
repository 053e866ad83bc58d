"""Who gets what from real shelves: images fetched once, campaigns served fairly, nobody idle for long."""

from collections import Counter
from datetime import timedelta

import pytest
from support.engine import Engine, caption, key_of

from coordinator.identity import Caller
from coordinator.idle import Idle
from coordinator.leasing import BARREN, SHELVES_PER_CALL
from coordinator.scheduler import Ability
from protos.tier import Tier
from store.shelves import LeasedUnit

ANY = Ability(Tier.G80)


async def _answer(engine: Engine, host: Caller, units: list[LeasedUnit]) -> None:
    await engine.give(host, {key_of(unit): caption(unit.content_id) for unit in units})


class Cabinet:
    """A host's images: those of its last four draws."""

    def __init__(self) -> None:
        self._draws: list[set[int]] = []
        self.fetched = 0

    def fetch(self, units: list[LeasedUnit]) -> None:
        images = {unit.content_id for unit in units}
        self.fetched += len(images.difference(*self._draws[-4:]))
        self._draws.append(images)


async def test_a_host_of_three_perspectives_fetches_each_image_once(engine: Engine) -> None:
    campaign = await engine.campaign(perspectives=3, replication=2)
    await engine.images(campaign, 60)
    hosts = [await engine.host() for _ in range(2)]
    cabinets = [Cabinet() for _ in hosts]
    leased = 0
    for _ in range(20):
        for host, cabinet in zip(hosts, cabinets, strict=True):
            units = await engine.lease(host, 10)
            leased += len(units)
            cabinet.fetch(units)
            await _answer(engine, host, units)
    assert leased == 2 * 3 * 60
    assert [cabinet.fetched for cabinet in cabinets] == [60, 60]
    assert await engine.value("SELECT count(*) FROM units WHERE state = 'open'") == 0


async def test_hosts_that_crowd_each_other_still_fetch_few_images_twice(engine: Engine) -> None:
    campaign = await engine.campaign(perspectives=3, replication=2)
    await engine.images(campaign, 90)
    hosts = [await engine.host() for _ in range(6)]
    cabinets = [Cabinet() for _ in hosts]
    leased = 0
    for round_ in range(120):
        number = round_ % len(hosts)
        units = await engine.lease(hosts[number], 1 + round_ % 7)
        leased += len(units)
        cabinets[number].fetch(units)
        await _answer(engine, hosts[number], units)
    assert leased > 400
    assert sum(cabinet.fetched for cabinet in cabinets) < 0.6 * leased


async def test_campaigns_are_served_fairly_all_the_same(engine: Engine) -> None:
    many = await engine.campaign("many", perspectives=4, replication=1)
    heavy = await engine.campaign("heavy", perspectives=1, replication=1, weight=2)
    await engine.images(many, 200)
    await engine.images(heavy, 800)
    host = await engine.host()
    got: Counter[int] = Counter()
    for _ in range(60):
        units = await engine.lease(host, 10)
        got[units[0].campaign_id] += len(units)
        await _answer(engine, host, units)
    assert abs(2 * got[many.id] - got[heavy.id]) <= 80
    assert got.total() == 600


async def test_a_batch_never_holds_a_unit_twice_though_two_of_its_lanes_wait(engine: Engine) -> None:
    campaign = await engine.campaign(perspectives=2, replication=2)
    await engine.images(campaign, 5)
    first, second, third = [await engine.host() for _ in range(3)]
    units = [unit for _ in range(2) for unit in await engine.lease(first, 5)]
    assert len(units) == 10
    await engine.work.release(first, [key_of(unit) for unit in units], "client_stopped")
    for host in (second, third):
        held = [unit for _ in range(2) for unit in await engine.lease(host, 5)]
        assert len({key_of(unit) for unit in held}) == len(held) == 10


async def test_a_host_that_answered_all_of_many_shelves_is_not_kept_from_the_others(engine: Engine) -> None:
    done = await engine.campaign("done", perspectives=SHELVES_PER_CALL + 2, replication=2)
    host = await engine.host()
    await engine.images(done, 1)
    answered = 0
    while units := await engine.lease(host, 5):
        answered += len(units)
        await _answer(engine, host, units)
    assert answered == SHELVES_PER_CALL + 2
    other = await engine.campaign("other")
    await engine.images(other, 3)
    engine.scheduler.served(other.id, 1_000_000)
    drawn = [await engine.lease(host, 5) for _ in range(2)]
    assert Counter(unit.campaign_id for units in drawn for unit in units) == {other.id: 3}


@pytest.fixture
async def waiting(engine: Engine) -> Caller:
    """A host that has answered all that waits."""
    campaign = await engine.campaign(replication=2)
    await engine.images(campaign, 2)
    host = await engine.host()
    await _answer(engine, host, await engine.lease(host))
    await engine.leasing.look_at_shelves()
    return host


async def test_a_host_that_answered_all_that_waits_is_told_so(engine: Engine, waiting: Caller) -> None:
    assert (await engine.leasing(waiting, ANY, 5)).idle is Idle.NOTHING_NEW_FOR_YOU


async def test_a_shelf_that_was_just_emptied_is_no_work(engine: Engine, waiting: Caller) -> None:
    await engine.fetch("DELETE FROM ready RETURNING unit_id")
    assert (await engine.leasing(waiting, ANY, 5)).idle is Idle.NO_WORK


async def test_a_barren_shelf_is_looked_at_again(engine: Engine, waiting: Caller) -> None:
    assert await engine.lease(waiting) == []
    await engine.images(engine.campaigns.running()[0], 2)
    await engine.lease(await engine.host(), 9)
    engine.pass_time(timedelta(minutes=2) / timedelta(seconds=1) + BARREN.total_seconds())
    await engine.images(engine.campaigns.running()[0], 3)
    assert len(await engine.lease(waiting, 9)) >= 3


async def test_a_host_gets_work_of_campaigns_that_take_its_model(engine: Engine) -> None:
    picky = await engine.campaign("picky", models=["qwen*"])
    await engine.images(picky, 2)
    host = await engine.host()
    assert await engine.lease(host, model="llava") == []
    assert (await engine.leasing(host, ANY, 5)).idle is Idle.NO_WORK_FOR_MODEL
    assert len(await engine.lease(host, model="Qwen2.5-VL")) == 2


async def test_a_slow_host_is_given_less_than_it_asks_for_and_its_pace_is_known_elsewhere(
    engine: Engine,
) -> None:
    campaign = await engine.campaign(lease_s=100, first_batch=4)
    await engine.images(campaign, 50)
    host = await engine.host()
    units = await engine.lease(host, 30)
    assert len(units) == 4
    assert (await engine.leasing(host, ANY, 5)).idle is Idle.HOLDS_ENOUGH
    engine.pass_time(4 * 10)
    await _answer(engine, host, units)
    assert len(await engine.lease(host, 30)) == 5
    await engine.paces.refresh()
    another = Engine(engine.db)
    another.time = engine.time
    await another.campaigns.refresh()
    await another.paces.refresh()
    assert len(await another.lease(host, 30)) == 5
    assert await engine.fetch("SELECT seconds, samples FROM host_rates") == [(10.0, 4)]


async def test_a_host_that_needs_longer_than_the_lease_gets_one_unit_for_so_long(engine: Engine) -> None:
    campaign = await engine.campaign(lease_s=100, first_batch=1)
    await engine.images(campaign, 5)
    host = await engine.host()
    units = await engine.lease(host)
    engine.pass_time(99)
    await _answer(engine, host, units)
    leased = await engine.leasing(host, ANY, 5)
    assert (len(leased.units), leased.lease_s) == (1, 198)
    told = engine.time + timedelta(seconds=leased.lease_s)
    assert await engine.value("SELECT deadline FROM leases") == told


async def test_what_is_for_one_user_goes_to_that_users_hosts_first_and_to_nobody_else(engine: Engine) -> None:
    common = await engine.campaign("common")
    own = await engine.campaign("own", replication=1, only_for=["user:ana"])
    ana, ben = await engine.host("ana"), await engine.host("ben")
    await engine.campaigns.refresh()
    await engine.images(own, 3)
    assert await engine.lease(ben) == []
    assert (await engine.leasing(ben, ANY, 5)).idle is Idle.NO_WORK
    await engine.images(common, 3)
    engine.scheduler.served(own.id, 1000)
    assert {unit.campaign_id for unit in await engine.lease(ana)} == {own.id}
    assert {unit.campaign_id for unit in await engine.lease(ben)} == {common.id}
    assert {unit.campaign_id for unit in await engine.lease(ana)} == {common.id}


async def test_what_is_for_a_team_or_a_host_goes_to_them_as_they_are_now(engine: Engine) -> None:
    one, other = await engine.host("one"), await engine.host("other")
    team = await engine.campaign("team", only_for=["team:museum"])
    machine = await engine.campaign("machine", replication=1, only_for=[f"host:{other.host_id}"])
    for campaign in (team, machine):
        await engine.images(campaign, 2)
    await engine.fetch("INSERT INTO teams (name, created_at) VALUES ('museum', now()) RETURNING id")
    joined = (
        "INSERT INTO team_members (user_id, team_id, joined_at) SELECT %s, id, now() FROM teams RETURNING 1"
    )
    assert await engine.lease(one) == []
    await engine.fetch(joined, one.user_id)
    await engine.campaigns.refresh()
    assert {unit.campaign_id for unit in await engine.lease(one)} == {team.id}
    assert {unit.campaign_id for unit in await engine.lease(other)} == {machine.id}
    assert await engine.lease(other) == []


async def test_two_hosts_of_a_user_who_ask_at_once_do_not_get_two_lanes_of_a_unit(engine: Engine) -> None:
    campaign = await engine.campaign(replication=2)
    await engine.images(campaign, 1)
    first, second = await engine.host(), await engine.host()
    units = [(host, unit) for host in (first, second) for unit in await engine.lease(host)]
    for host, unit in units:
        await engine.work.release(host, [key_of(unit)], "client_stopped")
    twins = [await engine.host("ana"), await engine.host("ana")]
    await engine.leasing.look_at_shelves()
    order = engine.scheduler.order(ANY)
    assert [shelf.lane for shelf in order] == [1, 0]
    asks = [engine.leasing._ask(twin, ANY, lambda _row: 1, order) for twin in twins]
    hands = await engine.leasing._together(asks)
    assert sorted(len(hand.held) for hand in hands) == [0, 1]
    assert await engine.value("SELECT count(*) FROM ready") == 1
