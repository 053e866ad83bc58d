"""What keeps the database fit while it grows: spent rows go, in short steps; statistics stay fresh."""

import functools
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from store import leases, vitals
from store.database import Database

STEP = 1000  # past leases that one transaction looks at
CHANGED_ROWS, CHANGED_SHARE = 10_000, 0.1  # of a table, since it was last analysed


def pruning(db: Database, clock: Callable[[], datetime], keep: timedelta) -> Callable[[], Awaitable[int]]:
    """A step that forgets how some leases ended whose units were settled `keep` ago; it gives how many.

    The steps walk through past leases, oldest first, and begin anew when they have come to young ones.
    """
    after = 0

    async def prune() -> int:
        nonlocal after
        while True:
            step = functools.partial(leases.prune_past, after=after, limit=STEP, before=clock() - keep)
            after, pruned = await db.transaction("prune", step)
            if pruned or not after:
                return pruned

    return prune


async def refresh_statistics(db: Database) -> int:
    """Analyses hot tables that changed much, each in a transaction of its own; it moves no row.

    PostgreSQL does it by itself, but late: it looks once a minute, and other tables may come first.
    """
    for table in await db.transaction("table statistics", vitals.tables):
        if table.changed_since_analyze > CHANGED_ROWS + CHANGED_SHARE * table.rows:
            await db.transaction("analyze", functools.partial(vitals.analyze, name=table.name))
    return 0
