"""The state of all campaigns in figures, for people and machines."""

import functools
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from protos.tier import Tier
from store import annotations, campaigns, contents, leases, ledger, results, shelves, units
from store.database import Database, Transaction

T = TypeVar("T")


@dataclass(slots=True)
class CampaignStatus:
    """One campaign's figures: units by state, and what is on the way."""

    name: str = ""
    state: str = ""
    images: int = 0
    units: int = 0
    open: int = 0
    accepted: int = 0
    exhausted: int = 0
    cancelled: int = 0
    results: int = 0
    leased: int = 0
    annotations: int = 0
    waiting_by_tier: dict[str, int] = field(default_factory=dict)
    exhausted_by_reason: dict[str, int] = field(default_factory=dict)
    by_perspective: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))


async def read_status(db: Database) -> dict[str, Any]:
    """{"campaigns": [CampaignStatus as a dict, …], "credit": total}.

    Each table is counted in a transaction of its own: over all of them a snapshot would be held for long.
    """

    async def read(query: Callable[[Transaction], Awaitable[T]]) -> T:
        return await db.transaction("status", query)

    found: defaultdict[int, CampaignStatus] = defaultdict(CampaignStatus)
    for campaign_id, perspective, state, count in await read(units.count_by_state):
        status = found[campaign_id]
        status.units += count
        setattr(status, state, getattr(status, state) + count)
        status.by_perspective[perspective][state] = count
    for campaign_id, reason, count in await read(units.count_exhausted_by_reason):
        found[campaign_id].exhausted_by_reason[reason] = count
    for campaign_id, tier, count in await read(shelves.count_waiting):
        found[campaign_id].waiting_by_tier[Tier(tier).label] = count
    for campaign_id, count in await read(leases.count_live):
        found[campaign_id].leased = count
    for campaign_id, count in await read(results.count):
        found[campaign_id].results = count
    for campaign_id, _, count in await read(annotations.count):
        found[campaign_id].annotations += count
    rows = await read(campaigns.all_campaigns)  # last, so that it has all of those above
    for row in rows:
        status = found[row.id]
        status.name, status.state = row.name, row.state
        status.images = await read(functools.partial(contents.count_images, campaign_id=row.id))
    return {
        "campaigns": [_plain(found[row.id]) for row in rows],
        "credit": await read(ledger.total_credit),
    }


def _plain(status: CampaignStatus) -> dict[str, Any]:
    return {name: getattr(status, name) for name in CampaignStatus.__slots__}
