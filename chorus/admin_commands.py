"""`chorus admin …`: what operators do."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from coordinator.export import ExportReport
    from coordinator.importer import ImportReport

app = typer.Typer(no_args_is_help=True, help="Create campaigns, import images, invite, watch, export.")
campaign_app = typer.Typer(no_args_is_help=True, help="Campaigns.")
app.add_typer(campaign_app, name="campaign")

Data = Annotated[Path | None, typer.Option(help="The coordinator's data folder (by default chorus-data).")]
DatabaseUrl = Annotated[
    str | None, typer.Option("--database-url", help="PostgreSQL 17 or newer, instead of the embedded one.")
]
Because = Annotated[str, typer.Option(help="Why, in words that are kept with the units.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before.")]
Priority = Annotated[
    int, typer.Option(min=-3, max=3, help="-3 to 3: the highest is handed out first; 0 is usual.")
]


@campaign_app.command("create")
def create_campaign(
    file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="The campaign's description.")],
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Create a campaign from a TOML file."""
    from chorus.operator import open_database, run, settings_from
    from coordinator import campaigns
    from coordinator.clock import now
    from coordinator.policy import read_campaign

    settings = settings_from(data=data, database_url=database_url)

    async def command() -> None:
        written, perspectives = read_campaign(file)
        async with open_database(settings) as db:
            await campaigns.create(db, written, perspectives, now())
        names = ", ".join(perspective.name for _, perspective in perspectives)
        print(f"Campaign '{written.name}' is there, with {names}.")
        print(f"Next: chorus admin import {written.name} FOLDER")

    run(command())


@campaign_app.command("pause")
def pause_campaign(
    name: Annotated[str, typer.Argument(help="The campaign's name.")],
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Hand out no more work of a campaign; what is out may still come back."""
    _set_state(name, "paused", data, database_url)


@campaign_app.command("resume")
def resume_campaign(
    name: Annotated[str, typer.Argument(help="The campaign's name.")],
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Hand out a paused campaign's work again."""
    _set_state(name, "running", data, database_url)


@campaign_app.command("cancel")
def cancel_campaign(
    name: Annotated[str, typer.Argument(help="The campaign's name.")],
    because: Because = "",
    yes: Yes = False,
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """End a campaign and cancel what is open in it; what was accepted stays."""
    from chorus import bulk
    from chorus.operator import run, settings_from

    settings = settings_from(data=data, database_url=database_url)
    run(bulk.cancel_campaign(settings, name, because, sure=yes))


@campaign_app.command("reopen")
def reopen_campaign(
    name: Annotated[str, typer.Argument(help="The campaign's name.")],
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Take a cancelled campaign up again, where it stood."""
    from chorus import bulk
    from chorus.operator import run, settings_from

    run(bulk.reopen_campaign(settings_from(data=data, database_url=database_url), name))


@campaign_app.command("prioritise")
def prioritise_campaign(
    name: Annotated[str, typer.Argument(help="The campaign's name.")],
    priority: Priority,
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Say how urgent all that is open in a campaign is."""
    from chorus import bulk
    from chorus.operator import run, settings_from

    settings = settings_from(data=data, database_url=database_url)
    run(bulk.prioritise_batches(settings, name, None, priority))


def _set_state(name: str, state: str, data: Path | None, database_url: str | None) -> None:
    from chorus.operator import open_database, run, settings_from
    from coordinator.campaigns import set_state

    settings = settings_from(data=data, database_url=database_url)

    async def command() -> None:
        async with open_database(settings) as db:
            await set_state(db, name, state)

    run(command())
    print(f"Campaign '{name}' is {state}.")


@app.command("import")
def import_images(
    campaign: Annotated[str, typer.Argument(help="The campaign's name.")],
    path: Annotated[Path, typer.Argument(help="A folder, an image, or a JSONL list of paths or URLs.")],
    batch: Annotated[
        str | None, typer.Option(help="The batch that new units come into (by default DATE-NUMBER).")
    ] = None,
    priority: Priority = 0,
    data: Data = None,
    database_url: DatabaseUrl = None,
    allow_network: Annotated[
        list[str] | None,
        typer.Option(help="A private network that URLs may reach, such as 10.1.0.0/16. May be repeated."),
    ] = None,
) -> None:
    """Import images into a campaign. Running it again adds nothing twice."""
    from chorus.operator import run, settings_from
    from chorus.progress import import_with_progress
    from coordinator.importer import NewBatch

    settings = settings_from(data=data, database_url=database_url)
    into = NewBatch(batch, priority)
    report = run(import_with_progress(settings, campaign, path, into, allow_network or []))
    _tell_import(report)


def _tell_import(report: "ImportReport") -> None:
    for refusal in report.refused:
        typer.secho(
            f"skipped {refusal.name}: {refusal.detail} [{refusal.code}]", fg=typer.colors.YELLOW, err=True
        )
    if report.skipped_files:
        print(f"{report.skipped_files} files that are not images by their names were passed over.")
    print(
        f"{report.images} new images ({report.near_duplicates} look like one that is there), "
        f"{report.known} known before, {len(report.refused)} skipped; {report.units} new units"
        + (f" in batch {report.batch}." if report.batch else ".")
    )
    if report.refused and not report.images and not report.known:
        raise typer.Exit(1)


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
    watch: Annotated[bool, typer.Option(help="Keep showing, until Ctrl-C.")] = False,
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Show campaigns, backlog and results."""
    from chorus.operator import run, settings_from
    from chorus.status_view import show_status

    settings = settings_from(data=data, database_url=database_url)
    run(show_status(settings, as_json=as_json, watch=watch))


@app.command()
def invite(
    user: Annotated[
        str | None, typer.Option(help="Whose hosts they will be; else a new user per host.")
    ] = None,
    uses: Annotated[int, typer.Option(min=1, max=100_000, help="How many hosts may join.")] = 1,
    days: Annotated[float, typer.Option(min=0.01, max=365, help="How long it holds.")] = 7.0,
    tier: Annotated[str, typer.Option(help="The largest tier that its hosts may claim.")] = "80g",
    data: Data = None,
    database_url: DatabaseUrl = None,
    host: Annotated[str | None, typer.Option(help="Other than what `chorus up` was told.")] = None,
    public_host: Annotated[str | None, typer.Option(help="Other than what `chorus up` was told.")] = None,
    port: Annotated[int | None, typer.Option(help="Other than what `chorus up` was told.")] = None,
) -> None:
    """Print an invite: the line that a volunteer joins with."""
    from chorus.operator import give_up, open_database, run, settings_from
    from chorus.up import as_reached, make_invite
    from coordinator.keys import keys_of
    from protos.tier import Tier

    settings = settings_from(
        data=data, database_url=database_url, host=host, public_host=public_host, port=port
    )
    settings = as_reached(settings, host=host, public_host=public_host, port=port)
    try:
        tier_cap = Tier.parse(tier)
    except ValueError as error:
        give_up("tier_invalid", str(error))

    async def command() -> None:
        async with open_database(settings) as db:
            keys = keys_of(settings)
            print(await make_invite(settings, db, keys, user=user, tier=tier_cap, uses=uses, days=days))

    run(command())


@app.command()
def export(
    campaign: Annotated[str, typer.Argument(help="The campaign's name.")],
    out: Annotated[Path, typer.Option(help="Folder for annotations.jsonl and metadata.json.")],
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Write a campaign's published annotations as a dataset."""
    from chorus.operator import open_database, run, settings_from
    from coordinator.campaigns import find_row
    from coordinator.clock import now
    from coordinator.export import export as export_campaign

    settings = settings_from(data=data, database_url=database_url)

    async def command() -> "ExportReport":
        async with open_database(settings) as db:
            return await export_campaign(db, await find_row(db, campaign), out, now())

    report = run(command())
    print(f"{report.annotations} annotations of {report.images} images are in {report.folder}.")
