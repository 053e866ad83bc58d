"""Why a host is given nothing, and when it may ask again."""

import random
from enum import Enum

JITTER = (0.75, 1.25)


class Idle(Enum):
    """A reason as clients are told it, and the seconds after which asking again may help.

    They are few where work may come by itself, more where somebody has to change something.
    """

    NO_WORK = ("no_work", 2.0)
    HOLDS_ENOUGH = ("holds_enough", 2.0)
    NOTHING_NEW_FOR_YOU = ("nothing_new_for_you", 3.0)
    PAUSED_BY_OPERATOR = ("paused_by_operator", 5.0)
    NO_WORK_FOR_PERSPECTIVES = ("no_work_for_perspectives", 10.0)
    NO_WORK_FOR_MODEL = ("no_work_for_model", 10.0)
    NO_WORK_FOR_TIER = ("no_work_for_tier", 10.0)

    def __init__(self, code: str, retry_s: float) -> None:
        self.code = code
        self.retry_s = retry_s

    def retry_ms(self, rng: random.Random) -> int:
        """When to ask again, with jitter, so that hosts that were told at once do not come at once."""
        return round(1000 * self.retry_s * rng.uniform(*JITTER))
