"""What answers of one perspective say anyway: how common each word is, and a sample of them."""

import math
from collections import Counter
from collections.abc import Set as AbstractSet
from random import Random
from typing import TypeVar

_Key = TypeVar("_Key")
SAMPLE = 128
VOCABULARY = 20_000
HORIZON = 4_096  # answers after which older ones fade, and of which the sample is drawn
_REFRESH = 64
# Before anything was seen, a word is taken to be as common as this.
_PRIOR_ANSWERS, _PRIOR_SEEN = 50.0, 5.0


class Background:
    """One perspective's background. Bounded: 128 sampled answers and 20,000 words; usable while empty.

    Deterministic for the same `random` and the same calls in the same order.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._answers = 0
        self._documents: Counter[str] = Counter()
        self._sample: list[tuple[int, frozenset[str]]] = []
        self._places: dict[str, int] = {}  # a bit for each place of the sample
        self._subject_places: dict[int, int] = {}
        self.weights = _Weights(self._documents)

    def __len__(self) -> int:
        """Answers sampled, at most 128."""
        return len(self._sample)

    def vocabulary(self) -> int:
        """Words counted, at most about 20,000."""
        return len(self._documents)

    def add(self, subject: int, tokens: frozenset[str]) -> None:
        """Takes in one answer to the subject (an image's number), good or bad, as its features' tokens."""
        self._documents.update(tokens)
        self._answers += 1
        if self._answers % _REFRESH == 0:
            self._refresh()
        if len(self._sample) < SAMPLE:
            self._sample.append((subject, tokens))
            self._place(len(self._sample) - 1)
            return
        place = int(self._random.random() * min(self._answers, HORIZON))
        if place < SAMPLE:
            self._displace(place)
            self._sample[place] = (subject, tokens)
            self._place(place)

    def _refresh(self) -> None:
        if self._answers >= 2 * HORIZON or len(self._documents) > VOCABULARY:
            self._answers //= 2
            halved = {token: seen // 2 for token, seen in self._documents.items() if seen > 1}
            self._documents.clear()
            self._documents.update(halved)
        self.weights.renew(self._answers)

    def _place(self, place: int) -> None:
        subject, tokens = self._sample[place]
        self._subject_places[subject] = self._subject_places.get(subject, 0) | 1 << place
        for token in tokens:
            self._places[token] = self._places.get(token, 0) | 1 << place

    def _displace(self, place: int) -> None:
        subject, tokens = self._sample[place]
        _remove(self._subject_places, subject, place)
        for token in tokens:
            _remove(self._places, token, place)

    def chance(self, shared: AbstractSet[str], subject: int) -> float:
        """How often an answer for another image would have said what two answers share, in (0, 1].

        Counts the sampled answers to other subjects that hold at least four fifths of the weight of
        `shared`; starts near 1/50 while the sample is empty.
        """
        weight = self.weights.__getitem__
        whole = sum(map(weight, shared))
        own = self._subject_places.get(subject, 0)
        left = (1 << len(self._sample)) - 1 & ~own
        others = left.bit_count()
        # Whoever holds four fifths of the weight holds a word of every group that weighs more than a fifth.
        group, holders = 0.0, 0
        for token in sorted(shared, key=weight, reverse=True):
            group += weight(token)
            holders |= self._places.get(token, 0)
            if group > 0.2 * whole:
                left &= holders
                if not left:
                    break
                group, holders = 0.0, 0
        found = 0
        while left:
            place = left.bit_length() - 1
            left ^= 1 << place
            found += sum(map(weight, shared & self._sample[place][1])) >= 0.8 * whole
        return (found + 0.2) / (others + 10) if shared else 1.0


def _remove(places: dict[_Key, int], key: _Key, place: int) -> None:
    places[key] &= ~(1 << place)
    if not places[key]:
        del places[key]


class _Weights(dict[str, float]):
    """Squared weight of each token: rare words weigh much, words that all answers hold next to nothing."""

    def __init__(self, documents: Counter[str]) -> None:
        super().__init__()
        self._documents = documents
        self._answers = 0

    def renew(self, answers: int) -> None:
        self._answers = answers
        self.clear()

    def __missing__(self, token: str) -> float:
        seen = min(self._documents.get(token, 0), self._answers)
        weight = math.log((self._answers + _PRIOR_ANSWERS) / (seen + _PRIOR_SEEN))
        self[token] = weight * weight
        return weight * weight
