"""Steps that several commands share, inside their transaction: end units, widen them, give replicas back."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

import structlog

from coordinator import metrics, validation
from coordinator.campaigns import Campaigns
from coordinator.lifecycle import Caps, LeaseEnding, UnitState, given_up
from coordinator.logs import IDS_TOLD
from coordinator.validation import Settled
from store import leases, replicas, units
from store.database import Transaction
from store.leases import Ending, Lease
from store.replicas import Replica
from store.units import LockedUnit, Settlement

Key = tuple[int, int]
"""(campaign id, unit id)"""

LANES = 32


log = structlog.get_logger("settlement")


class _OfUnit(Protocol):
    @property
    def campaign_id(self) -> int: ...
    @property
    def unit_id(self) -> int: ...


Row = TypeVar("Row", bound=_OfUnit)


def by_unit(rows: Iterable[Row]) -> dict[Key, list[Row]]:
    """Rows grouped by their unit, order kept; a unit without rows gives an empty list."""
    grouped: defaultdict[Key, list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row.campaign_id, row.unit_id].append(row)
    return grouped


def replica(unit: LockedUnit, lane: int) -> Replica:
    """A lane's place on the shelves."""
    return Replica(unit.campaign_id, unit.perspective_id, unit.tier, lane, unit.block, unit.shuffle, unit.id)


async def settle(tx: Transaction, ends: Sequence[tuple[LockedUnit, Settled]], now: datetime) -> None:
    """Ends open, locked units."""
    settlements = [
        Settlement(unit.campaign_id, unit.id, settled.state.value, settled.canonical, settled.verdict)
        for unit, settled in ends
    ]
    await units.settle(tx, settlements, now)


def tell_verdicts(
    tx: Transaction,
    campaigns: Campaigns,
    ends: Sequence[tuple[LockedUnit, Settled]],
    wider: Sequence[LockedUnit] = (),
) -> None:
    """Counts the verdicts of a transaction once it is durable, and tells the log of units given up."""
    if ends or wider:
        tx.on_commit.append(lambda: _tell_verdicts(campaigns, ends, wider))


def _tell_verdicts(
    campaigns: Campaigns, ends: Sequence[tuple[LockedUnit, Settled]], wider: Sequence[LockedUnit]
) -> None:
    told: defaultdict[tuple[int, int, str, str], list[int]] = defaultdict(list)
    for unit in wider:
        told[unit.campaign_id, unit.perspective_id, "need_more", ""].append(unit.id)
    for unit, settled in ends:
        reason = str(settled.verdict.get("reason", ""))
        told[unit.campaign_id, unit.perspective_id, settled.state.value, reason].append(unit.id)
    for (campaign_id, perspective_id, verdict, reason), ids in told.items():
        campaign = campaigns.need(campaign_id)
        labels = (campaign.name, campaign.tasks[perspective_id].row.name, verdict, reason)
        metrics.VERDICTS.labels(*labels).inc(len(ids))
        if verdict == UnitState.EXHAUSTED:
            log.info(
                "exhausted", campaign_id=campaign_id, reason=reason, units=len(ids), unit_ids=ids[:IDS_TOLD]
            )


@dataclass(frozen=True, slots=True)
class Wanted:
    """An open, locked unit that wants `count` more voices; `answered` are lanes with an answer."""

    unit: LockedUnit
    count: int
    answered: frozenset[int]
    replication: int


async def widen(tx: Transaction, wanted: Sequence[Wanted]) -> None:
    """Births lanes so that each unit has as many replicas under way as voices it still wants.

    Under way are those leased, those waiting, and those that will be born when a fresh one is leased.
    """
    if not wanted:
        return
    keys = [(one.unit.campaign_id, one.unit.id) for one in wanted]
    replication = {key: one.replication for key, one in zip(keys, wanted, strict=True)}
    taken: defaultdict[Key, set[int]] = defaultdict(set)
    # Shelves first: while the unit is locked a replica can only move from its shelf into a lease, so that
    # one that is drawn between the two statements is seen by the second.
    for campaign_id, unit_id, lane, fresh in await replicas.lanes_of(tx, keys):
        key = (campaign_id, unit_id)
        taken[key].update(range(lane, max(lane + 1, replication[key] if fresh else 0)))
    for lease in await leases.of_units(tx, keys):
        taken[lease.campaign_id, lease.unit_id].add(lease.lane)
    born = []
    for key, one in zip(keys, wanted, strict=True):
        first = max(taken[key] | one.answered, default=-1) + 1
        missing = max(0, one.count - len(taken[key]))
        born += [replica(one.unit, lane) for lane in range(first, min(first + missing, LANES))]
    await replicas.put(tx, born)


@dataclass(frozen=True, slots=True)
class EndedLease:
    """A live lease that ends without a result, and why."""

    lease: Lease
    ending: LeaseEnding
    detail: str


async def give_back(
    tx: Transaction,
    ended: Sequence[EndedLease],
    locked: Mapping[Key, LockedUnit],
    campaigns: Campaigns,
    now: datetime,
) -> set[Key]:
    """Ends leases of locked units; replicas of open units return to their shelves, unless a cap is passed.

    Gives the units that are given up.
    """
    if not ended:
        return set()
    endings = [
        Ending(e.lease.campaign_id, e.lease.unit_id, e.lease.lane, e.ending.value, e.detail) for e in ended
    ]
    await leases.end(tx, endings, now)
    open_ones = [
        (locked[e.lease.campaign_id, e.lease.unit_id], e)
        for e in ended
        if e.ending.puts_back and locked[e.lease.campaign_id, e.lease.unit_id].state == UnitState.OPEN
    ]
    history = by_unit(await leases.past(tx, [(unit.campaign_id, unit.id) for unit, _ in open_ones]))
    lost, back = [], []
    for unit, e in open_ones:
        past = [lease for lease in history[unit.campaign_id, unit.id] if not lease.forgiven]
        counted = Counter(LeaseEnding(lease.ending) for lease in past)
        policy = campaigns.need(unit.campaign_id).policy
        reason = given_up(counted, Caps(failures=policy.max_failures, attempts=policy.max_attempts))
        if reason is None:
            back.append(replica(unit, e.lease.lane))
        else:
            details = [lease.detail for lease in past if lease.detail]
            lost.append((unit, validation.given_up(reason, counted, details)))
    await replicas.put(tx, back)
    await settle(tx, lost, now)
    tell_verdicts(tx, campaigns, lost)
    tx.on_commit.append(lambda: _tell_endings(ended))
    return {(unit.campaign_id, unit.id) for unit, _ in lost}


def _tell_endings(ended: Sequence[EndedLease]) -> None:
    for ending, count in Counter(e.ending.value for e in ended).items():
        metrics.LEASES_ENDED.labels(ending).inc(count)
    expired = [e.lease for e in ended if e.ending is LeaseEnding.EXPIRED]
    if expired:
        hosts = sorted({lease.host_id for lease in expired})
        log.info("expired", leases=len(expired), host_ids=hosts[:IDS_TOLD])
