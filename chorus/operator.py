"""What operators' commands share: the data folder, its database (running or not), and their errors."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import typer

from coordinator.settings import Settings
from store.database import Database

T = TypeVar("T")


def settings_from(**flags: object) -> Settings:
    """Settings from flags, then CHORUS_… variables, then defaults; ends with words where one is wrong."""
    from pydantic import ValidationError

    try:
        return Settings.model_validate({**Settings().model_dump(), **_given(flags)})
    except ValidationError as error:
        fault = error.errors()[0]
        give_up("setting_invalid", f"{fault['loc'][0]}: {fault['msg']}")


def _given(flags: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in flags.items() if value is not None}


def give_up(code: str, message: str) -> NoReturn:
    """Ends the command with words and a stable code on standard error, and exit status 1."""
    typer.secho(f"{message} [{code}]", fg=typer.colors.RED, err=True)
    raise typer.Exit(1)


def run(command: Coroutine[Any, Any, T]) -> T:
    """Runs a command; errors that an operator can mend become words."""
    from coordinator.errors import OperatorError
    from store.database import DatabaseError
    from store.embedded import EmbeddedError

    try:
        return asyncio.run(command)
    except (OperatorError, DatabaseError, EmbeddedError) as error:
        give_up(error.code, str(error))
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        give_up("file_unusable", f"{named}{error.strerror or error}.")
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@contextlib.asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Database]:
    """The coordinator's database, migrated: the named one, or the embedded one, started where it is not."""
    from coordinator.errors import OperatorError
    from store.embedded import EmbeddedPostgres, running_url
    from store.migrate import upgrade

    with contextlib.ExitStack() as stack:
        url = settings.database_url
        if url is None:
            folder = database_folder(settings)
            if not folder.is_dir():
                raise OperatorError(
                    "no_coordinator",
                    f"There is no coordinator in {settings.data.resolve()}. "
                    f"Start one with `chorus up --data {settings.data}`, or name its folder with --data.",
                )
            url = await asyncio.to_thread(running_url, folder)
            if url is None:
                server = EmbeddedPostgres(folder)
                print("Starting the embedded database for this command …", file=sys.stderr)
                url = await asyncio.to_thread(server.start)
                stack.callback(server.stop)
        db = Database.connect(url, pool_size=4)
        try:
            await db.check_server()
            await asyncio.to_thread(upgrade, url)
            yield db
        finally:
            await db.close()


def database_folder(settings: Settings) -> Path:
    """Where the embedded database lies."""
    return settings.data / "database"
