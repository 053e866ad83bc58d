"""The commands on leases beside `Leasing` and `Returns`: renew, resume, release, expire.

Each is one transaction. Every command that ends leases or settles units locks the units first, in id
order: that is the one lock order, so that commands wait for each other and never deadlock.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter, itemgetter

from coordinator.campaigns import Campaigns
from coordinator.identity import Caller
from coordinator.leasing import Leased
from coordinator.lifecycle import LeaseEnding, UnitState
from coordinator.pulse import PATIENCE
from coordinator.settlement import EndedLease, Key, give_back
from store import leases, units
from store.database import Database, Transaction
from store.leases import Lease
from store.pulse import is_steady
from store.shelves import LeasedUnit
from store.units import LockedUnit

RESENT_AT_ONCE = 256


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

    def __init__(self, db: Database, campaigns: Campaigns, clock: Callable[[], datetime]) -> None:
        self._db = db
        self._campaigns = campaigns
        self._clock = clock

    async def renew(self, caller: Caller, keys: Sequence[Key]) -> Renewed:
        """Extends the caller's leases on open units, until they are as old as their campaign lets them be."""
        await self._campaigns.know({key[0] for key in keys})

        async def body(tx: Transaction) -> set[Key]:
            locked = await units.lock(tx, sorted(set(keys)))
            return await self._extend(tx, caller, locked)

        moved = await self._db.transaction("renew", body)
        told = {self._campaigns.need(campaign_id).policy.lease_s for campaign_id, _ in moved}
        return Renewed(moved, min(told, default=0))

    async def _extend(self, tx: Transaction, caller: Caller, locked: Sequence[LockedUnit]) -> set[Key]:
        """Gives the caller's leases on those of these units that are open a full term from now."""
        wanted = [(unit.campaign_id, unit.id) for unit in locked if unit.state == UnitState.OPEN]
        moved: set[Key] = set()
        for campaign_id, keys in groupby(wanted, key=itemgetter(0)):
            policy = self._campaigns.need(campaign_id).policy
            term, longest = timedelta(seconds=policy.lease_s), timedelta(seconds=policy.max_hold_s)
            moved |= await leases.renew(tx, caller.host_id, list(keys), self._clock(), term, longest)
        return moved

    async def resume(self, caller: Caller, held: Collection[Key]) -> Resumed:
        """Sends the caller again what it holds here and has forgotten, for a full lease from now."""
        live = await self._db.transaction("held", lambda tx: leases.of_host(tx, caller.host_id))
        forgotten = sorted(live.difference(held))
        some = forgotten[:RESENT_AT_ONCE]
        await self._campaigns.know({key[0] for key in some})

        async def body(tx: Transaction) -> list[LeasedUnit]:
            moved = await self._extend(tx, caller, await units.lock(tx, some))
            return await leases.told_again(tx, caller.host_id, sorted(moved))

        again = await self._db.transaction("resume", body) if some else []
        batches = [
            Leased(list(told), self._campaigns.need(campaign_id).policy.lease_s)
            for (campaign_id, _), told in groupby(again, key=attrgetter("campaign_id", "perspective_id"))
        ]
        return Resumed(batches, set(held) - live, more=len(forgotten) > len(some))

    async def release(self, caller: Caller, keys: Sequence[Key], reason: str) -> int:
        """Puts the caller's replicas back on their shelves, as nobody's error; gives how many."""
        return await self._end(
            sorted(set(keys)),
            lambda lease: lease.host_id == caller.host_id,
            LeaseEnding.RELEASED,
            reason,
            self._clock(),
        )

    async def expire(self, limit: int) -> int:
        """Puts replicas whose deadline has passed back on their shelves; gives how many, at most `limit`.

        None while coordinators are silent, or were and the leases are still to be extended for that.
        """
        now = (
            self._clock()
        )  # read once: a process that is frozen between two steps must not go by a later one

        async def due(tx: Transaction) -> list[Key]:
            return await leases.expired(tx, now, limit) if await is_steady(tx, now, PATIENCE) else []

        keys = await self._db.transaction("expired", due)
        return await self._end(
            sorted(set(keys)), lambda lease: lease.deadline < now, LeaseEnding.EXPIRED, "", now
        )

    async def take_back(self, limit: int) -> int:
        """Puts replicas of revoked hosts back on their shelves; gives how many, at most `limit`."""
        found = await self._db.transaction("revoked leases", lambda tx: leases.of_revoked(tx, limit))
        hosts = {host_id for _, _, host_id in found}
        return await self._end(
            sorted({(campaign_id, unit_id) for campaign_id, unit_id, _ in found}),
            lambda lease: lease.host_id in hosts,
            LeaseEnding.RELEASED,
            "host revoked",
            self._clock(),
        )

    async def _end(
        self,
        keys: Sequence[Key],
        chosen: Callable[[Lease], bool],
        ending: LeaseEnding,
        detail: str,
        now: datetime,
    ) -> int:
        if not keys:
            return 0
        await self._campaigns.know({key[0] for key in keys})

        async def body(tx: Transaction) -> int:
            locked = {(unit.campaign_id, unit.id): unit for unit in await units.lock(tx, keys)}
            closed = {key for key, unit in locked.items() if unit.state != UnitState.OPEN}
            live = [lease for lease in await leases.of_units(tx, keys) if chosen(lease)]
            ended = [
                EndedLease(lease, LeaseEnding.STOPPED, "")
                if (lease.campaign_id, lease.unit_id) in closed
                else EndedLease(lease, ending, detail)
                for lease in live
            ]
            await give_back(tx, ended, locked, self._campaigns, now)
            tx.tell_everyone()
            return len(ended)

        return await self._db.transaction(ending.value, body)
