"""The verdict on a unit: whether its answers settle it, which one stands, and how each voice did."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from captions.agreement import Features, agreement_odds
from captions.background import Background

_USUAL_CHANCE = 0.005  # of the shared words of two answers to one image; measured


@dataclass(frozen=True, slots=True)
class Voice:
    """One host's answer. `weight`, finite and not negative, multiplies its odds to be right; unknown: 1."""

    voter: int
    features: Features
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Quorum:
    """When a unit is settled.

    The defaults were measured on captions by real models: 0.7 to 1.6 % of the accepted answers are an
    attacker's where 20 % of the hosts answer for other images or with one sentence for all.
    """

    min_voices: int = 2
    max_voices: int = 3
    confidence: float = 0.95  # that the canonical answer is right
    prior: float = 0.8  # that an unknown host's answer is right
    max_chance: float = 0.05  # that another image's answer would say the same
    sole_weight: float | None = None  # the weight from which one voice is enough

    def __post_init__(self) -> None:
        """Raises ValueError where no unit could ever be settled so."""
        if not 1 <= self.min_voices <= self.max_voices <= 9:
            raise ValueError("a quorum needs 1 <= min_voices <= max_voices <= 9")
        if not (0 < self.confidence < 1 and 0 < self.prior < 1 and 0 < self.max_chance < 1):
            raise ValueError("confidence, prior and max_chance lie between 0 and 1")


@dataclass(frozen=True, slots=True)
class Judgement:
    """How one voice did. `support` is the probability that its answer is right."""

    voter: int
    agrees: bool
    support: float


@dataclass(frozen=True, slots=True)
class Accept:
    """Settled: the answer of voter `canonical` stands, right with probability `confidence`."""

    canonical: int
    confidence: float
    judgements: tuple[Judgement, ...]
    explanation: dict[str, float]


@dataclass(frozen=True, slots=True)
class NeedMore:
    """Not settled: so many more answers are wanted."""

    count: int
    explanation: dict[str, float]


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Not settled, and no more answers are to be asked for: a person has to look."""

    reason: str
    explanation: dict[str, float]


Verdict = Accept | NeedMore | Exhausted


def judge(voices: Sequence[Voice], subject: int, background: Background, quorum: Quorum) -> Verdict:
    """Weighs the voices on one unit; the same voices in another order give the same verdict.

    Two answers bear each other out where they agree and an answer for another image would not say the
    same. Every split of the voices into right and wrong is then weighed by its probability.
    """
    voices = sorted(voices, key=lambda voice: voice.voter)
    sole = _sole(voices, quorum)
    if sole is not None:
        return sole
    if len(voices) < quorum.min_voices:
        return NeedMore(quorum.min_voices - len(voices), {"voices": len(voices)})
    odds, explanation = _evidence(voices, subject, background, quorum)
    supports = _supports([_prior_odds(voice, quorum) for voice in voices], odds)
    best = max(range(len(voices)), key=lambda i: (supports[i], voices[i].weight, -voices[i].voter))
    explanation["confidence"] = supports[best]
    if supports[best] >= quorum.confidence:
        judgements = tuple(map(_judgement, voices, supports))
        return Accept(voices[best].voter, supports[best], judgements, explanation)
    if len(voices) < quorum.max_voices:
        return NeedMore(1, explanation)
    generic = explanation["best_pair_odds"] <= 1 and explanation["chance"] > quorum.max_chance
    return Exhausted("not_specific" if generic else "no_agreement", explanation)


def judge_straggler(
    voice: Voice, canonical: Features, subject: int, background: Background, quorum: Quorum
) -> Judgement:
    """How a voice did that came after its unit was settled, against the answer that stands."""
    odds, _ = _borne_out(voice.features, canonical, subject, background, quorum)
    right = _prior_odds(voice, quorum) * odds
    return _judgement(voice, right / (1 + right))


def _judgement(voice: Voice, support: float) -> Judgement:
    return Judgement(voice.voter, support >= 0.5, support)


def _prior_odds(voice: Voice, quorum: Quorum) -> float:
    return voice.weight * quorum.prior / (1 - quorum.prior)


def _sole(voices: Sequence[Voice], quorum: Quorum) -> Accept | None:
    if len(voices) != 1 or quorum.sole_weight is None or voices[0].weight < quorum.sole_weight:
        return None
    odds = _prior_odds(voices[0], quorum)
    confidence = odds / (1 + odds)
    judgement = Judgement(voices[0].voter, agrees=True, support=confidence)
    return Accept(voices[0].voter, confidence, (judgement,), {"voices": 1, "weight": voices[0].weight})


def _evidence(
    voices: Sequence[Voice], subject: int, background: Background, quorum: Quorum
) -> tuple[dict[tuple[int, int], float], dict[str, float]]:
    """The odds for each pair of places, and the figures for whoever asks why."""
    odds: dict[tuple[int, int], float] = {}
    chances: dict[tuple[int, int], float] = {}
    for pair in itertools.combinations(range(len(voices)), 2):
        a, b = (voices[place].features for place in pair)
        odds[pair], chances[pair] = _borne_out(a, b, subject, background, quorum)
    best = max(odds, key=lambda pair: odds[pair], default=None)
    return odds, {
        "voices": len(voices),
        "best_pair_odds": odds[best] if best else 1.0,
        "chance": max(chances.values(), default=0.0),
    }


def _borne_out(
    a: Features, b: Features, subject: int, background: Background, quorum: Quorum
) -> tuple[float, float]:
    """The odds by which two answers bear each other out, and the chance of what they share elsewhere."""
    odds = agreement_odds(a, b, background)
    # What others say too proves less; what many say proves nothing, however many voices repeat it.
    if odds <= 1:
        return odds, 0.0
    chance = background.chance(a.tokens & b.tokens, subject)
    if not (a.is_open or b.is_open):
        return min(odds, 1 / chance), chance
    if chance > quorum.max_chance:
        return 1.0, chance
    return 1 + (odds - 1) * min(1.0, math.sqrt(_USUAL_CHANCE / chance)), chance


def _supports(priors: Sequence[float], odds: dict[tuple[int, int], float]) -> list[float]:
    """For each voice the probability that it is right, over all splits into right and wrong voices."""
    weights = [1.0]  # of each split; bit i of its number says whether voice i is right
    for place, prior in enumerate(priors):
        for split in range(len(weights)):
            weight = weights[split] * prior
            for other in range(place):
                if split >> other & 1:
                    weight *= odds[other, place]
            weights.append(weight)
    total = sum(weights)
    return [
        sum(weight for split, weight in enumerate(weights) if split >> place & 1) / total
        for place in range(len(priors))
    ]
