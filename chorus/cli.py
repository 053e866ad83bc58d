"""The `chorus` command. Sub-commands import what they need when they run."""

from pathlib import Path
from typing import Annotated

import typer

from chorus import (
    admin_commands,
    credit_commands,
    host_commands,
    message_commands,
    unit_commands,
    volunteer_commands,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Many small voices, one description: volunteer-powered image captioning.",
)
app.add_typer(volunteer_commands.app, name="volunteer")
app.add_typer(admin_commands.app, name="admin")
admin_commands.app.add_typer(host_commands.app, name="host")
admin_commands.app.add_typer(message_commands.app, name="message")
admin_commands.app.command("credit")(credit_commands.credit)
admin_commands.app.add_typer(credit_commands.team_app, name="team")
admin_commands.app.add_typer(unit_commands.unit_app, name="unit")
admin_commands.app.add_typer(unit_commands.batch_app, name="batch")


@app.command()
def up(
    data: admin_commands.Data = None,
    database_url: admin_commands.DatabaseUrl = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on [default: 127.0.0.1].")] = None,
    public_host: Annotated[str | None, typer.Option(help="Name or address that volunteers use.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the work server [default: 7433].")] = None,
    images_port: Annotated[int | None, typer.Option(help="Port of the image server [default: 7434].")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Port of the metrics page [default: 7435].")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Work server processes on that port.")] = 1,
) -> None:
    """Run a coordinator: database, work server, image server and upkeep."""
    from chorus import up as upping
    from chorus.operator import give_up, run, settings_from
    from chorus.processes import StartError

    settings = settings_from(
        data=data,
        database_url=database_url,
        host=host,
        public_host=public_host,
        port=port,
        images_port=images_port,
        metrics_port=metrics_port,
    )
    try:
        run(upping.up(settings, workers))
    except StartError as error:
        give_up("start_failed", str(error))


@app.command()
def demo(
    once: Annotated[bool, typer.Option(help="End when all is done.")] = False,
    scenes: Annotated[int, typer.Option(min=1, max=2000, help="How many scenes to draw.")] = 32,
    seed: Annotated[int, typer.Option(help="Equal seeds draw equal scenes.")] = 1,
    endpoint: Annotated[
        str | None, typer.Option(help="Caption photos with this OpenAI-compatible server, with /v1.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The vision model to ask there.")] = None,
    images: Annotated[Path | None, typer.Option(help="A folder of photos; else the 16 bundled ones.")] = None,
    photos: Annotated[bool, typer.Option(help="The 16 bundled photos; needs --endpoint.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many photos.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the export.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the table as JSON.")] = None,
) -> None:
    """Watch the whole street at work for a minute: drawn scenes, six volunteers, three of them bad."""
    from chorus.demo.cast import Endpoint
    from chorus.demo.run import Plan
    from chorus.demo.run import demo as run_demo
    from chorus.operator import give_up, run
    from chorus.processes import StartError

    if (endpoint is None) != (model is None):
        give_up("demo_options", "--endpoint and --model go together.")
    if endpoint is None and (photos or images is not None or limit is not None):
        give_up("demo_options", "Photos need a real model: name it with --endpoint URL --model NAME.")
    asked = None if endpoint is None or model is None else Endpoint(endpoint, model)
    plan = Plan(scenes, seed, asked, images, limit, out, json_file, once)
    try:
        sound = run(run_demo(plan))
    except StartError as error:
        give_up("start_failed", str(error))
    raise typer.Exit(0 if sound else 1)


@app.command()
def bench(
    what: Annotated[str, typer.Argument(help="What to measure: engine or idle.")] = "engine",
    quick: Annotated[bool, typer.Option(help="Small and short.")] = False,
    keep: Annotated[
        Path | None, typer.Option(help="Folder in which the bench's databases are made, and kept.")
    ] = None,
) -> None:
    """Measure this machine: a table, and JSON as the last line."""
    from chorus.bench import engine, idle
    from chorus.operator import give_up

    match what:
        case "engine":
            engine.run(quick=quick, keep=keep)
        case "idle":
            idle.run(quick=quick)
        case _:
            give_up("bench_unknown", f"There is no bench '{what}'. There are: engine, idle.")


def main() -> None:
    """Runs the command; without the server's parts, says how to get them."""
    try:
        app()
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in {"captions", "chorus", "coordinator", "protos", "store", "volunteer_client"}:
            raise
        typer.secho(
            f"This installation is a volunteer's: '{missing}' is missing. For the coordinator's commands "
            "install with the server extra: pip install '.[server]' [server_extra_missing]",
            fg=typer.colors.RED,
            err=True,
        )
        raise SystemExit(1) from None
