"""Faulty hosts get less work, then none for a while: quotas reviewed by upkeep, and read by coordinators."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import structlog

from coordinator import quota
from coordinator.messages import tell_owner
from coordinator.quota import Quota
from store import quotas
from store.database import Database, Transaction
from store.quotas import HeldQuota, QuotaRow

PAGE = 10_000
SETTLED_AFTER = timedelta(seconds=2)
"""Entries that are so old have all been committed."""
FIRST_RETRY_MS = 2_000
LONGEST_RETRY_MS = 60_000
LONGEST_PARKED_RETRY_MS = 3_600_000

log = structlog.get_logger("throttle")

KEPT_FAILING = "its work kept failing"
FLOOR_WORDS = (
    "its last results failed, lapsed or were contradicted so often that it gets one unit at a time, until "
    "some are accepted. Look at its model and its log."
)


class Held(StrEnum):
    """Why a host gets no more now."""

    OVER_QUOTA = "over_quota"
    PARKED = "parked"


@dataclass(frozen=True, slots=True)
class Allowance:
    """How many units a host may lease now, by which look; where none, why, and when to ask again."""

    want: int
    because: Held | None = None
    retry_ms: int = 0
    look: int = 0


@dataclass(slots=True)
class _Seen:
    """A host below the cap as last read; `held` goes on with what this process does."""

    quota: HeldQuota
    held: int


class Throttle:
    """The hosts below the cap, as last read. Until `refresh` all have the whole cap."""

    def __init__(self, db: Database, clock: Callable[[], datetime]) -> None:
        self._db = db
        self._clock = clock
        self._seen: dict[int, _Seen] = {}
        self._refusals: Counter[int] = Counter()
        self._look = 0

    async def refresh(self) -> None:
        """Reads the hosts that are below the cap."""
        rows = await self._db.transaction("quotas", quotas.held)
        self._look += 1
        self._seen = {row.host_id: _Seen(row, row.held) for row in rows}
        self._refusals = Counter({h: count for h, count in self._refusals.items() if h in self._seen})

    def allow(self, host_id: int, want: int, returned: int = 0) -> Allowance:
        """How many of the wanted units a host that has just returned some may lease now; they are reserved.

        A host that asks on and on waits longer each time.
        """
        seen = self._seen.get(host_id)
        if seen is None:
            return Allowance(want)
        until = seen.quota.parked_until
        left_s = 0.0 if until is None else (until - self._clock()).total_seconds()
        if left_s > 0:
            return Allowance(0, Held.PARKED, min(int(left_s * 1000) + 1, LONGEST_PARKED_RETRY_MS))
        seen.held = max(0, seen.held - returned)
        free = seen.quota.allowed - seen.held
        if free > 0:
            self._refusals.pop(host_id, None)
            seen.held += min(want, free)
            return Allowance(min(want, free), look=self._look)
        self._refusals[host_id] += 1
        retry_ms = FIRST_RETRY_MS * 2 ** min(self._refusals[host_id] - 1, 10)
        return Allowance(0, Held.OVER_QUOTA, min(retry_ms, LONGEST_RETRY_MS))

    def unused(self, host_id: int, allowance: Allowance, count: int) -> None:
        """Gives back what was reserved and not leased; a later look has not counted it."""
        seen = self._seen.get(host_id)
        if seen is not None and allowance.look == self._look:
            seen.held -= count


async def review(db: Database, cap: int, now: datetime) -> int:
    """Reads a page of what became of leases and results into quotas; gives how many rows it read."""

    async def body(tx: Transaction) -> int:
        place = await quotas.progress(tx)
        if place is None:
            return 0
        judged = await quotas.judged(tx, place[0], PAGE, now - SETTLED_AFTER)
        lapsed = await quotas.lapsed(tx, place[1], PAGE, now - SETTLED_AFTER)
        read = sum(tally.read for tally in (*judged, *lapsed))
        full = await quotas.overfull(tx, cap) if read < PAGE else []
        good, bad = Counter[int](), Counter[int]()
        for tally in (*judged, *lapsed):
            good[tally.host_id] += tally.good
            bad[tally.host_id] += tally.bad
        await _adjust(tx, good, bad, full, cap, now)
        if read < PAGE:
            await quotas.forget_full(tx, cap, full, now)
        if read:
            last = [max((t.last for t in tallies), default=0) for tallies in (judged, lapsed)]
            await quotas.proceed(tx, max(place[0], last[0]), max(place[1], last[1]))
        return read

    return await db.transaction("review quotas", body)


async def _adjust(
    tx: Transaction, good: Mapping[int, int], bad: Mapping[int, int], full: list[int], cap: int, now: datetime
) -> None:
    hosts = {*good, *bad, *full}
    before = {row.host_id: row for row in await quotas.of_hosts(tx, hosts)}
    changed = []
    for host_id in sorted(hosts):
        row = before.get(host_id) or QuotaRow(host_id, cap, 0, 0, None, "")
        was = Quota(row.allowed, row.strikes, row.parkings, row.parked_until)
        became = quota.after(was, good.get(host_id, 0), bad.get(host_id, 0), cap=cap, now=now)
        if became.parkings > was.parkings:
            changed.append(await _park(tx, host_id, became, KEPT_FAILING, now))
            continue
        if became != was or (host_id in full and host_id not in before):
            changed.append(_row(host_id, became, row.reason))
        if became.allowed == 1 < was.allowed:
            await tell_owner(tx, host_id, "over_quota", FLOOR_WORDS, now)
    await quotas.write(tx, changed)


async def park(tx: Transaction, host_id: int, length: timedelta, reason: str, now: datetime) -> None:
    """Gives a host no work for so long, and tells its owner."""
    found = await quotas.of_hosts(tx, [host_id])
    before = Quota(1, parkings=found[0].parkings) if found else Quota(1)
    await quotas.write(tx, [await _park(tx, host_id, quota.parked(before, now, length), reason, now)])


async def release(tx: Transaction, host_id: int, now: datetime) -> bool:
    """Gives a parked host work again, one unit at a time at first; False where it is not parked."""
    for row in await quotas.of_hosts(tx, [host_id]):
        was = Quota(row.allowed, row.strikes, row.parkings, row.parked_until)
        if was.is_parked(now):
            await quotas.write(tx, [_row(host_id, quota.released(was), row.reason)])
            await tell_owner(tx, host_id, "parked", "an operator lets it work again.", now)
            return True
    return False


async def _park(tx: Transaction, host_id: int, became: Quota, reason: str, now: datetime) -> QuotaRow:
    words = (
        f"it gets no work until {became.parked_until:%Y-%m-%d %H:%M} UTC ({reason}), then one unit at a "
        "time. What it still holds may be returned."
    )
    await tell_owner(tx, host_id, "parked", words, now)
    until = f"{became.parked_until:%Y-%m-%dT%H:%M:%SZ}"
    tx.on_commit.append(lambda: log.info("parked", host_id=host_id, until=until, reason=reason))
    return _row(host_id, became, reason)


def _row(host_id: int, became: Quota, reason: str) -> QuotaRow:
    return QuotaRow(host_id, became.allowed, became.strikes, became.parkings, became.parked_until, reason)
