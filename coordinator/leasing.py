"""The lease command: replicas from their shelves into the hands of hosts."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from coordinator.campaigns import Campaigns
from coordinator.combining import Combiner
from coordinator.facts import UnitFacts
from coordinator.identity import Caller
from coordinator.lifecycle import UnitState
from coordinator.scheduler import Scheduler
from coordinator.trust import Trust
from protos.tier import Tier
from store import shelves
from store.database import Database, Transaction
from store.shelves import SHUFFLE_RANGE, Candidate, LeasedUnit, NewLease, Shelf, Stretch

SHELVES_PER_CALL = 8
BLOCKS_PER_DRAW = 4
LANES = 2  # lease transactions at once, per process
CAPACITY = 512  # replicas that share one transaction
SPENT = timedelta(minutes=1)  # after which blocks that held nothing for a user are looked at again
REMEMBERED = 20_000

Row = tuple[int, int, int, int]
"""A shelf without its leading block: (campaign id, perspective id, tier, lane)."""


@dataclass(frozen=True, slots=True)
class Leased:
    """Replicas leased together, all of one shelf, for `lease_s` seconds; none where nothing fitted."""

    units: Sequence[LeasedUnit]
    lease_s: int


@dataclass(frozen=True, slots=True)
class _Ask:
    """One call: who wants how many replicas, of which shelves, best first."""

    caller: Caller
    want: int
    shelves: Sequence[Shelf]


@dataclass(slots=True)
class _Hand:
    """What one call is handed; `passed_over` where there was work, but none for its user."""

    ask: _Ask
    held: list[Candidate] = field(default_factory=list)
    passed_over: bool = False

    @property
    def missing(self) -> int:
        return self.ask.want - len(self.held)


class Leasing:
    """The lease command on one database. Calls that come together share a transaction."""

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
        self._scheduler = scheduler
        self._facts = facts
        self._trust = trust
        self._clock = clock
        self._spent: dict[tuple[int, Row], tuple[int, int, datetime]] = {}
        self._combined = Combiner("lease", self._together, lanes=LANES, capacity=CAPACITY)

    async def look_at_shelves(self) -> None:
        """Gives the scheduler a new picture of what waits."""
        self._scheduler.show(await self._db.transaction("shelves", shelves.waiting))

    async def __call__(self, caller: Caller, tier: Tier, perspectives: Collection[str], want: int) -> Leased:
        """Leases at most `want` replicas of one shelf; the best shelves are tried in turn.

        `perspectives` are the names that the host can do; empty means any.
        """
        able = {
            (campaign.id, perspective_id)
            for campaign in self._campaigns.running()
            for perspective_id, task in campaign.tasks.items()
            if not perspectives or task.row.name in perspectives
        }
        order = self._scheduler.order(min(tier, caller.tier_cap), able)[:SHELVES_PER_CALL]
        if not order:
            return Leased([], 0)
        ask = _Ask(caller, want, order)
        hand = await self._combined(ask, want)
        if (
            hand.passed_over and not hand.held
        ):  # what was within reach was others' alone; by itself it goes on
            (hand,) = await self._together([ask])
        if not hand.held:
            return Leased([], 0)
        campaign_id, units = hand.held[0].campaign_id, sorted(one.leased for one in hand.held)
        self._facts.note(units)
        self._scheduler.served(campaign_id, len(units))
        return Leased(units, self._campaigns.need(campaign_id).policy.lease_s)

    async def _together(self, asks: Sequence[_Ask]) -> list[_Hand]:
        now = self._clock()

        async def body(tx: Transaction) -> list[_Hand]:
            hands = [_Hand(ask) for ask in asks]
            await shelves.guard_users(tx, {ask.caller.user_id for ask in asks})
            seen: dict[str, Candidate] = {}
            for turn in range(SHELVES_PER_CALL):
                empty: defaultdict[Shelf, list[_Hand]] = defaultdict(list)
                for hand in hands:
                    if not hand.held and turn < len(hand.ask.shelves):
                        empty[hand.ask.shelves[turn]].append(hand)
                for shelf, those in empty.items():
                    await self._hand_out(tx, shelf, those, seen, now)
            await self._take(tx, hands, seen, now)
            return hands

        return await self._db.transaction("lease", body, pipelined=True)

    async def _hand_out(
        self,
        tx: Transaction,
        shelf: Shelf,
        hands: Sequence[_Hand],
        seen: dict[str, Candidate],
        now: datetime,
    ) -> None:
        """Hands out replicas of one shelf from a random place in its leading block on; then later blocks.

        `seen` are the candidates that were looked at in this transaction, by place.
        """
        users = sorted({hand.ask.caller.user_id for hand in hands})
        block, start = self._start(shelf, users, now)
        for _ in range(BLOCKS_PER_DRAW):
            usable = False
            for low, high in ((start, SHUFFLE_RANGE), (0, start)):
                missing = sum(hand.missing for hand in hands)
                if missing and low < high:
                    found = await shelves.candidates(tx, shelf, Stretch(block, low, high), users, missing)
                    usable |= bool(found)
                    new = [one for one in found if one.place not in seen]
                    seen.update((one.place, one) for one in new)
                    _share([one for one in new if one.state == UnitState.OPEN], hands)
            if not any(hand.missing for hand in hands):
                return
            if not usable and len(users) == 1:
                self._note_spent(users[0], shelf, block, now)
            following = await shelves.block_after(tx, shelf, block)
            if following is None:
                # What comes back to a block that was passed over is seen the next time.
                for user_id in users:
                    self._spent.pop((user_id, _row(shelf)), None)
                return
            block, start = following, 0

    def _start(self, shelf: Shelf, users: Sequence[int], now: datetime) -> tuple[int, int]:
        """Where to begin: not in blocks that hold nothing for the user, as was seen lately."""
        block, start = self._scheduler.start(shelf)
        if len(users) == 1:
            first, after, noted = self._spent.get((users[0], _row(shelf)), (block, block, now))
            if first <= block < after and now - noted < SPENT:
                return after, 0
        return block, start

    def _note_spent(self, user_id: int, shelf: Shelf, block: int, now: datetime) -> None:
        if len(self._spent) >= REMEMBERED:
            self._spent.clear()
        first, after, _ = self._spent.get((user_id, _row(shelf)), (block, block, now))
        begins = first if first <= block <= after else block
        self._spent[user_id, _row(shelf)] = (begins, block + 1, now)

    async def _take(
        self, tx: Transaction, hands: Sequence[_Hand], seen: Mapping[str, Candidate], now: datetime
    ) -> None:
        """Moves what was handed out from the shelves into leases; what cannot be leased leaves its shelf."""
        closed = [one.place for one in seen.values() if one.state != UnitState.OPEN]
        new = [lease for hand in hands if hand.held for lease in self._leases(hand, now)]
        taken = await shelves.take(tx, new, closed, now)
        for hand in hands:
            hand.held = [one for one in hand.held if (one.campaign_id, one.id, one.lane) in taken]

    def _leases(self, hand: _Hand, now: datetime) -> Iterator[NewLease]:
        caller, first = hand.ask.caller, hand.held[0]
        policy = self._campaigns.need(first.campaign_id).policy
        place = (first.campaign_id, first.perspective_id, first.lane)
        works_alone = self._trust.works_alone(caller.host_id, *place, policy)
        deadline = now + timedelta(seconds=policy.lease_s)
        for one in hand.held:
            alone = one.fresh and works_alone()
            next_lane = one.fresh and not alone and one.lane + 1 < policy.replication
            yield NewLease(one, caller.host_id, caller.user_id, deadline, next_lane, alone)


def _share(found: Sequence[Candidate], hands: Sequence[_Hand]) -> None:
    """Gives each hand what it still wants of the candidates that its user may have, each to one hand."""
    for hand in hands:
        user_id, rest = hand.ask.caller.user_id, []
        for one in found:
            if hand.missing and user_id not in one.users:
                hand.held.append(one)
            else:
                rest.append(one)
        hand.passed_over = bool(rest) and len(hands) > 1
        found = rest


def _row(shelf: Shelf) -> Row:
    return (shelf.campaign_id, shelf.perspective_id, shelf.tier, shelf.lane)
