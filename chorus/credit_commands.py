"""`chorus admin credit` and `chorus admin team …`: who earned what."""

import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from chorus.admin_commands import Data, DatabaseUrl

if TYPE_CHECKING:
    from coordinator.credit import Credit
    from store.credit import TaskCreditRow
    from store.database import Database

T = TypeVar("T")
EVERYBODY = 2**31 - 1

team_app = typer.Typer(no_args_is_help=True, help="Teams of volunteers.")


class By(StrEnum):
    """Whose credit is listed."""

    USER = "user"
    HOST = "host"
    TEAM = "team"
    TASK = "task"


def credit(
    by: Annotated[By, typer.Option(help="Whose; `task` lists what one accepted answer earns.")] = By.USER,
    limit: Annotated[int, typer.Option(min=0, help="How many, those with the most; 0 for all.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list instead of a table.")] = False,
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Show credit: who has the most, or what the tasks' answers earn."""

    async def read(db: "Database") -> Sequence["Credit | TaskCreditRow"]:
        from coordinator.clock import now
        from coordinator.credit import leaders, tasks

        return await tasks(db) if by is By.TASK else await leaders(db, by.value, limit or EVERYBODY, now())

    rows = [asdict(row) for row in _on_database(data, database_url, read)]
    if as_json:
        print(json.dumps(rows))
    elif rows:
        _print(by, rows)
    elif by is By.TEAM:
        print("No team has credit yet. Make one: chorus admin team create NAME")
    elif by is By.TASK:
        print("There is no campaign yet: chorus admin campaign create FILE.toml")
    else:
        print("Nothing was accepted yet.")


def _print(by: By, rows: Sequence[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    if by is By.TASK:
        for heading in ("campaign", "perspective"):
            table.add_column(heading)
        for heading in ("credit each", "results", "credit"):
            table.add_column(heading, justify="right")
        for row in rows:
            figures = (f"{row['credit_each']:g}", f"{row['results']:,}", f"{row['credit']:,.1f}")
            table.add_row(row["campaign"], row["perspective"], *figures)
    else:
        table.add_column(by.value)
        for heading in ("credit", "recent average", "results"):
            table.add_column(heading, justify="right")
        for row in rows:
            table.add_row(
                escape(row["name"]), f"{row['credit']:,.1f}", f"{row['recent']:,.1f}", f"{row['results']:,}"
            )
    Console().print(table)


@team_app.command("create")
def create_team(
    name: Annotated[str, typer.Argument(help="The team's name.")],
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Make a team."""

    async def command(db: "Database") -> None:
        from coordinator.clock import now
        from coordinator.credit import create_team

        await create_team(db, name, now())

    _on_database(data, database_url, command)
    print(f"Team '{name}' is there. Next: chorus admin team join {name} USER")


@team_app.command("join")
def join_team(
    team: Annotated[str, typer.Argument(help="The team's name.")],
    user: Annotated[str, typer.Argument(help="The volunteer's name.")],
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Put a volunteer into a team, out of any other. What they earn from now on is the team's too."""

    async def command(db: "Database") -> None:
        from coordinator.clock import now
        from coordinator.credit import join_team

        await join_team(db, team, user, now())

    _on_database(data, database_url, command)
    print(f"'{user}' is in team '{team}'.")


@team_app.command("leave")
def leave_team(
    user: Annotated[str, typer.Argument(help="The volunteer's name.")],
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Take a volunteer out of their team, which keeps what they earned in it."""

    async def command(db: "Database") -> None:
        from coordinator.clock import now
        from coordinator.credit import leave_team

        await leave_team(db, user, now())

    _on_database(data, database_url, command)
    print(f"'{user}' is in no team.")


@team_app.command("list")
def list_teams(
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object instead of lines.")] = False,
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """List teams and their members."""

    async def read(db: "Database") -> dict[str, list[str]]:
        from coordinator.credit import members

        return await members(db)

    teams = _on_database(data, database_url, read)
    if as_json:
        print(json.dumps(teams))
    elif not teams:
        print("There is no team yet: chorus admin team create NAME")
    else:
        for team, users in teams.items():
            print(f"{team}: {', '.join(users) or 'nobody'}")


def _on_database(
    data: Data, database_url: DatabaseUrl, command: Callable[["Database"], Coroutine[Any, Any, T]]
) -> T:
    """Runs a command on the coordinator's database."""
    from chorus.operator import open_database, run, settings_from

    settings = settings_from(data=data, database_url=database_url)

    async def opened() -> T:
        async with open_database(settings) as db:
            return await command(db)

    return run(opened())
