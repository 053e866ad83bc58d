"""`chorus admin status` on a terminal."""

import asyncio
import json
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table

from chorus.operator import open_database
from coordinator.settings import Settings
from coordinator.status import read_status

WATCH_S = 1.0
FIGURES = ("images", "units", "open", "leased", "accepted", "exhausted", "cancelled", "results")


async def show_status(settings: Settings, *, as_json: bool, watch: bool) -> None:
    """Prints the status once, or again and again."""
    async with open_database(settings) as db:
        if as_json:
            while True:
                print(json.dumps(await read_status(db)), flush=True)
                if not watch:
                    return
                await asyncio.sleep(WATCH_S)
        console = Console()
        if not watch:
            console.print(status_table(await read_status(db)))
            return
        with Live(console=console, refresh_per_second=4) as live:
            while True:
                live.update(status_table(await read_status(db)))
                await asyncio.sleep(WATCH_S)


def status_table(status: dict[str, Any]) -> RenderableType:
    """A table of campaigns; a hint where there is none."""
    if not status["campaigns"]:
        return (
            "There is no campaign yet. Describe one in a file, then: chorus admin campaign create FILE.toml"
        )
    table = Table(title="Campaigns", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("campaign")
    shown = [name for name in FIGURES if name != "cancelled" or any(c[name] for c in status["campaigns"])]
    for heading in (*shown, "done"):
        table.add_column(heading, justify="right")
    notes = []
    for campaign in status["campaigns"]:
        figures = [campaign[key] for key in shown]
        done = 1 - campaign["open"] / campaign["units"] if campaign["units"] else 0.0
        paused = "" if campaign["state"] == "running" else f" ({campaign['state']})"
        table.add_row(campaign["name"] + paused, *(f"{figure:,}" for figure in figures), f"{done:.0%}")
        waiting = ", ".join(f"{count:,} for {tier}" for tier, count in campaign["waiting_by_tier"].items())
        if waiting:
            notes.append(f"{campaign['name']}: waiting {waiting}")
        notes += [
            f"{campaign['name']}: {count:,} exhausted, {reason}"
            for reason, count in campaign["exhausted_by_reason"].items()
        ]
    return Group(table, *notes, f"credit given: {status['credit']:,.0f}")
