"""`chorus admin unit …` and `chorus admin batch …`: look at units, cancel, reopen and prioritise them."""

from typing import TYPE_CHECKING, Annotated

import typer

from chorus.admin_commands import Because, Data, DatabaseUrl, Priority, Yes

if TYPE_CHECKING:
    from coordinator.selection import Wish

unit_app = typer.Typer(no_args_is_help=True, help="Units: by their ids, or all that are like this.")
batch_app = typer.Typer(no_args_is_help=True, help="Batches: what was imported together.")

Ids = Annotated[list[int] | None, typer.Argument(metavar="ID", help="The units' ids.")]
Campaign = Annotated[str | None, typer.Option(help="Units of this campaign.")]
Batch = Annotated[str | None, typer.Option(help="Only those of this batch.")]
State = Annotated[
    list[str] | None, typer.Option(help="Only those in this state. May be repeated.", show_default=False)
]
Reason = Annotated[
    str | None, typer.Option(help="Only those that ended for this reason, such as no_agreement.")
]
KeepAnswers = Annotated[
    bool,
    typer.Option("--keep-answers", help="Judge its answers with at least one more, instead of all anew."),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of words.")]
CampaignName = Annotated[str, typer.Argument(metavar="CAMPAIGN", help="The campaign's name.")]
BatchName = Annotated[str, typer.Argument(metavar="BATCH", help="The batch's name.")]


def _wish(
    ids: list[int] | None,
    campaign: str | None,
    batch: str | None,
    state: list[str] | None,
    reason: str | None,
) -> "Wish":
    from coordinator.selection import Wish

    return Wish(tuple(ids or ()), campaign, batch, tuple(state or ()), reason)


@unit_app.command("list")
def list_units(
    campaign: Campaign = None,
    batch: Batch = None,
    state: State = None,
    reason: Reason = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    as_json: AsJson = False,
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Show units, oldest first."""
    from chorus import bulk
    from chorus.operator import run, settings_from

    settings = settings_from(data=data, database_url=database_url)
    wish = _wish(None, campaign, batch, state, reason)
    run(bulk.list_units(settings, wish, limit, as_json=as_json))


@unit_app.command("show")
def show_unit(
    unit: Annotated[int, typer.Argument(metavar="ID", help="The unit's id.")],
    as_json: AsJson = False,
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Show all that is known of a unit: its answers, leases, annotations and past rounds."""
    from chorus import bulk
    from chorus.operator import run, settings_from

    settings = settings_from(data=data, database_url=database_url)
    run(bulk.show_unit(settings, unit, as_json=as_json))


@unit_app.command("cancel")
def cancel_units(
    ids: Ids = None,
    campaign: Campaign = None,
    batch: Batch = None,
    because: Because = "",
    yes: Yes = False,
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Cancel open units: nobody is asked any more, and who is at work is told to stop."""
    from chorus import bulk
    from chorus.operator import run, settings_from

    settings = settings_from(data=data, database_url=database_url)
    run(bulk.cancel(settings, _wish(ids, campaign, batch, None, None), because, sure=yes))


@unit_app.command("reopen")
def reopen_units(
    ids: Ids = None,
    campaign: Campaign = None,
    batch: Batch = None,
    state: State = None,
    reason: Reason = None,
    keep_answers: KeepAnswers = False,
    because: Because = "",
    yes: Yes = False,
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Reopen units that have ended: what stood is withdrawn, credit taken back, and they are asked anew."""
    from chorus import bulk
    from chorus.operator import run, settings_from

    settings = settings_from(data=data, database_url=database_url)
    wish = _wish(ids, campaign, batch, state, reason)
    run(bulk.reopen(settings, wish, because, keep_answers=keep_answers, sure=yes))


@unit_app.command("prioritise")
def prioritise_units(
    priority: Priority,
    ids: Ids = None,
    campaign: Campaign = None,
    batch: Batch = None,
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Say how urgent open units are."""
    from chorus import bulk
    from chorus.operator import run, settings_from

    settings = settings_from(data=data, database_url=database_url)
    run(bulk.prioritise(settings, _wish(ids, campaign, batch, None, None), priority))


@batch_app.command("list")
def list_batches(
    campaign: CampaignName,
    as_json: AsJson = False,
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Show a campaign's batches and how far they are."""
    from chorus import bulk
    from chorus.operator import run, settings_from

    settings = settings_from(data=data, database_url=database_url)
    run(bulk.list_batches(settings, campaign, as_json=as_json))


@batch_app.command("cancel")
def cancel_batch(
    campaign: CampaignName,
    batch: BatchName,
    because: Because = "",
    yes: Yes = False,
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Cancel what is open in a batch."""
    from chorus import bulk
    from chorus.operator import run, settings_from

    settings = settings_from(data=data, database_url=database_url)
    run(bulk.cancel(settings, _wish(None, campaign, batch, None, None), because, sure=yes))


@batch_app.command("reopen")
def reopen_batch(
    campaign: CampaignName,
    batch: BatchName,
    state: State = None,
    reason: Reason = None,
    keep_answers: KeepAnswers = False,
    because: Because = "",
    yes: Yes = False,
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Reopen what has ended in a batch."""
    from chorus import bulk
    from chorus.operator import run, settings_from

    settings = settings_from(data=data, database_url=database_url)
    wish = _wish(None, campaign, batch, state, reason)
    run(bulk.reopen(settings, wish, because, keep_answers=keep_answers, sure=yes))


@batch_app.command("prioritise")
def prioritise_batch(
    campaign: CampaignName,
    batch: BatchName,
    priority: Priority,
    data: Data = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Say how urgent a batch is, and what is yet imported into it."""
    from chorus import bulk
    from chorus.operator import run, settings_from

    settings = settings_from(data=data, database_url=database_url)
    run(bulk.prioritise_batches(settings, campaign, batch, priority))
