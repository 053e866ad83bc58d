"""Word among processes that there is new work: NOTIFY, a few a second, and LISTEN."""

import asyncio
import contextlib
import secrets
from collections.abc import Callable

import psycopg
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

CHANNEL = "chorus_work"
APART_S = 0.05  # between two notices of one process: NOTIFY takes a lock of the whole server at its commit
CHECK_S = 30.0
CONNECT_S = 10

# Nothing is lost with a notice that a crash swallows, so none waits for the disk.
NOTIFY = sa.text("SELECT set_config('synchronous_commit', 'off', true), pg_notify(:channel, :payload)")


class Bell:
    """Tells every process that there is new work; rings that come close together are one notice."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._rung = False
        self._here: Callable[[], None] = _nobody
        self._closing = asyncio.Event()
        self._ringing: asyncio.Task[None] | None = None

    def tapped(self, here: Callable[[], None]) -> None:
        """Has `here` called whenever work comes that only this process is told of."""
        self._here = here

    def tap(self) -> None:
        """Tells this process alone."""
        self._here()

    def ring(self) -> None:
        """Sends a notice soon, at once where none was sent for APART_S."""
        self._rung = True
        if self._ringing is None or self._ringing.done():
            self._ringing = asyncio.create_task(self._send())

    async def say(self, payload: str) -> None:
        """Sends one notice."""
        async with self._engine.begin() as connection:
            await connection.execute(NOTIFY, {"channel": CHANNEL, "payload": payload})

    async def close(self) -> None:
        """Sends what is still to be sent."""
        self._closing.set()
        if self._ringing is not None:
            await self._ringing

    async def _send(self) -> None:
        while self._rung:
            self._rung = False
            with contextlib.suppress(DBAPIError, psycopg.Error, OSError):  # work is found without it, later
                await self.say("")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), APART_S)


def _nobody() -> None:
    """Nobody listens here."""


class Ear:
    """Hears notices on a connection of its own."""

    def __init__(self, url: str, bell: Bell, heard: Callable[[], None]) -> None:
        self._url = url
        self._bell = bell
        self._heard = heard
        self.hears = False

    async def listen(self) -> None:
        """Calls `heard` for each notice, and once at first, until the connection is lost or found to be deaf.

        `hears` is true while it hears its own voice: behind some poolers LISTEN succeeds and nothing comes.
        Raises psycopg.Error or OSError where the database is away.
        """
        url = sa.make_url(self._url).set(drivername="postgresql").render_as_string(hide_password=False)
        try:
            async with await psycopg.AsyncConnection.connect(
                url, autocommit=True, connect_timeout=CONNECT_S, application_name="chorus listener"
            ) as connection:
                await connection.execute(f"LISTEN {CHANNEL}")
                self._heard()
                while await self._hears_itself(connection):
                    pass
        finally:
            self.hears = False

    async def _hears_itself(self, connection: psycopg.AsyncConnection) -> bool:
        mine, heard = secrets.token_hex(8), False
        await self._bell.say(mine)
        async for notice in connection.notifies(timeout=CHECK_S):
            if notice.payload == mine:
                self.hears = heard = True
            elif not notice.payload:
                self._heard()
        return heard
