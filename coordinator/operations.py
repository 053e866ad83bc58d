"""What operators do to many units at once: cancel, reopen, prioritise; in short steps, while volunteers work.

Every step is one transaction that locks its units first, in id order, and looks at them again; so that
a command that is run twice, by two people at once, or that ends half-way does no harm: run it again.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from coordinator.campaigns import Campaigns, refuse_cancelled
from coordinator.lifecycle import LeaseEnding, UnitMove, UnitState, states_before
from coordinator.priority import moved, priority_of
from coordinator.settlement import LANES, EndedLease, Key, by_unit, give_back, replica, settle
from coordinator.validation import Settled
from store import batches, campaigns, leases, replicas, rounds, selections, units
from store.batches import Batch
from store.database import Database, Transaction
from store.replicas import Replica
from store.rounds import Kept
from store.selections import Selection
from store.units import LockedUnit

WITH_ITS_CAMPAIGN = "with_its_campaign"
BY_OPERATORS = "by_operators"
STEP = 500  # units changed in one transaction

Told = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Why:
    """Why operators do it: a stable code, and words of their own."""

    code: str
    words: str = ""


class Operations:
    """The commands on selected units, on one database."""

    def __init__(self, db: Database, campaigns: Campaigns, clock: Callable[[], datetime]) -> None:
        self._db = db
        self._campaigns = campaigns
        self._clock = clock

    async def count(self, selection: Selection, move: UnitMove | None = None) -> int:
        """How many units are selected, of those that can make `move` where it is named."""
        chosen = selection if move is None else _movable(selection, move)
        return sum([len(page) async for page in selections.pages(self._db, chosen)])

    async def cancel(self, selection: Selection, why: Why, told: Told = lambda _: None) -> int:
        """Cancels the selected units that are open; gives how many.

        Their waiting replicas vanish and their leases end: holders are told to stop at the next renew. An
        answer that comes after all is kept as late, and nobody earns or loses by it.
        """

        async def step(keys: Sequence[Key]) -> int:
            return await self._db.transaction("cancel", lambda tx: self._cancel(tx, keys, why))

        return await self._each(_movable(selection, UnitMove.CANCEL), step, told)

    async def _cancel(self, tx: Transaction, keys: Sequence[Key], why: Why) -> int:
        now = self._clock()
        locked = {(unit.campaign_id, unit.id): unit for unit in await units.lock(tx, keys)}
        chosen = {key: unit for key, unit in locked.items() if unit.state in states_before(UnitMove.CANCEL)}
        verdict = {"reason": why.code, "numbers": {}, "details": [why.words] if why.words else []}
        await settle(
            tx, [(unit, Settled(UnitState.CANCELLED, None, verdict)) for unit in chosen.values()], now
        )
        # After the shelves are cleared: whoever drew from them meanwhile has the lease by now.
        live = await leases.of_units(tx, list(chosen))
        ended = [EndedLease(lease, LeaseEnding.STOPPED, why.code) for lease in live]
        await give_back(tx, ended, locked, self._campaigns, now)
        return len(chosen)

    async def reopen(
        self, selection: Selection, reason: str, *, keep_answers: bool, told: Told = lambda _: None
    ) -> int:
        """Begins a new round of the selected units that have ended; gives how many.

        What stood for them is withdrawn and credit for it is taken back; failures and attempts count from
        now on. Answers are left behind and their users may answer again; or they are kept, and judged
        together with at least one more, and as many voices as the policy allows may join them. Raises
        OperatorError("campaign_cancelled").
        """

        async def step(keys: Sequence[Key]) -> int:
            return await self._db.transaction(
                "reopen", lambda tx: self._reopen(tx, keys, reason, keep_answers=keep_answers)
            )

        return await self._each(_movable(selection, UnitMove.REOPEN), step, told)

    async def _reopen(self, tx: Transaction, keys: Sequence[Key], reason: str, *, keep_answers: bool) -> int:
        campaign = await campaigns.hold(tx, keys[0][0])
        refuse_cancelled(campaign.name, campaign.state)
        ends = states_before(UnitMove.REOPEN)
        chosen = [unit for unit in await units.lock(tx, keys) if unit.state in ends]
        if not chosen:
            return 0
        ended = [(unit.campaign_id, unit.id) for unit in chosen]
        kept = by_unit(await rounds.reopen(tx, ended, reason, self._clock(), keep_answers=keep_answers))
        taken = await self._lanes_under_way(tx, ended)
        born: list[Replica] = []
        replication = self._campaigns.need(campaign.id).policy.replication
        for unit, key in zip(chosen, ended, strict=True):
            born += _replicas(unit, replication, kept[key], taken[key])
        await replicas.put(tx, born)
        tx.tell_everyone()
        return len(chosen)

    async def _lanes_under_way(self, tx: Transaction, keys: Sequence[Key]) -> dict[Key, set[int]]:
        """Lanes that stragglers hold still, and those that a claim put on their shelf as the unit ended."""
        taken: dict[Key, set[int]] = {key: set() for key in keys}
        for campaign_id, unit_id, lane, _ in await replicas.lanes_of(tx, keys):
            taken[campaign_id, unit_id].add(lane)
        for lease in await leases.of_units(tx, keys):
            taken[lease.campaign_id, lease.unit_id].add(lease.lane)
        return taken

    async def prioritise(self, selection: Selection, priority: int, told: Told = lambda _: None) -> int:
        """Gives the selected units that are open another priority; gives how many have it now."""

        async def step(keys: Sequence[Key]) -> int:
            return await self._db.transaction("prioritise", lambda tx: _prioritise(tx, keys, priority))

        opened = replace(selection, states=selection.states & {UnitState.OPEN})
        return await self._each(opened, step, told)

    async def prioritise_batch(self, batch: Batch, priority: int, told: Told = lambda _: None) -> int:
        """Gives a batch another priority: what is open in it, and what is yet imported into it."""

        async def body(tx: Transaction) -> list[tuple[int, int]]:
            await batches.set_priority(tx, batch.campaign_id, priority, batch.id)
            return await batches.ranges(tx, batch.id)

        ranges = await self._db.transaction("batch", body)
        chosen = Selection(batch.campaign_id, frozenset({UnitState.OPEN}), ranges)
        return await self.prioritise(chosen, priority, told)

    async def prioritise_campaign(self, campaign_id: int, priority: int, told: Told = lambda _: None) -> int:
        """Gives all batches of a campaign, and whatever else is open in it, another priority."""
        await self._db.transaction("batches", lambda tx: batches.set_priority(tx, campaign_id, priority))
        return await self.prioritise(Selection(campaign_id, frozenset({UnitState.OPEN})), priority, told)

    async def cancel_campaign(self, campaign_id: int, words: str, told: Told = lambda _: None) -> int:
        """Ends a campaign: no more of it is handed out or imported, and what is open is cancelled."""
        await self._set_state(campaign_id, "cancelled")
        every = Selection(campaign_id, frozenset({UnitState.OPEN}))
        return await self.cancel(every, Why(WITH_ITS_CAMPAIGN, words), told)

    async def reopen_campaign(self, campaign_id: int, told: Told = lambda _: None) -> int:
        """Takes a cancelled campaign up again: the units cancelled with it go on, with their answers."""
        await self._set_state(campaign_id, "running")
        with_it = Selection(campaign_id, frozenset({UnitState.CANCELLED}), reason=WITH_ITS_CAMPAIGN)
        return await self.reopen(with_it, "campaign_reopened", keep_answers=True, told=told)

    async def _set_state(self, campaign_id: int, state: str) -> None:
        await self._db.transaction("set state", lambda tx: campaigns.set_state(tx, campaign_id, state))

    async def _each(
        self, selection: Selection, step: Callable[[Sequence[Key]], Awaitable[int]], told: Told
    ) -> int:
        await self._campaigns.find(selection.campaign_id)
        done = 0
        async for keys in self._steps(selection):
            done += await step(keys)
            told(done)
        return done

    async def _steps(self, selection: Selection) -> AsyncIterator[list[Key]]:
        waiting: list[Key] = []
        async for page in selections.pages(self._db, selection):
            waiting += [(selection.campaign_id, unit_id) for unit_id in page]
            while len(waiting) >= STEP:
                yield waiting[:STEP]
                del waiting[:STEP]
        if waiting:
            yield waiting


def _movable(selection: Selection, move: UnitMove) -> Selection:
    """The part of a selection that can make this move."""
    return replace(selection, states=selection.states & states_before(move))


async def _prioritise(tx: Transaction, keys: Sequence[Key], priority: int) -> int:
    chosen = [unit for unit in await units.lock(tx, keys) if unit.state == UnitState.OPEN]
    moving = [(unit, moved(unit.block, priority)) for unit in chosen if priority_of(unit.block) != priority]
    await units.set_blocks(tx, [(unit.campaign_id, unit.id, block) for unit, block in moving])
    await replicas.move(tx, [(replica(unit, 0), block) for unit, block in moving])
    return len(chosen)


def _replicas(unit: LockedUnit, replication: int, kept: Sequence[Kept], taken: set[int]) -> list[Replica]:
    """As many as a reopened unit wants beside those under way, on free lanes; at least one."""
    wanted = max(1, replication - len(kept)) - len(taken)
    answered = {one.lane for one in kept}
    free = sorted(set(range(LANES)) - taken, key=lambda lane: (lane in answered, lane))
    return [replica(unit, lane) for lane in free[: max(0, wanted)]]
