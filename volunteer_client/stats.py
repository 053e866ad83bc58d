"""What a client counts while it runs, and how fast its model answers."""

from collections import Counter
from dataclasses import dataclass, field

_WEIGHT = 0.2  # of the newest answer in the running mean: the last ten or so decide


@dataclass(slots=True)
class Stats:
    """Counts since the start; `seconds_per_answer` is a running mean for one request, None before any."""

    leased: int = 0
    answered: int = 0
    failed: int = 0
    released: int = 0
    acknowledged: Counter[str] = field(default_factory=Counter)
    seconds_per_answer: float | None = None

    def note_answer(self, elapsed_s: float) -> None:
        """Counts an answer that took the endpoint so long."""
        self.answered += 1
        mean = self.seconds_per_answer
        self.seconds_per_answer = elapsed_s if mean is None else mean + _WEIGHT * (elapsed_s - mean)

    def rate(self, concurrency: int) -> float | None:
        """Answers a second with so many requests in flight; None before the first."""
        mean = self.seconds_per_answer
        return None if mean is None else concurrency / max(mean, 1e-3)
