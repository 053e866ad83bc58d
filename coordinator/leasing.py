"""The lease command: replicas from their shelves into the hands of hosts."""

import asyncio
import functools
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from coordinator.campaigns import Campaigns
from coordinator.combining import LINGER_S, Combiner
from coordinator.facts import UnitFacts
from coordinator.identity import Caller
from coordinator.idle import Idle
from coordinator.lifecycle import UnitState
from coordinator.pace import Paces
from coordinator.priority import priority_of
from coordinator.scheduler import Ability, Scheduler
from coordinator.settlement import Key
from coordinator.steps import guarded
from coordinator.trail import Trails
from coordinator.trust import Trust
from store import shelves
from store.database import Database, Transaction
from store.shelves import SHUFFLE_RANGE, Candidate, LeasedUnit, NewLease, Row, Shelf, Spot, Stretch

SHELVES_PER_CALL = 8
BLOCKS_PER_DRAW = 4
AT_ONCE = 2  # lease transactions at once, per process
CAPACITY = 512  # replicas that share one transaction
SPENT = timedelta(minutes=1)  # after which blocks that held nothing for a user are looked at again
BARREN = timedelta(seconds=5)  # for which a shelf that held nothing for a user comes last for it
REMEMBERED = 20_000

Place = tuple[int, int, int, int]
"""A shelf without its leading block: (campaign id, perspective id, tier, lane)."""


@dataclass(frozen=True, slots=True)
class Leased:
    """Replicas leased together, of one campaign and perspective, for `lease_s` seconds.

    Where there are none, `idle` says why.
    """

    units: Sequence[LeasedUnit]
    lease_s: int
    idle: Idle = Idle.NO_WORK


Release = Callable[[Caller, Sequence[Key], str], Awaitable[object]]


@dataclass(slots=True, eq=False)
class _Ask:
    """One call: who has room for how many replicas, at which spots or else on which shelves, best first.

    With `is_made_up` the first shelf makes up for what the spots lack. `is_gone` once the call is cancelled.
    """

    caller: Caller
    room: Callable[[Row], int]
    spots: Sequence[Spot]
    shelves: Sequence[Shelf]
    is_made_up: bool = False
    hand: "_Hand | None" = None
    is_gone: bool = False


@dataclass(slots=True)
class _Hand:
    """What one call is handed; `passed_over` where there was work, but none for its user."""

    ask: _Ask
    held: list[Candidate] = field(default_factory=list)
    passed_over: bool = False
    room: int = 0
    lease_s: int = 0

    @property
    def missing(self) -> int:
        return self.room - len(self.held)

    def asks_in(self, turn: int) -> bool:
        """Whether it draws from its shelf of that number."""
        if turn >= len(self.ask.shelves) or (self.held and not (turn == 0 and self.ask.is_made_up)):
            return False
        self.room = self.ask.room(self.ask.shelves[turn].row)
        return self.missing > 0


@dataclass(frozen=True, slots=True)
class _Draw:
    """One lease transaction: candidates that were looked at, by place, and (user, campaign, unit) given."""

    seen: dict[str, Candidate] = field(default_factory=dict)
    given: set[tuple[int, int, int]] = field(default_factory=set)

    def look(self, found: Sequence[Candidate]) -> list[Candidate]:
        """Those that were not looked at before and can be leased."""
        new = [one for one in found if one.place not in self.seen]
        self.seen.update((one.place, one) for one in new)
        return [one for one in new if one.state == UnitState.OPEN]

    def give(self, one: Candidate, hand: _Hand) -> bool:
        """Gives a candidate to a hand that still wants one and whose user may have it."""
        user_id = hand.ask.caller.user_id
        key = (user_id, one.campaign_id, one.id)
        if hand.missing <= 0 or user_id in one.users or key in self.given:
            return False
        self.given.add(key)
        hand.held.append(one)
        return True

    def share(self, found: Sequence[Candidate], hands: Sequence[_Hand]) -> None:
        """Gives each candidate to one hand."""
        for hand in hands:
            found = [one for one in found if not self.give(one, hand)]
            hand.passed_over = bool(found) and len(hands) > 1


class Leasing:
    """The lease command on one database. Calls that come together share a transaction."""

    def __init__(
        self,
        db: Database,
        campaigns: Campaigns,
        scheduler: Scheduler,
        facts: UnitFacts,
        trust: Trust,
        paces: Paces,
        clock: Callable[[], datetime],
        release: Release,
    ) -> None:
        self._db = db
        self._campaigns = campaigns
        self._scheduler = scheduler
        self._facts = facts
        self._trust = trust
        self._paces = paces
        self._clock = clock
        self._release = release
        self._releasing: set[asyncio.Task[None]] = set()
        self._trails = Trails()
        self._spent: dict[tuple[int, Place], tuple[int, int, datetime]] = {}
        self._barren: dict[int, dict[Place, datetime]] = {}
        self._combined = Combiner(
            "lease", self._together, at_once=AT_ONCE, capacity=CAPACITY, linger_s=LINGER_S
        )
        self._alone = Combiner("lease", self._together, at_once=AT_ONCE, capacity=1)

    async def look_at_shelves(self) -> None:
        """Gives the scheduler a new picture of what waits."""
        found = await self._db.transaction("shelves", shelves.waiting)
        running = {campaign.id for campaign in self._campaigns.running()}
        if any(shelf.campaign_id not in running for shelf in found):
            await self._campaigns.refresh()  # one may be new, or resumed
        self._scheduler.show(found, self._campaigns.all())

    async def close(self) -> None:
        """Waits until what cancelled calls were handed is given back."""
        await asyncio.gather(*self._releasing)

    async def __call__(self, caller: Caller, ability: Ability, want: int) -> Leased:
        """Leases at most `want` replicas: of the images that the host had last, or of the best shelf.

        The host's tier is never above that of its invite.
        """
        ability = capped(caller, ability)
        order = self._order(caller.user_id, ability)
        if not order:
            return Leased([], 0, self._scheduler.picture.why_nothing(ability))
        room = functools.partial(self._room, caller.host_id, want)
        if not any(room(shelf.row) for shelf in order):
            return Leased([], 0, Idle.HOLDS_ENOUGH)
        ask = self._ask(caller, ability, room, order)
        try:
            hand = await self._combined(ask, want)
            if hand.passed_over and not hand.held:
                hand = await self._alone(ask)  # what was within reach was others'; by itself it goes on
        except asyncio.CancelledError:
            self._hang_up(ask)
            raise
        if not hand.held:
            return Leased([], 0, await self._why_empty(order))
        return self._leased(hand, ability)

    def _room(self, host_id: int, want: int, row: Row) -> int:
        """How many of the wanted units of a shelf the host may have: what it can return in time."""
        return min(want, self._paces.room(host_id, row, self._campaigns.need(row[0]).policy))

    def _ask(self, caller: Caller, ability: Ability, room: Callable[[Row], int], order: list[Shelf]) -> _Ask:
        """Where the host has images at hand, and then the best shelves.

        Where the campaign of those images is the one to serve next, others make up for what they lack.
        """
        rows = self._scheduler.picture.fitting(ability).rows
        spots = self._trails.follow(caller.host_id, rows, room, priority_of(order[0].block))
        if spots and (spots[0].campaign_id, spots[0].tier) == (order[0].campaign_id, order[0].tier):
            return _Ask(caller, room, spots, [rows[spots[0].row], *order], is_made_up=True)
        return _Ask(caller, room, spots, order)

    def _leased(self, hand: _Hand, ability: Ability) -> Leased:
        caller, held = hand.ask.caller, hand.held
        campaign = self._campaigns.need(held[0].campaign_id)
        self._trails.drew(caller.host_id, held, hand.ask.spots, campaign, ability)
        units = sorted(one.leased for one in held)
        self._facts.note(units)
        self._scheduler.served(campaign.id, len(units))
        kind = (caller.host_id, campaign.id, held[0].perspective_id)
        self._paces.leased(kind, len(units), hand.lease_s)
        return Leased(units, hand.lease_s)

    def _order(self, user_id: int, ability: Ability) -> list[Shelf]:
        """The best shelves; those that held nothing for the user a moment ago come last."""
        barren = self._barren.get(user_id)
        if not barren:
            return self._scheduler.order(ability, SHELVES_PER_CALL)
        since = self._clock() - BARREN
        order = self._scheduler.order(ability)
        order.sort(key=lambda shelf: (noted := barren.get(_place(shelf))) is not None and noted > since)
        return order[:SHELVES_PER_CALL]

    async def _why_empty(self, order: Sequence[Shelf]) -> Idle:
        """Whether the shelves have just been emptied, or hold only what the user has touched."""
        there = await self._db.transaction("why empty", lambda tx: shelves.hold_something(tx, order))
        return Idle.NOTHING_NEW_FOR_YOU if there else Idle.NO_WORK

    def _hang_up(self, ask: _Ask) -> None:
        """The call is cancelled: what it was handed, or will be by a transaction under way, goes back."""
        ask.is_gone = True
        if ask.hand is not None and ask.hand.held:
            keys, ask.hand.held = [(one.campaign_id, one.id) for one in ask.hand.held], []
            release = functools.partial(self._release, ask.caller, keys, "the call was cancelled")
            task = asyncio.create_task(guarded("release", release))
            self._releasing.add(task)
            task.add_done_callback(self._releasing.discard)

    async def _together(self, asks: Sequence[_Ask]) -> list[_Hand]:
        now = self._clock()

        async def body(tx: Transaction) -> list[_Hand]:
            hands = [_Hand(ask) for ask in asks if not ask.is_gone]
            await shelves.guard_users(tx, {hand.ask.caller.user_id for hand in hands})
            draw = _Draw()
            await self._go_on(tx, [hand for hand in hands if hand.ask.spots], draw)
            for turn in range(SHELVES_PER_CALL):
                asking: defaultdict[Shelf, list[_Hand]] = defaultdict(list)
                for hand in hands:
                    if hand.asks_in(turn):
                        asking[hand.ask.shelves[turn]].append(hand)
                for shelf, those in asking.items():
                    await self._hand_out(tx, shelf, those, draw, now)
            await self._take(tx, hands, draw, now)
            return hands

        for hand in await self._db.transaction("lease", body, pipelined=True):
            hand.ask.hand = hand
            if hand.ask.is_gone:
                self._hang_up(hand.ask)
        return [ask.hand or _Hand(ask) for ask in asks]

    async def _go_on(self, tx: Transaction, hands: Sequence[_Hand], draw: _Draw) -> None:
        """Hands out what waits at the spots that were asked for."""
        if not hands:
            return
        found: defaultdict[Spot, list[Candidate]] = defaultdict(list)
        for one in draw.look(
            await shelves.at(tx, sorted({spot for hand in hands for spot in hand.ask.spots}))
        ):
            found[one.spot].append(one)
        for hand in hands:
            hand.room = len(hand.ask.spots)
            for spot in hand.ask.spots:
                given = next((one for one in found[spot] if draw.give(one, hand)), None)
                if given is not None:
                    found[spot].remove(given)

    async def _hand_out(
        self,
        tx: Transaction,
        shelf: Shelf,
        hands: Sequence[_Hand],
        draw: _Draw,
        now: datetime,
    ) -> None:
        """Hands out replicas of one shelf from a random place in its leading block on; then later blocks."""
        users = sorted({hand.ask.caller.user_id for hand in hands})
        block, start = self._start(shelf, users, now)
        for _ in range(BLOCKS_PER_DRAW):
            usable = False
            for low, high in ((start, SHUFFLE_RANGE), (0, start)):
                missing = sum(hand.missing for hand in hands)
                if missing and low < high:
                    found = await shelves.candidates(tx, shelf, Stretch(block, low, high), users, missing)
                    usable |= bool(found)
                    draw.share(draw.look(found), hands)
            if not any(hand.missing for hand in hands):
                return
            if not usable and len(users) == 1:
                self._note_spent(users[0], shelf, block, now)
            following = await shelves.block_after(tx, shelf, block)
            if following is None:
                self._note_barren(hands, shelf, now)
                # What comes back to a block that was passed over is seen the next time.
                for user_id in users:
                    self._spent.pop((user_id, _place(shelf)), None)
                return
            block, start = following, 0

    def _start(self, shelf: Shelf, users: Sequence[int], now: datetime) -> tuple[int, int]:
        """Where to begin: not in blocks that hold nothing for the user, as was seen lately."""
        block, start = self._scheduler.start(shelf)
        if len(users) == 1:
            first, after, noted = self._spent.get((users[0], _place(shelf)), (block, block, now))
            if first <= block < after and now - noted < SPENT:
                return after, 0
        return block, start

    def _note_spent(self, user_id: int, shelf: Shelf, block: int, now: datetime) -> None:
        if len(self._spent) >= REMEMBERED:
            self._spent.clear()
        first, after, _ = self._spent.get((user_id, _place(shelf)), (block, block, now))
        begins = first if first <= block <= after else block
        self._spent[user_id, _place(shelf)] = (begins, block + 1, now)

    def _note_barren(self, hands: Sequence[_Hand], shelf: Shelf, now: datetime) -> None:
        if len(self._barren) >= REMEMBERED:
            self._barren.clear()
        for hand in hands:
            if not hand.held and not hand.passed_over:
                self._barren.setdefault(hand.ask.caller.user_id, {})[_place(shelf)] = now

    async def _take(self, tx: Transaction, hands: Sequence[_Hand], draw: _Draw, now: datetime) -> None:
        """Moves what was handed out from the shelves into leases; what cannot be leased leaves its shelf."""
        closed = [one.place for one in draw.seen.values() if one.state != UnitState.OPEN]
        new = [lease for hand in hands if hand.held for lease in self._leases(hand, now)]
        taken = await shelves.take(tx, new, closed, now)
        for hand in hands:
            hand.held = [one for one in hand.held if (one.campaign_id, one.id, one.lane) in taken]

    def _leases(self, hand: _Hand, now: datetime) -> Iterator[NewLease]:
        caller, first = hand.ask.caller, hand.held[0]
        policy = self._campaigns.need(first.campaign_id).policy
        place = (first.campaign_id, first.perspective_id)
        works_alone = self._trust.works_alone(caller.host_id, *place, policy)
        hand.lease_s = self._paces.lease_s(caller.host_id, first.spot.row, policy)
        deadline = now + timedelta(seconds=hand.lease_s)
        for one in hand.held:
            alone = one.fresh and one.lane == 0 and works_alone()
            next_lane = one.fresh and not alone and one.lane + 1 < policy.replication
            yield NewLease(one, caller.host_id, caller.user_id, deadline, next_lane, alone)


def capped(caller: Caller, ability: Ability) -> Ability:
    """What the host can do, with no larger tier than its invite says."""
    return ability if ability.tier <= caller.tier_cap else replace(ability, tier=caller.tier_cap)


def _place(shelf: Shelf) -> Place:
    return (shelf.campaign_id, shelf.perspective_id, shelf.tier, shelf.lane)
