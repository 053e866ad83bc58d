"""`chorus volunteer …`: what a volunteer types. Imports of the client wait until a command runs."""

import asyncio
import json
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from protos.tier import Tier

if TYPE_CHECKING:
    from protos import work_pb2
    from volunteer_client.client import Log
    from volunteer_client.configure import Home

app = typer.Typer(no_args_is_help=True, help="Caption images on your own machine, for a campaign.")


def _tier(text: str) -> str:
    try:
        return Tier.parse(text).label
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


HomeOption = Annotated[
    Path,
    typer.Option("--home", envvar="CHORUS_HOME", help="Folder of this host: its key, enrolment and spool."),
]
TIERS = f"What its memory can hold: {', '.join(tier.label for tier in Tier)}."
DEFAULT_HOME = Path("~/.chorus/volunteer")


@app.command()
def join(
    invite: Annotated[str, typer.Argument(help="The line that the operators gave you.")],
    home: HomeOption = DEFAULT_HOME,
    user: Annotated[str, typer.Option(help="The name that you wish for, where the invite names none.")] = "",
    name: Annotated[str, typer.Option(help="What to call this machine. [default: its host name]")] = "",
    tier: Annotated[str, typer.Option(parser=_tier, metavar="TIER", help=TIERS)] = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Replace an enrolment; it is moved aside.")] = False,
) -> None:
    """Join a coordinator with an invite."""
    from volunteer_client.configure import ConfigureError, Home  # late: see above
    from volunteer_client.join import join as join_coordinator  # late: see above

    host_name = name or platform.node() or "host"
    try:
        joined = asyncio.run(
            join_coordinator(Home(home), invite, user=user, name=host_name, tier=tier, force=force)
        )
    except ConfigureError as error:
        _fail(error.code, str(error))
    enrolment = joined.enrolment
    if joined.set_aside is not None:
        typer.echo(f"The earlier enrolment is kept in {joined.set_aside}.")
    if joined.is_new:
        typer.echo(f"Joined as {enrolment.user_name}, host {enrolment.host_id}.")
        typer.echo("Next: chorus volunteer run --endpoint URL --model NAME")
    else:
        typer.echo(
            f"This machine has joined already, as {enrolment.user_name}, host {enrolment.host_id}. "
            "Nothing was changed."
        )


@app.command()
def run(
    endpoint: Annotated[str, typer.Option(help="Base URL of an OpenAI-compatible server, with /v1.")],
    model: Annotated[str, typer.Option(help="The vision model to ask.")],
    api_key_env: Annotated[
        str | None, typer.Option(help="Environment variable with the endpoint's key. It never leaves here.")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Requests to the model at once.")] = 2,
    tier: Annotated[
        str | None,
        typer.Option(parser=_tier, metavar="TIER", help="Other than what was said at joining."),
    ] = None,
    perspectives: Annotated[
        list[str] | None, typer.Option(help="Only this perspective; may be given more than once.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="For answers that can be repeated. [default: drawn]")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="Other than the campaign's.")
    ] = None,
    exit_when_idle: Annotated[
        float | None, typer.Option(min=0, help="End after so many seconds without work.")
    ] = None,
    drain_limit: Annotated[
        float, typer.Option(min=0, help="Seconds that the first Ctrl-C waits for the model's next answer.")
    ] = 120.0,
    json_log: Annotated[bool, typer.Option("--json-log", help="One JSON object a line.")] = False,
) -> None:
    """Caption images until stopped: Ctrl-C once to finish what is held, twice to hand it back."""
    from volunteer_client import client, configure  # late: see above

    try:
        settings = client.Settings(
            endpoint=configure.check_endpoint(endpoint),
            model=model,
            api_key=configure.read_api_key(api_key_env),
            concurrency=concurrency,
            tier=tier,
            perspectives=tuple(perspectives or ()),
            seed=seed,
            temperature=temperature,
            exit_when_idle_s=exit_when_idle,
            drain_limit_s=drain_limit,
        )
        status = asyncio.run(client.run(configure.Home(home), settings, _log(json_log)))
    except configure.ConfigureError as error:
        _fail(error.code, str(error))
    raise typer.Exit(status)


@app.command()
def standing(
    home: HomeOption = DEFAULT_HOME,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Show what the coordinator believes of this host."""
    from volunteer_client.api import AwayError, RejectedError  # late: see above
    from volunteer_client.configure import ConfigureError, Home  # late: see above

    try:
        answer = asyncio.run(_standing(Home(home)))
    except ConfigureError as error:
        _fail(error.code, str(error))
    except (AwayError, RejectedError) as error:
        _fail(error.code.lower(), str(error))
    if as_json:
        figures = {field.name: getattr(answer, field.name) for field in answer.DESCRIPTOR.fields}
        said = [{"id": one.id, "code": one.code, "text": one.text} for one in answer.messages]
        tasks = [{f.name: getattr(task, f.name) for f in task.DESCRIPTOR.fields} for task in answer.tasks]
        typer.echo(json.dumps({**figures, "messages": said, "tasks": tasks}))
    else:
        _print_standing(answer)


async def _standing(home: "Home") -> "work_pb2.StandingResponse":
    from volunteer_client.api import Coordinator  # late: see above

    coordinator = Coordinator(*home.joined())
    try:
        return await coordinator.standing()
    finally:
        await coordinator.close()


def _print_standing(answer: "work_pb2.StandingResponse") -> None:
    from rich.console import Console  # late: see above
    from rich.markup import escape  # late: see above
    from rich.table import Table  # late: see above

    from volunteer_client.conversation import printable  # late: see above

    table = Table(title=escape(f"{answer.user_name} / {answer.host_name}"), show_header=False)
    rows = {
        "agreed with the others": answer.agreed,
        "disagreed": answer.disagreed,
        "accepted unchecked": answer.unchecked,
        "waiting to be judged": answer.waiting,
        "failed": answer.failed,
        "credit of this host": f"{answer.credit:,.1f}",
        "of all your hosts": f"{answer.user_credit:,.1f}",
        "recent average a day": f"{answer.user_recent:,.1f}",
        "team": escape(answer.team) or "none",
    }
    for label, value in rows.items():
        table.add_row(label, str(value))
    console = Console()
    console.print(table)
    for task in answer.tasks:
        accepted = task.agreed + task.unchecked
        console.print(
            f"{task.campaign}/{task.perspective} with {printable(task.model)}: {accepted:,} accepted "
            f"at {task.credit_each:g} each, {task.disagreed:,} not: {task.credit:,.1f} credit",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    for message in answer.messages:
        console.print(printable(message.text), markup=False, highlight=False)


def _log(as_json: bool) -> "Log":
    """Plain lines for a person, or JSON lines; on standard output, each flushed as it is written."""
    import structlog  # late: see above

    last: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), pad_event_to=0, pad_level=False)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso" if as_json else "%H:%M:%S", utc=as_json),
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=structlog.PrintLoggerFactory(),
    )
    log: Log = structlog.get_logger()
    return log


def _fail(code: str, advice: str) -> NoReturn:
    typer.echo(f"{advice} [{code}]", err=True)
    raise typer.Exit(2)
