"""What the coordinator believes of a host, for the host itself."""

from dataclasses import dataclass

from store import hosts, ledger, results
from store.database import Database, Transaction


@dataclass(frozen=True, slots=True)
class Standing:
    """Judged results by judgement, results that wait for a verdict, failures, and credit."""

    user_name: str
    host_name: str
    agreed: int
    disagreed: int
    waiting: int
    failed: int
    credit: float


async def standing(db: Database, host_id: int) -> Standing:
    """The host's standing; results judged in the last moments may not be folded in yet."""

    async def body(tx: Transaction) -> Standing:
        host = await hosts.host_by_id(tx, host_id)
        if host is None:
            raise LookupError(f"host {host_id} has a session but is not there")
        row = await ledger.standing(tx, host_id)
        waiting = await results.count_waiting(tx, host_id)
        return Standing(host.user_name, host.name, row.agreed, row.disagreed, waiting, row.failed, row.credit)

    return await db.transaction("standing", body)
