"""Which units an operator means, from the words of a command."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from coordinator.campaigns import find_row
from coordinator.errors import OperatorError
from coordinator.lifecycle import UnitState
from store import batches, selections
from store.batches import Batch
from store.database import Database, Transaction
from store.selections import Selection

EVERY_STATE = frozenset(UnitState)


@dataclass(frozen=True, slots=True)
class Wish:
    """Units by their ids, or those of a campaign; narrowed by batch, states and reason if these are named."""

    ids: Sequence[int] = ()
    campaign: str | None = None
    batch: str | None = None
    states: Sequence[str] = field(default=())
    reason: str | None = None


async def select(db: Database, wish: Wish) -> list[Selection]:
    """One selection a campaign. Raises OperatorError: "selection_unclear", "state_unknown", "unit_unknown",
    "campaign_unknown" or "batch_unknown"."""
    states = _states(wish.states)
    if wish.ids:
        if wish.campaign or wish.batch:
            raise OperatorError("selection_unclear", "Name units by their ids, or a campaign; not both.")
        return await _by_ids(db, wish.ids, states, wish.reason)
    if wish.campaign is None:
        raise OperatorError(
            "selection_unclear",
            "Say which units: their ids, or --campaign NAME; --batch, --state and --reason narrow it.",
        )
    campaign_id = (await find_row(db, wish.campaign)).id
    if wish.batch is None:
        return [Selection(campaign_id, states, reason=wish.reason)]
    batch = await find_batch(db, wish.campaign, wish.batch)
    ranges = await db.transaction("ranges", lambda tx: batches.ranges(tx, batch.id))
    return [Selection(campaign_id, states, ranges, wish.reason)]


async def find_batch(db: Database, campaign: str, name: str) -> Batch:
    """A campaign's batch. Raises OperatorError: "campaign_unknown", or "batch_unknown" with the latest."""
    campaign_id = (await find_row(db, campaign)).id

    async def body(tx: Transaction) -> tuple[Batch | None, list[Batch]]:
        return await batches.find(tx, campaign_id, name), await batches.of_campaign(tx, campaign_id)

    found, known = await db.transaction("batch", body)
    if found is None:
        latest = ", ".join(batch.name for batch in known[-5:]) or "none yet"
        raise OperatorError(
            "batch_unknown", f"Campaign '{campaign}' has no batch '{name}'. The latest are: {latest}."
        )
    return found


def _states(named: Sequence[str]) -> frozenset[str]:
    unknown = sorted(set(named) - EVERY_STATE)
    if unknown:
        known = ", ".join(UnitState)
        raise OperatorError("state_unknown", f"There is no state '{unknown[0]}'. There are: {known}.")
    return frozenset(named) or EVERY_STATE


async def _by_ids(
    db: Database, ids: Sequence[int], states: frozenset[str], reason: str | None
) -> list[Selection]:
    found = await db.transaction("units", lambda tx: selections.places(tx, ids))
    missing = sorted(set(ids) - {unit_id for _, unit_id in found})
    if missing:
        raise OperatorError("unit_unknown", f"There is no unit {missing[0]}.")
    by_campaign: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for campaign_id, unit_id in found:
        by_campaign[campaign_id].append((unit_id, unit_id))
    return [Selection(campaign_id, states, ranges, reason) for campaign_id, ranges in by_campaign.items()]
