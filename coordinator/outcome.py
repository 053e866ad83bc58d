"""How a campaign went, result by result: for reports and demonstrations."""

from dataclasses import dataclass
from typing import Any

from store import results, units
from store.database import Database, Transaction


@dataclass(frozen=True, slots=True)
class AcceptedUnit:
    """An accepted unit and what stands for it."""

    filename: str
    perspective: str
    answer: dict[str, Any]


@dataclass(frozen=True, slots=True)
class HostOutcome:
    """What became of one host's results: how many agreed; of those that did not, how many said what the host
    says of many images (`repeated`), and how many something of their own (`differing`)."""

    host_name: str
    results: int
    agreed: int
    repeated: int
    differing: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """A campaign's accepted units, and its results by host; `stored` names (campaign, unit, host) of each."""

    accepted: list[AcceptedUnit]
    hosts: list[HostOutcome]
    stored: set[tuple[int, int, str]]


async def read_outcome(db: Database, campaign_id: int) -> Outcome:
    """Reads the whole outcome of a campaign; meant for small ones."""

    async def body(tx: Transaction) -> Outcome:
        return Outcome(
            accepted=[AcceptedUnit(*row) for row in await units.accepted_answers(tx, campaign_id)],
            hosts=[HostOutcome(*row) for row in await results.count_by_host(tx, campaign_id)],
            stored=set(await results.units_by_host(tx, campaign_id)),
        )

    return await db.transaction("outcome", body)
