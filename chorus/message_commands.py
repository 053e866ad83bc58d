"""`chorus admin message …`: words from operators to volunteers."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from chorus.admin_commands import Data, DatabaseUrl

app = typer.Typer(no_args_is_help=True, help="Messages to volunteers.")

STANDS_FOR = timedelta(days=30)


@app.command()
def send(
    text: Annotated[str, typer.Argument(help="What to say, on one line.")],
    to: Annotated[str, typer.Option(help="all, user:NAME or host:ID.")],
    until: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M"],
            help="When it is over, in UTC; else in 30 days. Who comes later does not see it.",
        ),
    ] = None,
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Tell a volunteer, a host or all something; each client shows it once."""
    from chorus.operator import open_database, run, settings_from
    from coordinator import messages
    from coordinator.clock import now

    settings = settings_from(data=data, database_url=database_url)
    end = now() + STANDS_FOR if until is None else until.replace(tzinfo=UTC)

    async def command() -> int:
        async with open_database(settings) as db:
            return await messages.send(db, to, text, end, now())

    print(f"Message {run(command())} stands until {end:%Y-%m-%d %H:%M} UTC.")


@app.command("list")
def list_messages(data: Data = None, database_url: DatabaseUrl = None) -> None:
    """Show the messages that stand, the coordinator's own too."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from chorus.operator import open_database, run, settings_from
    from coordinator.clock import now
    from store import messages
    from store.messages import ListedMessage

    settings = settings_from(data=data, database_url=database_url)

    async def command() -> list[ListedMessage]:
        async with open_database(settings) as db:
            return await db.transaction("messages", lambda tx: messages.listed(tx, now()))

    found = run(command())
    if not found:
        print("No message stands.")
        return
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("id", "to", "until (UTC)", "from", "message"):
        table.add_column(heading)
    for message in found:
        to = (
            f"user:{message.user}"
            if message.user
            else f"host:{message.host_id}"
            if message.host_id
            else "all"
        )
        until = f"{message.until.astimezone(UTC):%Y-%m-%d %H:%M}"
        table.add_row(str(message.id), escape(to), until, message.code, escape(message.text))
    Console().print(table)


@app.command()
def withdraw(
    message: Annotated[int, typer.Argument(help="The message's id.")],
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Show a message to nobody more."""
    from chorus.operator import open_database, run, settings_from
    from coordinator import messages
    from coordinator.clock import now

    settings = settings_from(data=data, database_url=database_url)

    async def command() -> None:
        async with open_database(settings) as db:
            await messages.withdraw(db, message, now())

    run(command())
    print(f"Message {message} is withdrawn.")
