"""The tail of a campaign: when all units were begun, those that a slow host holds up are asked of another."""

from collections.abc import Callable
from datetime import datetime, timedelta

from coordinator.lifecycle import UnitState
from coordinator.policy import policy_of
from coordinator.settlement import LANES, Key, by_unit, replica
from store import campaigns, leases, replicas, results, shelves
from store.database import Database, Transaction
from store.replicas import Replica
from store.situation import SituationRows, lock_and_read

LATE = 2  # times the usual time between lease and return, after which a host is slow
LEAST = timedelta(seconds=10)
AT_ONCE = 500


async def hasten(db: Database, clock: Callable[[], datetime]) -> int:
    """Births a spare lane for units that wait for one slow lease alone, in campaigns that are in their tail.

    A campaign is in its tail when no replica of a first lane waits: until then hosts have better to do.
    Whoever answers first is heard; the other's answer is a late one. Gives how many lanes were born, AT_ONCE
    for each campaign at most.
    """

    async def look(tx: Transaction) -> dict[int, int]:
        busy = {shelf.campaign_id for shelf in await shelves.waiting(tx) if shelf.lane == 0}
        rows = await campaigns.all_campaigns(tx)
        return {
            row.id: policy_of(row.policy).max_voices
            for row in rows
            if row.state == "running" and row.id not in busy
        }

    tails = await db.transaction("tails", look)
    return sum([await _hasten(db, campaign_id, most, clock()) for campaign_id, most in tails.items()])


async def _hasten(db: Database, campaign_id: int, most: int, now: datetime) -> int:
    async def look(tx: Transaction) -> tuple[list[Key], datetime]:
        usual = await results.usual_turnaround(tx, campaign_id)
        if usual is None:
            return [], now
        before = now - max(LATE * usual, LEAST)
        return await leases.lonely(tx, campaign_id, before, AT_ONCE), before

    keys, before = await db.transaction("slow leases", look)
    if not keys:
        return 0

    async def body(tx: Transaction) -> int:
        rows = await lock_and_read(tx, sorted(keys))
        waiting = {(campaign, unit) for campaign, unit, _, _ in await replicas.lanes_of(tx, keys)}
        born = _spare_lanes(rows, waiting, before, most)
        await replicas.put(tx, born)
        return len(born)

    return await db.transaction("hasten", body, pipelined=True)


def _spare_lanes(rows: SituationRows, waiting: set[Key], before: datetime, most: int) -> list[Replica]:
    """One more lane for each open unit that has one lease, an old one, and `most` lanes so far at most."""
    live, voices = by_unit(rows.live), by_unit(rows.voices)
    born = []
    for unit in rows.units:
        key = (unit.campaign_id, unit.id)
        held = live[key]
        if unit.state != UnitState.OPEN or key in waiting or len(held) != 1 or held[0].leased_at >= before:
            continue
        lane = 1 + max([held[0].lane, *(voice.lane for voice in voices[key])])
        if lane <= min(most + unit.extra_voices, LANES - 1):
            born.append(replica(unit, lane))
    return born
