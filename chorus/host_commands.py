"""`chorus admin host …`: look at hosts, park, release and revoke them."""

from collections.abc import Awaitable, Callable
from datetime import UTC, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from chorus.admin_commands import Data, DatabaseUrl

if TYPE_CHECKING:
    from coordinator.settings import Settings
    from coordinator.standing import Standing
    from store.database import Database
    from store.hosts import ListedHost

app = typer.Typer(no_args_is_help=True, help="Hosts: the machines of volunteers.")

HostId = Annotated[int, typer.Argument(help="The host's id.")]
T = TypeVar("T")


@app.command("list")
def list_hosts(
    user: Annotated[str | None, typer.Option(help="Those of one volunteer.")] = None,
    troubled: Annotated[bool, typer.Option(help="Those that are throttled, parked or revoked.")] = False,
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Show hosts, and how much each may have in hand."""
    from coordinator import fleet
    from coordinator.clock import now
    from coordinator.fleet import HostState, state_of

    settings, found = _on(lambda db: fleet.listed(db, user), data, database_url)
    states = {host.id: state_of(host, settings.host_cap, now()) for host in found}
    _print_hosts(
        [(h, states[h.id]) for h in found if not troubled or states[h.id] is not HostState.ACTIVE],
        settings.host_cap,
    )


def _print_hosts(shown: list[tuple["ListedHost", str]], cap: int) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from protos.tier import Tier

    if not shown:
        print("There is no such host yet: invite volunteers with chorus admin invite.")
        return
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("id", "user", "host", "tier", "state", "holds", "may hold", "parked until (UTC)"):
        table.add_column(heading, justify="right" if heading in {"id", "holds", "may hold"} else "left")
    for host, state in shown:
        may_hold = {"parked": "0", "revoked": "0"}.get(state, str(host.allowed or cap))
        until = f"{host.parked_until.astimezone(UTC):%Y-%m-%d %H:%M}" if host.parked_until else ""
        tier = Tier(host.tier_cap).label
        figures = (str(host.held), may_hold, until if state == "parked" else "")
        table.add_row(str(host.id), escape(host.user), escape(host.name), tier, state, *figures)
    Console().print(table)


@app.command()
def show(host: HostId, data: Data = None, database_url: DatabaseUrl = None) -> None:
    """Show one host and how its work fared."""
    from coordinator import fleet
    from coordinator.clock import now
    from coordinator.fleet import HostState, state_of
    from coordinator.standing import standing

    async def read(db: "Database") -> tuple["ListedHost", "Standing"]:
        return await fleet.one(db, host), await standing(db, host, now())

    settings, (found, fared) = _on(read, data, database_url)
    state = state_of(found, settings.host_cap, now())
    _print_hosts([(found, state)], settings.host_cap)
    print(
        f"joined {found.created_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC; agreed {fared.agreed:,}, disagreed "
        f"{fared.disagreed:,}, failed {fared.failed:,}, waiting to be judged {fared.waiting:,}, "
        f"credit {fared.credit:,.0f}"
    )
    if state is HostState.PARKED:
        print(f"parked: {found.reason}")


@app.command()
def park(
    host: HostId,
    hours: Annotated[float, typer.Option(min=0.01, max=8760, help="For how long.")] = 24.0,
    reason: Annotated[str, typer.Option(help="What its owner is told.")] = "",
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Give a host no work for a while, and tell its owner."""
    from coordinator import fleet
    from coordinator.clock import now

    _on(lambda db: fleet.park(db, host, timedelta(hours=hours), reason, now()), data, database_url)
    print(f"Host {host} is parked for {hours:g} hours. Earlier: chorus admin host release {host}")


@app.command()
def release(host: HostId, data: Data = None, database_url: DatabaseUrl = None) -> None:
    """Let a parked host work again, one unit at a time at first."""
    from coordinator import fleet
    from coordinator.clock import now

    _on(lambda db: fleet.release(db, host, now()), data, database_url)
    print(f"Host {host} gets work again.")


@app.command()
def revoke(host: HostId, data: Data = None, database_url: DatabaseUrl = None) -> None:
    """End a host for good; what it holds goes back to the shelves."""
    from coordinator import fleet

    _on(lambda db: fleet.revoke(db, host), data, database_url)
    print(f"Host {host} is revoked.")


def _on(
    command: Callable[["Database"], Awaitable[T]], data: Path | None, database_url: str | None
) -> tuple["Settings", T]:
    """Runs a command on the coordinator's database; gives its settings too."""
    from chorus.operator import open_database, run, settings_from

    settings = settings_from(data=data, database_url=database_url)

    async def opened() -> T:
        async with open_database(settings) as db:
            return await command(db)

    return settings, run(opened())
