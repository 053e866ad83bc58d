"""The cast: clients by their nature, what they hold in memory and what they say of a picture."""

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import assert_never

from support.engine import caption

from coordinator.identity import Caller
from coordinator.returns import Returned
from coordinator.settlement import Key


class Nature(Enum):
    """How a client behaves. All but liars, colluders, copiers and twins tell what the picture shows."""

    HONEST = auto()
    SLOW = auto()
    """answers only when its deadline has passed, and its leases were ended for that"""
    DYING = auto()
    """loses what it holds, every other time that it is to answer"""
    LYING = auto()
    """tells of another picture, each liar of its own"""
    COLLUDING = auto()
    """tells of another picture, all colluders of the same"""
    COPYING = auto()
    """tells what another was heard to say of the same picture"""
    TWIN = auto()
    """a copy of a client, with its key and what it holds, that tells something else"""


NATURES = (
    Nature.HONEST,
    Nature.HONEST,
    Nature.SLOW,
    Nature.LYING,
    Nature.COLLUDING,
    Nature.COLLUDING,
    Nature.TWIN,
    Nature.DYING,
    Nature.COPYING,
)
USERS = (0, 0, 1, 2, 3, 4, 1, 5, 6)
"""Whose each client is: the first two are hosts of one user."""
TWIN_OF = 2


@dataclass(slots=True)
class Client:
    """A machine at work. `held` maps units to the picture's number; `sent` keeps what it once returned.

    `sequence` is that of its last session that was opened, `asked` the one that it asks for meanwhile.
    """

    number: int
    caller: Caller
    nature: Nature
    held: dict[Key, int] = field(default_factory=dict)
    sent: list[list[Returned]] = field(default_factory=list)
    sequence: int = 0
    asked: tuple[int, bytes] | None = None

    def pick(self, amount: int) -> list[Key]:
        """Up to `amount` of the units that it holds."""
        return list(self.held)[:amount]

    def drop(self, keys: Collection[Key]) -> None:
        """Forgets units, those too that another deed made it forget meanwhile."""
        for key in keys:
            self.held.pop(key, None)

    def says(self, picture: int, heard: dict[int, str]) -> str:
        """Its caption; `heard` is what was last said of each picture by anybody."""
        match self.nature:
            case Nature.HONEST | Nature.SLOW | Nature.DYING:
                return truth(picture)
            case Nature.LYING | Nature.TWIN:
                return caption(1000 + 61 * picture + 7 * self.number)
            case Nature.COLLUDING:
                return caption(2000 + 61 * picture)
            case Nature.COPYING:
                return heard.get(picture, "A photo of something nice")
            case _:
                assert_never(self.nature)


def truth(picture: int) -> str:
    """What a picture shows."""
    return caption(100 + 37 * picture)
