"""How far a host is believed, from how its cross-checked answers fared. Pure.

An unknown host weighs 1. The weight multiplies the odds that its answer is right: it is how much better (or
worse) those odds are than an unknown host's. docs/credit.md explains it to volunteers.
"""

import math
from dataclasses import dataclass

DAY_S = 86_400.0
MONTH_S = 30 * DAY_S
"""Half-life of what is believed of a host, in seconds."""
HOUR_S = 3_600.0
"""Half-life of what tells that a host has turned, in seconds."""

# An unknown host counts as one of whose 25 answers 20 were right: many agreements are needed to move that.
_RIGHT, _WRONG = 20.0, 5.0
_ALARM = 8.0  # agreements that one disagreement of the last hour outweighs
_LEAST, _MOST = 0.05, 10.0

SOLE = 4.75
"""The least weight that may settle a unit alone: with it an answer is right with probability 0.95."""
LOUDEST = 2.0
"""The most that a voice weighs among others: a spot check of a trusted host must be able to tell its lies."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """How often a host's answers agreed with others', each faded by its age, with half-lives in the names."""

    month_agreed: float
    month_disagreed: float
    hour_agreed: float
    hour_disagreed: float

    def after(self, seconds: float) -> "Evidence":
        """The same, so much later."""
        month, hour = _faded(seconds, MONTH_S), _faded(seconds, HOUR_S)
        return Evidence(
            self.month_agreed * month,
            self.month_disagreed * month,
            self.hour_agreed * hour,
            self.hour_disagreed * hour,
        )


def _faded(seconds: float, half_life_s: float) -> float:
    return math.pow(0.5, max(0.0, seconds) / half_life_s)


def weight(evidence: Evidence) -> float:
    """What the host's voice weighs, between 0.05 and 10; 1 without evidence.

    75 agreements and no disagreement reach SOLE. A host that turns loses it when the disagreements of its
    last hour or so pass about three and one in seven of its agreements in that time.
    """
    odds = (_RIGHT + max(0.0, evidence.month_agreed)) / (_WRONG + max(0.0, evidence.month_disagreed))
    calm = _RIGHT + max(0.0, evidence.hour_agreed)
    turned = calm / (calm + _ALARM * max(0.0, evidence.hour_disagreed))
    return max(_LEAST, min(_MOST, odds * _WRONG / _RIGHT) * turned)
