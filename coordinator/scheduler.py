"""Which shelf a host draws from, decided in memory from a picture of the shelves."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Collection, Sequence

from coordinator.priority import priority_of
from protos.tier import Tier
from store.shelves import SHUFFLE_RANGE, Shelf


class Scheduler:
    """The waiting shelves as last read, and how much each campaign was served."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._shelves: list[Shelf] = []
        self._served: defaultdict[int, int] = defaultdict(int)
        self._floor = 0
        self._refreshed = asyncio.Event()

    def show(self, shelves: Sequence[Shelf]) -> None:
        """Takes a new picture of the shelves and wakes those who wait for one."""
        before = {shelf.campaign_id for shelf in self._shelves}
        self._floor = min((self._served[campaign_id] for campaign_id in before), default=self._floor)
        for campaign_id in {shelf.campaign_id for shelf in shelves} - before:
            # A campaign that had nothing for long must not take everything when it has something again.
            self._served[campaign_id] = max(self._served[campaign_id], self._floor)
        self._shelves = list(shelves)
        self._refreshed.set()
        self._refreshed = asyncio.Event()

    async def refreshed(self, timeout_s: float) -> None:
        """Waits for the next picture, `timeout_s` seconds at most."""
        try:
            await asyncio.wait_for(self._refreshed.wait(), timeout_s)
        except TimeoutError:
            return

    def order(self, tier: Tier, able: Collection[tuple[int, int]]) -> list[Shelf]:
        """Shelves that a host of `tier` can serve, best first; `able` holds (campaign, perspective) ids.

        The highest priority comes first; then the campaign that was served least; then the largest tier, so
        that small work is left to small hosts; then the highest lane, so that units which were begun end.
        """
        fit = [s for s in self._shelves if s.tier <= tier and (s.campaign_id, s.perspective_id) in able]
        self._rng.shuffle(fit)
        return sorted(
            fit, key=lambda s: (-priority_of(s.block), self._served[s.campaign_id], -s.tier, -s.lane)
        )

    def start(self, shelf: Shelf) -> tuple[int, int]:
        """A random place in the leading block of a shelf, so that claims do not queue at its front."""
        return shelf.block, self._rng.randrange(SHUFFLE_RANGE)

    def served(self, campaign_id: int, count: int) -> None:
        """Notes that a campaign had `count` replicas leased."""
        self._served[campaign_id] += count
