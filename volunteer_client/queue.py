"""What a client holds, what it does next, and when it asks for more. Pure: the time is handed in."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from volunteer_client.lease import Ref

RESULTS_A_CALL = 128
BYTES_A_CALL = 1_000_000
UNITS_HELD = 128
# Seconds of work held ahead: a few round trips and image fetches, and little to lose when a client dies.
LOOKAHEAD_S = 5.0
# A finished answer waits so long for company before it is returned alone.
RETURN_AFTER_S = 2.0
RETURN_AT = 32


class Phase(Enum):
    """Where a held unit is."""

    NEEDS_IMAGE = "needs_image"
    FETCHING = "fetching"
    READY = "ready"
    ASKING = "asking"
    FINISHED = "finished"


@dataclass(slots=True)
class Held:
    """One unit. `expires_at` is the lease's end, `since` the entry into the phase, both in clock seconds."""

    phase: Phase
    expires_at: float
    since: float
    size: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """One return + lease to make now."""

    returns: tuple[Ref, ...]
    want: int


class Queue:
    """The units of one client, each in exactly one phase, in the order in which they came."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._held: dict[Ref, Held] = {}
        self._lease_s: float | None = None
        self._no_lease_before = -math.inf
        self._returns_a_call = RESULTS_A_CALL
        self._renewed_at = -math.inf
        self._pauses: set[str] = set()

    def hold(self, ref: Ref, now: float, lease_s: float) -> bool:
        """Takes a leased unit; False where it is held already (a lease that was sent again)."""
        if not self._held:
            self._renewed_at = now
        self._lease_s = lease_s
        held = self._held.get(ref)
        if held is not None:
            held.expires_at = now + lease_s
            return False
        self._held[ref] = Held(Phase.NEEDS_IMAGE, now + lease_s, now)
        return True

    def restore(self, ref: Ref, now: float, left_s: float) -> None:
        """Takes a unit that an earlier run leased; its lease is renewed at once."""
        self._held[ref] = Held(Phase.NEEDS_IMAGE, now + left_s, now)

    def finish(self, ref: Ref, size: int, now: float) -> None:
        """Notes a result of so many bytes to return, also for a unit that was stopped meanwhile."""
        held = self._held.pop(ref, None)
        self._held[ref] = Held(Phase.FINISHED, now if held is None else held.expires_at, now, size)

    def renew(self, refs: Iterable[Ref], now: float, lease_s: float) -> None:
        """Moves the end of these leases; forgotten units are passed over."""
        self._lease_s = lease_s
        for ref in refs:
            if ref in self._held:
                self._held[ref].expires_at = now + lease_s

    def drop(self, refs: Iterable[Ref]) -> list[Ref]:
        """Forgets units that are not finished; gives those that were held."""
        gone = [ref for ref in refs if ref in self._held and self._held[ref].phase is not Phase.FINISHED]
        for ref in gone:
            del self._held[ref]
        return gone

    def settle(self, refs: Iterable[Ref]) -> None:
        """Forgets results that the coordinator has answered finally."""
        for ref in refs:
            if ref in self._held and self._held[ref].phase is Phase.FINISHED:
                del self._held[ref]

    def next_fetch(self, now: float) -> Ref | None:
        """Takes the oldest unit that needs its image."""
        return self._take(Phase.NEEDS_IMAGE, Phase.FETCHING, now, -math.inf)

    def fetched(self, ref: Ref, now: float) -> None:
        """The image is there."""
        self._move(ref, Phase.FETCHING, Phase.READY, now)

    def next_ask(self, now: float) -> Ref | None:
        """Takes the oldest ready unit whose lease has not ended."""
        return self._take(Phase.READY, Phase.ASKING, now, now)

    def put_back(self, ref: Ref, now: float) -> None:
        """The endpoint could not take it now; the others have their turn first."""
        held = self._held.get(ref)
        if held is not None and held.phase is Phase.ASKING:
            del self._held[ref]
            self._held[ref] = Held(Phase.READY, held.expires_at, now)

    def plan(self, now: float, rate: float | None) -> Call | None:
        """The call to make now, None where there is no cause; `rate` is answers a second, None if unknown."""
        gap = self._gap(rate) if self._may_lease(now) else 0
        returns = self._returns()
        if self._is_worth_a_call(gap, rate) or (returns and self._returns_are_due(now, len(returns))):
            return Call(returns, gap)
        return None

    def wake_in(self, now: float, rate: float | None) -> float | None:
        """Seconds until `plan` may change its mind by time alone; None where only an event can."""
        times = []
        oldest = self._oldest_finished()
        if oldest is not None:
            times.append(oldest + RETURN_AFTER_S)
        if not self._pauses and self._is_worth_a_call(self._gap(rate), rate):
            times.append(self._no_lease_before)
        return max(0.0, min(times) - now) if times else None

    def pause(self, reason: str) -> None:
        """Leases no more while a reason stands."""
        self._pauses.add(reason)

    def resume(self, reason: str) -> None:
        """Takes a reason away."""
        self._pauses.discard(reason)

    def no_lease_before(self, time: float) -> None:
        """Asks for no more units until then; the latest such time holds."""
        self._no_lease_before = max(self._no_lease_before, time)

    def halve_returns(self, sent: int) -> None:
        """A call with so many results was refused whole: try fewer."""
        self._returns_a_call = max(1, sent // 2)

    def returns_went_well(self) -> None:
        """Lets calls grow again after refused ones."""
        self._returns_a_call = min(RESULTS_A_CALL, self._returns_a_call * 2)

    def renew_in(self, now: float) -> float | None:
        """Seconds until leases should be renewed (a third of the lease time); None where none is held."""
        if not self._held:
            return None
        return max(0.0, self._renewed_at + max(1.0, (self._lease_s or 0.0) / 3) - now)

    def note_renewal(self, now: float) -> None:
        """A renewal was made, or tried, now."""
        self._renewed_at = now

    def refs(self) -> list[Ref]:
        """All that is held, finished or not."""
        return list(self._held)

    def unfinished(self) -> list[Ref]:
        """What is held and has no result yet."""
        return [ref for ref, held in self._held.items() if held.phase is not Phase.FINISHED]

    def __contains__(self, ref: Ref) -> bool:
        return ref in self._held

    def __len__(self) -> int:
        return len(self._held)

    def _take(self, source: Phase, target: Phase, now: float, alive_at: float) -> Ref | None:
        for ref, held in self._held.items():
            if held.phase is source and held.expires_at > alive_at:
                held.phase, held.since = target, now
                return ref
        return None

    def _move(self, ref: Ref, source: Phase, target: Phase, now: float) -> None:
        held = self._held.get(ref)
        if held is not None and held.phase is source:
            held.phase, held.since = target, now

    def _target(self, rate: float | None) -> int:
        """How many unfinished units to hold: a few seconds' work, and never more than a lease allows."""
        least = 3 * self._concurrency
        if rate is None:
            return min(least, UNITS_HELD)
        wanted = max(least, math.ceil(rate * LOOKAHEAD_S))
        if self._lease_s is not None:
            wanted = min(wanted, math.ceil(rate * self._lease_s / 3))
        return min(max(wanted, self._concurrency), UNITS_HELD)

    def _gap(self, rate: float | None) -> int:
        return max(0, self._target(rate) - len(self.unfinished()))

    def _is_worth_a_call(self, gap: int, rate: float | None) -> bool:
        """Whether half of the target is missing: fewer, larger calls."""
        return 2 * gap >= self._target(rate)

    def _may_lease(self, now: float) -> bool:
        return not self._pauses and now >= self._no_lease_before

    def _returns(self) -> tuple[Ref, ...]:
        finished = ((ref, held) for ref, held in self._held.items() if held.phase is Phase.FINISHED)
        refs: list[Ref] = []
        size = 0
        for ref, held in finished:
            size += held.size
            if len(refs) == self._returns_a_call or (refs and size > BYTES_A_CALL):
                break
            refs.append(ref)
        return tuple(refs)

    def _returns_are_due(self, now: float, count: int) -> bool:
        oldest = self._oldest_finished()
        is_old = oldest is not None and now >= oldest + RETURN_AFTER_S
        return is_old or count >= min(RETURN_AT, self._returns_a_call) or not self.unfinished()

    def _oldest_finished(self) -> float | None:
        return min((h.since for h in self._held.values() if h.phase is Phase.FINISHED), default=None)
