"""What operators' commands on many units share: choosing them, asking before, showing progress."""

import contextlib
import functools
import json
import random
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import typer
from rich import box
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from chorus.operator import open_database
from coordinator.campaigns import Campaigns, find_row
from coordinator.clock import now
from coordinator.errors import OperatorError
from coordinator.lifecycle import UnitMove, UnitState
from coordinator.operations import BY_OPERATORS, WITH_ITS_CAMPAIGN, Operations, Why
from coordinator.priority import priority_of
from coordinator.selection import Wish, find_batch, select
from coordinator.settings import Settings
from store import batches, selections
from store.database import Database
from store.selections import Selection, UnitRow

Told = Callable[[int], None]


@contextlib.asynccontextmanager
async def _operations(settings: Settings) -> AsyncIterator[tuple[Database, Operations]]:
    async with open_database(settings) as db:
        yield db, Operations(db, Campaigns(db, random.Random()), now)  # noqa: S311 (no secret)


async def cancel(settings: Settings, wish: Wish, because: str, *, sure: bool) -> None:
    """Cancels what is open of the wished units."""
    async with _operations(settings) as (db, commands):
        chosen = await select(db, wish)
        total = await _confirmed(commands, chosen, UnitMove.CANCEL, "cancelled", sure=sure)
        with _progress("cancelling", total) as told:
            done = [await commands.cancel(one, Why(BY_OPERATORS, because), told) for one in chosen]
    print(f"{sum(done):,} units cancelled.")


async def reopen(settings: Settings, wish: Wish, because: str, *, keep_answers: bool, sure: bool) -> None:
    """Reopens what has ended of the wished units."""
    async with _operations(settings) as (db, commands):
        chosen = await select(db, wish)
        total = await _confirmed(commands, chosen, UnitMove.REOPEN, "reopened", sure=sure)
        with _progress("reopening", total) as told:
            done = [
                await commands.reopen(one, because, keep_answers=keep_answers, told=told) for one in chosen
            ]
    print(f"{sum(done):,} units reopened.")


async def prioritise(settings: Settings, wish: Wish, priority: int) -> None:
    """Gives what is open of the wished units another priority."""
    async with _operations(settings) as (db, commands):
        chosen = await select(db, wish)
        total = sum([await commands.count(one, UnitMove.CANCEL) for one in chosen])
        with _progress("moving", total) as told:
            done = [await commands.prioritise(one, priority, told) for one in chosen]
    print(f"{sum(done):,} open units have priority {priority}.")


async def prioritise_batches(settings: Settings, campaign: str, batch: str | None, priority: int) -> None:
    """Gives a batch, or all of a campaign, another priority."""
    async with _operations(settings) as (db, commands):
        campaign_id = (await find_row(db, campaign)).id
        if batch is None:
            done = await commands.prioritise_campaign(campaign_id, priority)
        else:
            chosen = await find_batch(db, campaign, batch)
            done = await commands.prioritise_batch(chosen, priority)
    print(f"{done:,} open units have priority {priority}.")


async def cancel_campaign(settings: Settings, name: str, because: str, *, sure: bool) -> None:
    """Ends a campaign."""
    async with _operations(settings) as (db, commands):
        campaign_id = (await find_row(db, name)).id
        every = [Selection(campaign_id, frozenset(UnitState))]
        total = await _confirmed(commands, every, UnitMove.CANCEL, "cancelled", sure=sure, at_least=0)
        with _progress("cancelling", total) as told:
            done = await commands.cancel_campaign(campaign_id, because, told)
    print(f"Campaign '{name}' is cancelled, and {done:,} open units with it. What was accepted stays.")


async def reopen_campaign(settings: Settings, name: str) -> None:
    """Takes a cancelled campaign up again."""
    async with _operations(settings) as (db, commands):
        row = await find_row(db, name)
        if row.state != "cancelled":
            raise OperatorError(
                "campaign_not_cancelled",
                f"Campaign '{name}' is {row.state}. To reopen units of it: "
                f"chorus admin unit reopen --campaign {name} --state exhausted",
            )
        with_it = Selection(row.id, frozenset(UnitState), reason=WITH_ITS_CAMPAIGN)
        with _progress("reopening", await commands.count(with_it)) as told:
            done = await commands.reopen_campaign(row.id, told)
    print(f"Campaign '{name}' is running again, with {done:,} units that were cancelled with it.")


async def _confirmed(
    commands: Operations,
    chosen: Sequence[Selection],
    move: UnitMove,
    done: str,
    *,
    sure: bool,
    at_least: int = 1,
) -> int:
    """How many units it is about, once the operator has agreed. Raises OperatorError("not_confirmed")."""
    total = sum([await commands.count(one, move) for one in chosen])
    if total < at_least:
        raise OperatorError("nothing_selected", f"None of these units can be {done}.")
    if sure:
        return total
    if sys.stdin.isatty() and typer.confirm(f"{total:,} units will be {done}. Go on?"):
        return total
    raise OperatorError("not_confirmed", f"{total:,} units would be {done}. Nothing was done; --yes does it.")


@contextlib.contextmanager
def _progress(word: str, total: int) -> Iterator[Told]:
    columns = (TextColumn(word), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        shown = bar.add_task(word, total=total)
        yield lambda done: bar.update(shown, completed=done)


async def list_units(settings: Settings, wish: Wish, limit: int, *, as_json: bool) -> None:
    """Prints the first of the wished units."""
    found: list[UnitRow] = []
    async with open_database(settings) as db:
        for chosen in await select(db, wish):
            async for page in selections.pages(db, chosen):
                keys = [(chosen.campaign_id, unit_id) for unit_id in page[: limit - len(found)]]
                found += await db.transaction("list units", functools.partial(selections.rows, keys=keys))
                if len(found) == limit:
                    break
    shown = [_unit(row) for row in found]
    if as_json:
        print(json.dumps(shown, default=str))
        return
    _print_table(shown, "No unit is like that.")
    if len(shown) == limit:
        print(f"These are the first {limit}; --limit shows more.")


def _unit(row: UnitRow) -> dict[str, Any]:
    verdict = row.verdict or {}
    return {
        "id": row.id,
        "perspective": row.perspective,
        "image": row.filename,
        "state": row.state,
        "reason": verdict.get("reason", ""),
        "priority": priority_of(row.block),
        "settled": row.settled_at,
    }


async def show_unit(settings: Settings, unit_id: int, *, as_json: bool) -> None:
    """Prints all that is known of a unit."""
    async with open_database(settings) as db:
        [chosen] = await select(db, Wish(ids=[unit_id]))
        known = await db.transaction(
            "show unit", lambda tx: selections.whole(tx, chosen.campaign_id, unit_id)
        )
    known["priority"] = priority_of(known.pop("block"))
    known |= {name: known.pop(name) for name in list(known) if isinstance(known[name], list)}
    if as_json:
        print(json.dumps(known))
        return
    for name, value in known.items():
        if isinstance(value, list):
            print(f"{name}: {len(value) or 'none'}")
            for one in value:
                print("  " + json.dumps(one, ensure_ascii=False))
        else:
            print(f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")


async def list_batches(settings: Settings, campaign: str, *, as_json: bool) -> None:
    """Prints a campaign's batches and how far they are."""
    shown = []
    async with open_database(settings) as db:
        campaign_id = (await find_row(db, campaign)).id
        for batch in await db.transaction("batches", lambda tx: batches.of_campaign(tx, campaign_id)):
            count = functools.partial(batches.count_by_state, batch_id=batch.id)
            counted = await db.transaction("count batch", count)
            units = sum(counted.values())
            row = {"batch": batch.name, "imported": batch.created_at, "priority": batch.priority}
            row |= {"units": units, **{state.value: counted.get(state, 0) for state in UnitState}}
            row["done"] = round(1 - counted.get("open", 0) / units, 4) if units else 0.0
            shown.append(row)
    if as_json:
        print(json.dumps(shown, default=str))
    else:
        _print_table(shown, f"Nothing was imported into '{campaign}' yet.")


def _print_table(rows: Sequence[dict[str, Any]], empty: str) -> None:
    if not rows:
        print(empty)
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name, value in rows[0].items():
        justify: JustifyMethod = "right" if isinstance(value, int | float) else "left"
        table.add_column(name, justify=justify, no_wrap=not isinstance(value, str))
    for row in rows:
        table.add_row(*(_cell(name, value) for name, value in row.items()))
    Console().print(table)


def _cell(name: str, value: str | float | datetime | None) -> str:
    match value:
        case None:
            return ""
        case datetime():
            return f"{value.astimezone(UTC):%m-%d %H:%M}"
        case int() | float() if name == "done":
            return f"{value:.0%}"
        case _:
            return escape(str(value))
