"""No host is punished for our outage: coordinators beat, and a silence extends every lease by its length."""

from datetime import datetime, timedelta

import structlog

from store import leases, pulse, units
from store.database import Database, Transaction

PATIENCE = timedelta(seconds=30)
"""A silence that is longer was an outage."""
STEP = 1000

log = structlog.get_logger("pulse")


async def beat(db: Database, now: datetime) -> None:
    """Says that a coordinator works; where none did for long, the leases of that time will be extended."""
    silence = await db.transaction("beat", lambda tx: pulse.beat(tx, now, PATIENCE))
    if silence is not None:
        log.warning("outage_ended", seconds=round(silence.total_seconds()))


async def extend(db: Database) -> int:
    """One step of extending leases by the length of an outage, each once; gives how many units it saw."""

    async def body(tx: Transaction) -> int:
        outage = await pulse.open_outage(tx)
        if outage is None:
            return 0
        keys = await leases.after(tx, outage.place, STEP)
        await units.lock(tx, keys)
        await leases.extend(tx, keys, outage.ended_at - outage.began_at, outage.ended_at)
        await pulse.proceed(tx, outage, keys[-1] if keys else None)
        return len(keys) or 1

    return await db.transaction("extend", body)
