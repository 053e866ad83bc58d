"""The state of all campaigns in figures, for people and machines."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from protos.tier import Tier
from store import annotations, campaigns, contents, leases, ledger, results, shelves, units
from store.database import Database, Transaction


@dataclass(slots=True)
class CampaignStatus:
    """One campaign's figures: units by state, and what is on the way."""

    name: str
    state: str
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
    """{"campaigns": [CampaignStatus as a dict, …], "credit": total}; a snapshot of each table."""

    async def body(tx: Transaction) -> dict[str, Any]:
        rows = await campaigns.all_campaigns(tx)
        found = {row.id: CampaignStatus(row.name, row.state) for row in rows}
        for campaign_id, perspective, state, count in await units.count_by_state(tx):
            status = found[campaign_id]
            status.units += count
            setattr(status, state, getattr(status, state) + count)
            status.by_perspective[perspective][state] = count
        for campaign_id, reason, count in await units.count_exhausted_by_reason(tx):
            found[campaign_id].exhausted_by_reason[reason] = count
        for campaign_id, tier, count in await shelves.count_waiting(tx):
            found[campaign_id].waiting_by_tier[Tier(tier).label] = count
        for campaign_id, count in await leases.count_live(tx):
            found[campaign_id].leased = count
        for campaign_id, count in await results.count(tx):
            found[campaign_id].results = count
        for campaign_id, _, count in await annotations.count(tx):
            found[campaign_id].annotations += count
        for campaign_id, status in found.items():
            status.images = await contents.count_images(tx, campaign_id)
        return {
            "campaigns": [_plain(status) for status in found.values()],
            "credit": await ledger.total_credit(tx),
        }

    return await db.transaction("status", body)


def _plain(status: CampaignStatus) -> dict[str, Any]:
    return {name: getattr(status, name) for name in CampaignStatus.__slots__}
