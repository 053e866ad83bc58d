"""How fast hosts are, as seen from here, and so how much each can take and return in time.

A host at work returns so many units in the time since it returned others, or since it got them if it had
none: whatever its client says, however many requests it makes at once, and with all that waits in its queue.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from coordinator.facts import UnitFacts
from coordinator.policy import Policy
from coordinator.settlement import Key
from store import rates
from store.database import Database, Transaction
from store.rates import Rate
from store.shelves import Row

SAFETY = 0.5  # share of the lease time that what a host holds may take it
FOLLOWING = 0.3  # weight of the latest return in the average
LONGEST = 4  # times the campaign's lease time, for hosts that need so long for one unit
WRITTEN_AT_ONCE = 1000
REMEMBERED = timedelta(days=30)

Kind = tuple[int, int, int]
"""(host id, campaign id, perspective id)"""


@dataclass(slots=True)
class _Batch:
    """Units that were leased together, less those that came back; forgotten when the lease ends."""

    kind: Kind
    count: int
    ends: datetime


@dataclass(slots=True)
class _InHand:
    """What one host holds, oldest first, and since when it has worked on what it returns next.

    After `until` nobody expects it to come back with anything.
    """

    since: datetime
    until: datetime
    batches: deque[_Batch] = field(default_factory=deque)


class Paces:
    """Seconds per unit by host, campaign and perspective. Those of other processes come with `refresh`."""

    def __init__(self, db: Database, facts: UnitFacts, clock: Callable[[], datetime]) -> None:
        self._db = db
        self._facts = facts
        self._clock = clock
        self._seconds: dict[Kind, float] = {}
        self._samples: Counter[Kind] = Counter()
        self._in_hand: dict[int, _InHand] = {}
        self._seen = clock() - REMEMBERED

    def leased(self, kind: Kind, count: int, lease_s: int) -> None:
        """Notes that a host was given units."""
        now, length = self._clock(), timedelta(seconds=lease_s)
        hand = self._hand(kind[0], now)
        if hand is None:
            hand = self._in_hand[kind[0]] = _InHand(now, now)
        hand.batches.append(_Batch(kind, count, now + length))
        hand.until = now + 2 * length

    def returned(self, host_id: int, keys: Iterable[Key]) -> None:
        """Notes that a host returned these units, and learns from it how fast the host is."""
        now, counts = self._clock(), Counter(self._facts.known(keys))
        hand = self._hand(host_id, now)
        if hand is None or not counts:
            return
        seconds = (now - hand.since).total_seconds() / counts.total()
        for (campaign_id, perspective_id), count in counts.items():
            kind = (host_id, campaign_id, perspective_id)
            before = self._seconds.get(kind, seconds)
            self._seconds[kind] = before + FOLLOWING * (seconds - before)
            self._samples[kind] += count
        hand.since = now
        self._put_down(host_id, hand, counts.total())

    def released(self, host_id: int, count: int) -> None:
        """Notes that a host gave units back."""
        hand = self._hand(host_id, self._clock())
        if hand is not None:
            self._put_down(host_id, hand, count)

    def room(self, host_id: int, row: Row, policy: Policy) -> int:
        """How many more units of a shelf the host can return in time; one at least where it holds nothing."""
        hand = self._hand(host_id, self._clock())
        held = () if hand is None else hand.batches
        each = self._seconds.get((host_id, row[0], row[1]))
        if each is None:
            room = policy.first_batch - sum(batch.count for batch in held)
        else:
            busy_s = sum(batch.count * self._seconds.get(batch.kind, each) for batch in held)
            room = int((SAFETY * policy.lease_s - busy_s) / max(each, 1e-6))
        return max(room, 0 if held else 1)

    def lease_s(self, host_id: int, row: Row, policy: Policy) -> int:
        """Seconds for which the host gets units: the campaign's, or more where it needs longer for one.

        Such a host is slow, not gone: it renews what it holds. One that got nothing could never show that
        it is faster now.
        """
        each = self._seconds.get((host_id, row[0], row[1]), 0.0)
        return max(policy.lease_s, min(LONGEST * policy.lease_s, int(each / SAFETY)))

    async def refresh(self) -> None:
        """Writes what was learned here and reads what others learned."""
        learned = [
            Rate(*kind, self._seconds[kind], count)
            for kind, count in sorted(self._samples.items())[:WRITTEN_AT_ONCE]
        ]
        now, since = self._clock(), self._seen - timedelta(seconds=10)

        async def body(tx: Transaction) -> list[Rate]:
            await rates.write(tx, learned, now)
            return await rates.since(tx, since)

        found = await self._db.transaction("rates", body)
        self._samples -= Counter({rate.kind: rate.samples for rate in learned})
        self._seen = now
        for rate in found:
            if rate.kind not in self._samples:
                self._seconds[rate.kind] = rate.seconds

    def _hand(self, host_id: int, now: datetime) -> _InHand | None:
        """What a host holds, less what has run out; None where that is nothing."""
        hand = self._in_hand.get(host_id)
        if hand is None:
            return None
        if hand.until <= now:
            del self._in_hand[host_id]
            return None
        while hand.batches and hand.batches[0].ends <= now:
            hand.batches.popleft()
        return hand

    def _put_down(self, host_id: int, hand: _InHand, count: int) -> None:
        while hand.batches and count >= hand.batches[0].count:
            count -= hand.batches.popleft().count
        if hand.batches:
            hand.batches[0].count -= count
        else:
            del self._in_hand[host_id]
