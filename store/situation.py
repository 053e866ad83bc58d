"""All that the database knows of units that are about to be settled, in one round trip."""

from collections.abc import Sequence
from dataclasses import dataclass

from store import leases, results, units
from store.arrays import key_columns
from store.database import Transaction, rows_of
from store.leases import Lease, PastLease
from store.results import VoiceRow
from store.units import LockedUnit


@dataclass(frozen=True, slots=True)
class SituationRows:
    """Rows about some units, read after their lock was had."""

    units: list[LockedUnit]
    live: list[Lease]
    past: list[PastLease]
    voices: list[VoiceRow]


async def lock_and_read(tx: Transaction, keys: Sequence[tuple[int, int]]) -> SituationRows:
    """Locks the units in id order, then reads what hangs on them; `tx` must be pipelined.

    The statements travel together, yet each sees all that was committed before the lock was had.
    """
    columns = key_columns(keys)
    locked = tx.raw.cursor(row_factory=rows_of(LockedUnit))
    live = tx.raw.cursor(row_factory=rows_of(Lease))
    past = tx.raw.cursor(row_factory=rows_of(PastLease))
    voices = tx.raw.cursor(row_factory=rows_of(VoiceRow))
    await locked.execute(units.LOCK, columns)
    await live.execute(leases.OF_UNITS, columns)
    await past.execute(leases.PAST, columns)
    await voices.execute(results.OF_UNITS, columns)
    return SituationRows(
        await locked.fetchall(), await live.fetchall(), await past.fetchall(), await voices.fetchall()
    )
