"""A coordinator that can die between any two commits; all that it held in memory dies with it."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

from simulation.plan import Crash, Moment
from sqlalchemy.ext.asyncio import AsyncEngine
from support.engine import Engine

from coordinator import pulse
from store.database import Database, Transaction

T = TypeVar("T")


class ServerDied(Exception):  # noqa: N818 - an event, not an error
    """The server is gone: whoever waits for its answer gets none."""


class MortalDatabase(Database):
    """A server's door to the database. After the server's death nothing goes through it, either way."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine)
        self.dead = False
        self._begun = 0
        self._crash: Crash | None = None

    def expect(self, crash: Crash | None) -> None:
        """Counts transactions anew, and dies at the crash's."""
        self._begun, self._crash = 0, crash

    async def transaction(
        self, name: str, body: Callable[[Transaction], Awaitable[T]], *, pipelined: bool = False
    ) -> T:
        self._begun += 1
        moment = None
        if self._crash is not None and self._begun == self._crash.transaction:
            moment = self._crash.moment
        if moment is Moment.UNBEGUN:
            self.dead = True
        self._breathe(name)

        async def mortal_body(tx: Transaction) -> T:
            value = await body(tx)
            if moment is Moment.UNCOMMITTED:
                self.dead = True
                self._breathe(name)
            return value

        value = await super().transaction(name, mortal_body, pipelined=pipelined)
        if moment is Moment.COMMITTED:
            self.dead = True
        self._breathe(name)
        return value

    def _breathe(self, name: str) -> None:
        if self.dead:
            raise ServerDied(name)


class Server:
    """One coordinator process: the real commands over a mortal door."""

    def __init__(self, db: Database, seed: int, time: datetime) -> None:
        self.door = MortalDatabase(db.engine)
        self.engine = Engine(self.door, seed)
        self.engine.time = time

    async def start(self) -> None:
        """Does what a server does at its start."""
        await asyncio.gather(
            pulse.beat(self.door, self.engine.time),
            self.engine.campaigns.refresh(),
            self.engine.trust.refresh(),
            self.engine.leasing.look_at_shelves(),
        )
