"""The `chorus` command. Sub-commands import what they need when they run."""

from typing import Annotated

import typer

from chorus import admin_commands, volunteer_commands

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Many small voices, one description: volunteer-powered image captioning.",
)
app.add_typer(volunteer_commands.app, name="volunteer")
app.add_typer(admin_commands.app, name="admin")


@app.command()
def up(
    data: admin_commands.Data = None,
    database_url: admin_commands.DatabaseUrl = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on [default: 127.0.0.1].")] = None,
    public_host: Annotated[str | None, typer.Option(help="Name or address that volunteers use.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the work server [default: 7433].")] = None,
    images_port: Annotated[int | None, typer.Option(help="Port of the image server [default: 7434].")] = None,
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
    )
    try:
        run(upping.up(settings, workers))
    except StartError as error:
        give_up("start_failed", str(error))


def main() -> None:
    """Entry point."""
    app()
