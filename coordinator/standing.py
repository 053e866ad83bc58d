"""What the coordinator believes of a host, for the host itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from coordinator.credit import recent
from store import credit, hosts, ledger, results, users
from store.database import Database, Transaction
from store.ledger import TaskStandingRow

TASKS_SHOWN = 64


@dataclass(frozen=True, slots=True)
class Standing:
    """Judged results by judgement, results that wait for a verdict, failures, and credit.

    `user_credit` is that of all hosts of its user, `user_recent` their recent average a day.
    """

    user_name: str
    host_name: str
    agreed: int
    disagreed: int
    waiting: int
    failed: int
    unchecked: int
    credit: float
    tasks: Sequence[TaskStandingRow]
    team: str
    user_credit: float
    user_recent: float


async def standing(db: Database, host_id: int, now: datetime) -> Standing:
    """The host's standing; results judged in the last moments may not be folded in yet."""

    async def body(tx: Transaction) -> Standing:
        host = await hosts.host_by_id(tx, host_id)
        if host is None:
            raise LookupError(f"host {host_id} has a session but is not there")
        row = await ledger.standing(tx, host_id)
        earned = await credit.of(tx, "user", host.user_id)
        return Standing(
            user_name=host.user_name,
            host_name=host.name,
            agreed=row.agreed,
            disagreed=row.disagreed,
            waiting=await results.count_waiting(tx, host_id),
            failed=row.failed,
            unchecked=row.unchecked,
            credit=row.credit,
            tasks=await ledger.standing_by_task(tx, host_id, TASKS_SHOWN),
            team=await users.team_of(tx, host.user_id) or "",
            user_credit=0.0 if earned is None else earned.credit,
            user_recent=0.0 if earned is None else recent(earned, now),
        )

    return await db.transaction("standing", body)
