"""What never changes about units, remembered from when they were leased."""

from collections.abc import Iterable, Iterator, Sequence

from coordinator.settlement import Key
from store import units
from store.database import Database
from store.shelves import LeasedUnit

REMEMBERED = 50_000

Fact = tuple[int, int]
"""(perspective id, content id)"""


class UnitFacts:
    """The facts of units: those leased here are known, others are read; bounded."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._known: dict[Key, Fact] = {}

    def note(self, leased: Iterable[LeasedUnit]) -> None:
        """Remembers units that were just leased."""
        for unit in leased:
            self._known[unit.campaign_id, unit.id] = (unit.perspective_id, unit.content_id)
        while len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]

    def known(self, keys: Iterable[Key]) -> Iterator[tuple[int, int]]:
        """(campaign id, perspective id) of those units that are remembered."""
        for key in keys:
            fact = self._known.get(key)
            if fact is not None:
                yield key[0], fact[0]

    async def of(self, keys: Sequence[Key]) -> dict[Key, Fact]:
        """The facts of those units that exist."""
        missing = sorted({key for key in keys if key not in self._known})
        if missing:
            found = await self._db.transaction("facts", lambda tx: units.facts(tx, missing))
            return {key: fact for key in keys if (fact := self._known.get(key) or found.get(key))}
        return {key: self._known[key] for key in keys}
