"""What every host's word weighs: a picture in memory, kept fresh from the folded evidence."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from coordinator.evidence import Evidence, weight
from coordinator.policy import Policy
from store import ledger
from store.database import Database
from store.ledger import EvidenceRow

OVERLAP = timedelta(seconds=10)  # folds that began earlier may commit later
_NEUTRAL = (0.8, 1.25)  # weights that change nothing need no room


class Trust:
    """Weights by host, campaign, perspective and model. Until `refresh` every host is unknown."""

    def __init__(self, db: Database, rng: random.Random, clock: Callable[[], datetime]) -> None:
        self._db = db
        self._rng = rng
        self._clock = clock
        self._weights: dict[tuple[int, int, int, str], float] = {}
        self._latest: dict[tuple[int, int, int], EvidenceRow] = {}
        self._since = datetime.min.replace(tzinfo=UTC)

    async def refresh(self) -> None:
        """Reads the evidence that was folded since the last time."""
        since = self._since
        for row in await self._db.transaction("evidence", lambda tx: ledger.evidence_since(tx, since)):
            self._since = max(self._since, row.folded_at - OVERLAP)
            self._take(row)

    def _take(self, row: EvidenceRow) -> None:
        key = (row.host_id, row.campaign_id, row.perspective_id)
        weighs = weight(_evidence(row))
        if _NEUTRAL[0] < weighs < _NEUTRAL[1]:
            self._weights.pop((*key, row.model), None)
        else:
            self._weights[*key, row.model] = weighs
        latest = self._latest.get(key)
        if latest is None or latest.as_of <= row.as_of:
            self._latest[key] = row

    def weight(self, host_id: int, campaign_id: int, perspective_id: int, model: str) -> float:
        """What the host's voice weighs, as of its latest judgement; 1 where nothing is known."""
        return self._weights.get((host_id, campaign_id, perspective_id, model), 1.0)

    def alone(self, host_id: int, campaign_id: int, perspective_id: int, sole_weight: float) -> bool:
        """Whether the host, with the model of its latest results, may now settle a unit alone."""
        row = self._latest.get((host_id, campaign_id, perspective_id))
        if row is None:
            return False
        return weight(_evidence(row).after((self._clock() - row.as_of).total_seconds())) >= sole_weight

    def works_alone(
        self, host_id: int, campaign_id: int, perspective_id: int, policy: Policy
    ) -> Callable[[], bool]:
        """Says of each unit that the host is the first to draw whether it goes to no other host.

        Some are checked, by chance.
        """
        trusted = self.alone(host_id, campaign_id, perspective_id, policy.sole_weight)
        return lambda: trusted and self._rng.random() >= policy.spot_check


def _evidence(row: EvidenceRow) -> Evidence:
    return Evidence(row.month_agreed, row.month_disagreed, row.hour_agreed, row.hour_disagreed)
