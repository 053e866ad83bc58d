"""Plans: random lists of steps as plain data, the same for the same seed; any part of a plan is a plan."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum, auto


class Deed(StrEnum):
    """What a client, an operator or time does in one operation."""

    LEASE = auto()
    ANSWER = auto()
    RESEND = auto()
    RENEW = auto()
    RELEASE = auto()
    FORGET = auto()
    RETAKE = auto()
    SESSION = auto()
    FAIL = auto()
    SPOIL = auto()
    FORGE = auto()
    WAIT = auto()
    OUTAGE = auto()
    UPKEEP = auto()
    SUBMIT = auto()
    PAUSE = auto()
    RESUME = auto()
    CANCEL = auto()
    REOPEN = auto()
    PRIORITISE = auto()


class Moment(Enum):
    """When a server dies: before its transaction begins, before it commits, or just after."""

    UNBEGUN = auto()
    UNCOMMITTED = auto()
    COMMITTED = auto()


@dataclass(frozen=True, slots=True)
class Operation:
    """One deed of client `who` at server `server`; `amount` says how much, or which, as the deed reads it."""

    deed: Deed
    who: int = 0
    amount: int = 1
    server: int = 0

    def __str__(self) -> str:
        return f"{self.deed}({self.amount}) by {self.who} at {self.server}"


@dataclass(frozen=True, slots=True)
class Crash:
    """Server `server` dies at the so many-th transaction that it begins in a step (1: the first)."""

    server: int
    transaction: int
    moment: Moment

    def __str__(self) -> str:
        return f"{self.server} dies, its transaction {self.transaction} {self.moment.name.lower()}"


@dataclass(frozen=True, slots=True)
class Step:
    """Operations done at once, and the crash among them."""

    operations: tuple[Operation, ...]
    crash: Crash | None = None

    def __str__(self) -> str:
        return " | ".join(map(str, self.operations if self.crash is None else (*self.operations, self.crash)))


@dataclass(frozen=True, slots=True)
class Plan:
    """A campaign of `images` under `policy`, and what befalls it; `honest` where nobody lies or fails.

    `trusted` clients have earned it, before, that they may settle units alone.
    """

    honest: bool
    images: int
    policy: Mapping[str, float] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    trusted: tuple[int, ...] = ()

    def without(self, first: int, count: int) -> "Plan":
        """The same but for `count` steps."""
        return replace(self, steps=self.steps[:first] + self.steps[first + count :])


CLIENTS = 9
COPIES = (2, 6)  # a client and its copy: nobody else's sessions are ever refused
SERVERS = 2
HONEST_DEEDS = {
    Deed.LEASE: 9,
    Deed.ANSWER: 8,
    Deed.RESEND: 2,
    Deed.RENEW: 1,
    Deed.RELEASE: 1,
    Deed.FORGET: 1,
    Deed.RETAKE: 1,
    Deed.SESSION: 2,
    Deed.WAIT: 2,
    Deed.OUTAGE: 0.4,
    Deed.UPKEEP: 3,
    Deed.SUBMIT: 1,
    Deed.PAUSE: 0.2,
    Deed.RESUME: 0.4,
    Deed.CANCEL: 0.2,
    Deed.REOPEN: 0.7,
    Deed.PRIORITISE: 0.4,
}
ALL_DEEDS = {**HONEST_DEEDS, Deed.FAIL: 1, Deed.SPOIL: 1, Deed.FORGE: 1}
QUORUMS = ((2, 3), (2, 2), (3, 4), (2, 5))  # replication and the most voices


def random_plan(seed: int) -> Plan:
    """The plan of this seed: 20 to 35 steps, one in six of two to four operations, one in eight deadly."""
    rng = random.Random(seed)
    honest = rng.random() < 0.3
    replication, max_voices = rng.choice(QUORUMS)
    policy = {
        "replication": replication,
        "max_voices": max_voices,
        "max_failures": rng.choice((0, 1, 3)),
        "max_attempts": 1000 if honest else rng.choice((2, 6, 20)),
        "lease_s": 60,
    }
    deeds = HONEST_DEEDS if honest else ALL_DEEDS
    busy: list[int] = []
    steps = tuple(_step(rng, deeds, busy) for _ in range(rng.randint(20, 35)))
    images = rng.randint(1, 4)
    trusted = tuple(rng.sample(range(CLIENTS), rng.choice((0, 1, 3))))
    return Plan(honest, images, {**policy, "spot_check": rng.choice((0.1, 0.5))}, steps, trusted)


def _step(rng: random.Random, deeds: Mapping[Deed, float], busy: list[int]) -> Step:
    at_once = rng.randint(2, 4) if rng.random() < 0.17 else 1
    operations = tuple(_operation(rng, deeds, busy) for _ in range(at_once))
    if rng.random() < 0.5:
        operations = tuple(replace(operation, server=operations[0].server) for operation in operations)
    if rng.random() > 0.125:
        return Step(operations)
    victim = rng.choice(operations).server
    return Step(operations, Crash(victim, rng.randint(1, 4), rng.choice(list(Moment))))


def _operation(rng: random.Random, deeds: Mapping[Deed, float], busy: list[int]) -> Operation:
    """Mostly of a client that asked for work before; `busy` collects those."""
    deed = rng.choices(list(deeds), list(deeds.values()))[0]
    who = rng.randrange(CLIENTS)
    if deed is Deed.SESSION:
        who = rng.choice(COPIES)
    elif deed is Deed.LEASE:
        busy.append(who)
    elif busy and rng.random() < 0.8:
        who = rng.choice(busy)
    return Operation(deed, who, amount=rng.randint(1, 4), server=rng.randrange(SERVERS))
