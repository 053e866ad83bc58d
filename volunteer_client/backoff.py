"""How long to wait after trouble: exponential, with full jitter."""

from dataclasses import dataclass, field
from random import Random


@dataclass(slots=True)
class Backoff:
    """Grows from `first_s` to `most_s` with each failure in a row; every wait is a random share of that."""

    random: Random
    first_s: float = 1.0
    most_s: float = 60.0
    failures: int = field(default=0, init=False)

    def failed(self) -> float:
        """Counts a failure; gives the seconds to wait, at least a tenth of the present ceiling."""
        ceiling = min(self.most_s, self.first_s * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return ceiling * self.random.uniform(0.1, 1.0)

    def succeeded(self) -> None:
        """Starts anew."""
        self.failures = 0
