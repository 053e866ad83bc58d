"""Credit: what was accepted, by the published weight of its task, for volunteers, hosts and teams."""

import math
from dataclasses import dataclass
from datetime import datetime

from coordinator.errors import OperatorError
from coordinator.evidence import DAY_S, HOUR_S, MONTH_S
from store import credit, users
from store.credit import CreditRow, TaskCreditRow
from store.database import Database, Transaction
from store.ledger import HalfLives

WEEK_S = 7 * DAY_S
HALF_LIVES = HalfLives(month=MONTH_S, hour=HOUR_S, week=WEEK_S)


@dataclass(frozen=True, slots=True)
class Credit:
    """One owner's accepted results, credit, and its recent average a day."""

    name: str
    results: int
    credit: float
    recent: float


def recent(row: CreditRow, now: datetime) -> float:
    """The recent average, credit a day: what a steady host earns a day; a week without work halves it."""
    age_s = max(0.0, (now - row.as_of).total_seconds())
    return row.week_credit * math.pow(0.5, age_s / WEEK_S) * math.log(2) / (WEEK_S / DAY_S)


async def leaders(db: Database, owner: str, limit: int, now: datetime) -> list[Credit]:
    """Those with the most credit, most first; `owner` is "user", "host" or "team"."""
    rows = await db.transaction("credit", lambda tx: credit.most(tx, owner, limit))
    return [Credit(row.name, row.results, row.credit, recent(row, now)) for row in rows]


async def tasks(db: Database) -> list[TaskCreditRow]:
    """Every task's published credit for one accepted result, and what it gave so far."""
    return list(await db.transaction("credit", credit.by_task))


async def create_team(db: Database, name: str, now: datetime) -> None:
    """Makes a team. Raises OperatorError("team_exists", "team_name_invalid")."""
    if not name.strip() or not name.isprintable() or len(name) > 64:
        raise OperatorError("team_name_invalid", "A team's name has 1 to 64 printable characters.")
    if not await db.transaction("create team", lambda tx: users.create_team(tx, name, now)):
        raise OperatorError("team_exists", f"There is a team '{name}' already.")


async def join_team(db: Database, team: str, user: str, now: datetime) -> None:
    """Puts a volunteer into a team, out of any other. Raises OperatorError (team_unknown, user_unknown)."""

    async def body(tx: Transaction) -> None:
        team_id = await users.team_id(tx, team)
        if team_id is None:
            known = ", ".join(sorted({name for name, _ in await users.members(tx)})) or "none yet"
            raise OperatorError("team_unknown", f"There is no team '{team}'. There are: {known}.")
        await users.join_team(tx, await _user_id(tx, user), team_id, now)

    await db.transaction("join team", body)


async def leave_team(db: Database, user: str, now: datetime) -> None:
    """Takes a volunteer out of their team. Raises OperatorError("user_unknown", "not_in_a_team")."""

    async def body(tx: Transaction) -> bool:
        return await users.leave_team(tx, await _user_id(tx, user), now)

    if not await db.transaction("leave team", body):
        raise OperatorError("not_in_a_team", f"'{user}' is in no team.")


async def _user_id(tx: Transaction, name: str) -> int:
    user_id = await users.user_id(tx, name)
    if user_id is None:
        raise OperatorError(
            "user_unknown", f"There is no volunteer '{name}'. `chorus admin credit` lists those with credit."
        )
    return user_id


async def members(db: Database) -> dict[str, list[str]]:
    """Every team's members by name."""
    found: dict[str, list[str]] = {}
    for team, user in await db.transaction("members", users.members):
        found.setdefault(team, []).extend([] if user is None else [user])
    return found
