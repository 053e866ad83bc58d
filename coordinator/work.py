"""The commands of the work engine: lease, renew, resume, release, expire (and `Returns`).

Each is one transaction. Every command that ends leases or settles units locks the units first, in id
order: that is the one lock order, so that commands wait for each other and never deadlock.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter, itemgetter

from coordinator.campaigns import Campaign, Campaigns
from coordinator.facts import UnitFacts
from coordinator.identity import Caller
from coordinator.lifecycle import LeaseEnding, UnitState
from coordinator.scheduler import Scheduler
from coordinator.settlement import EndedLease, Key, give_back
from coordinator.trust import Trust
from protos.tier import Tier
from store import leases, shelves, units
from store.database import Database, Transaction
from store.leases import Lease
from store.shelves import Holder, LeasedUnit, Shelf

SHELVES_PER_CALL = 8
RESENT_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Leased:
    """Replicas leased together, all of one shelf, for `lease_s` seconds; none where nothing fitted."""

    units: list[LeasedUnit]
    lease_s: int


@dataclass(frozen=True, slots=True)
class Renewed:
    """The leases that go on for `lease_s` seconds; whatever else was asked for is to be stopped."""

    keys: set[Key]
    lease_s: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """Leases to take again, what to stop, and whether more was forgotten than fits in one answer."""

    leased: list[Leased]
    stop: set[Key]
    more: bool


class Work:
    """The commands, on one database."""

    def __init__(
        self,
        db: Database,
        campaigns: Campaigns,
        scheduler: Scheduler,
        facts: UnitFacts,
        trust: Trust,
        clock: Callable[[], datetime],
    ) -> None:
        self._db = db
        self._campaigns = campaigns
        self._facts = facts
        self._trust = trust
        self._scheduler = scheduler
        self._clock = clock

    async def look_at_shelves(self) -> None:
        """Gives the scheduler a new picture of what waits."""
        self._scheduler.show(await self._db.transaction("shelves", shelves.waiting))

    async def lease(self, caller: Caller, tier: Tier, perspectives: Collection[str], want: int) -> Leased:
        """Leases at most `want` replicas of one shelf; the best shelves are tried in turn.

        `perspectives` are the names that the host can do; empty means any.
        """
        able = {
            (campaign.id, perspective_id)
            for campaign in self._campaigns.running()
            for perspective_id, task in campaign.tasks.items()
            if not perspectives or task.row.name in perspectives
        }
        for shelf in self._scheduler.order(min(tier, caller.tier_cap), able)[:SHELVES_PER_CALL]:
            leased = await self._draw(caller, shelf, self._campaigns.need(shelf.campaign_id), want)
            if leased.units:
                self._facts.note(leased.units)
                self._scheduler.served(shelf.campaign_id, len(leased.units))
                return leased
        return Leased([], 0)

    async def _draw(self, caller: Caller, shelf: Shelf, campaign: Campaign, want: int) -> Leased:
        policy, now = campaign.policy, self._clock()
        deadline = now + timedelta(seconds=policy.lease_s)
        holder = Holder(caller.host_id, caller.user_id)
        next_lane = shelf.lane + 1 < policy.replication
        checks = self._trust.checks(caller.host_id, shelf, policy)
        start = self._scheduler.start(shelf)

        async def body(tx: Transaction) -> list[LeasedUnit]:
            await shelves.guard_user(tx, caller.user_id)
            drawn: list[LeasedUnit] = []
            for place in (start, (0, 0)):
                if len(drawn) < want:
                    drawn += await shelves.draw(
                        tx,
                        shelf,
                        holder,
                        start=place,
                        want=want - len(drawn),
                        next_lane=next_lane,
                        checks=checks,
                        now=now,
                        deadline=deadline,
                    )
            return drawn

        drawn = await self._db.transaction("lease", body, pipelined=True)
        return Leased(drawn, policy.lease_s)

    async def renew(self, caller: Caller, keys: Sequence[Key]) -> Renewed:
        """Extends the caller's leases on open units."""
        found = [await self._campaigns.find(campaign_id) for campaign_id in {key[0] for key in keys}]
        lease_s = min((campaign.policy.lease_s for campaign in found if campaign is not None), default=0)
        deadline = self._clock() + timedelta(seconds=lease_s)

        async def body(tx: Transaction) -> set[Key]:
            locked = await units.lock(tx, sorted(set(keys)))
            wanted = [(unit.campaign_id, unit.id) for unit in locked if unit.state == UnitState.OPEN]
            return await leases.renew(tx, caller.host_id, wanted, deadline)

        moved = await self._db.transaction("renew", body)
        return Renewed(moved, lease_s)

    async def resume(self, caller: Caller, held: Collection[Key]) -> Resumed:
        """Sends the caller again what it holds here and has forgotten, for a full lease from now."""
        live = await self._db.transaction("held", lambda tx: leases.of_host(tx, caller.host_id))
        forgotten = sorted(live.difference(held))
        some, now = forgotten[:RESENT_AT_ONCE], self._clock()
        for campaign_id in {key[0] for key in some}:
            await self._campaigns.find(campaign_id)

        async def body(tx: Transaction) -> list[LeasedUnit]:
            locked = await units.lock(tx, some)
            wanted = [(unit.campaign_id, unit.id) for unit in locked if unit.state == UnitState.OPEN]
            moved: set[Key] = set()
            for campaign_id, keys in groupby(wanted, key=itemgetter(0)):
                deadline = now + timedelta(seconds=self._campaigns.need(campaign_id).policy.lease_s)
                moved |= await leases.renew(tx, caller.host_id, list(keys), deadline)
            return await leases.told_again(tx, caller.host_id, sorted(moved))

        again = await self._db.transaction("resume", body) if some else []
        self._facts.note(again)
        batches = [
            Leased(list(told), self._campaigns.need(campaign_id).policy.lease_s)
            for (campaign_id, _), told in groupby(again, key=attrgetter("campaign_id", "perspective_id"))
        ]
        return Resumed(batches, set(held) - live, more=len(forgotten) > len(some))

    async def release(self, caller: Caller, keys: Sequence[Key], reason: str) -> int:
        """Puts the caller's replicas back on their shelves, as nobody's error; gives how many."""
        return await self._end(
            sorted(set(keys)),
            lambda lease, _now: lease.host_id == caller.host_id,
            LeaseEnding.RELEASED,
            reason,
        )

    async def expire(self, limit: int) -> int:
        """Puts replicas whose deadline has passed back on their shelves; gives how many, at most `limit`."""
        now = self._clock()
        keys = await self._db.transaction("expired", lambda tx: leases.expired(tx, now, limit))
        return await self._end(
            sorted(set(keys)), lambda lease, now: lease.deadline < now, LeaseEnding.EXPIRED, ""
        )

    async def _end(
        self,
        keys: Sequence[Key],
        chosen: Callable[[Lease, datetime], bool],
        ending: LeaseEnding,
        detail: str,
    ) -> int:
        if not keys:
            return 0
        now = self._clock()
        for campaign_id in {key[0] for key in keys}:
            await self._campaigns.find(campaign_id)

        async def body(tx: Transaction) -> int:
            locked = {(unit.campaign_id, unit.id): unit for unit in await units.lock(tx, keys)}
            live = [lease for lease in await leases.of_units(tx, keys) if chosen(lease, now)]
            ended = [EndedLease(lease, ending, detail) for lease in live]
            await give_back(tx, ended, locked, self._campaigns, now)
            return len(ended)

        return await self._db.transaction(ending.value, body)
