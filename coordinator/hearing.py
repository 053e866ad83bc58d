"""Answers as the cross-check hears them: read against their tasks, and remembered for the next voice."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from captions.agreement import Features
from captions.answer import decode_answer
from captions.background import Background
from captions.perspective import Refused
from coordinator.campaigns import Campaigns
from coordinator.facts import UnitFacts
from coordinator.lifecycle import UnitState
from coordinator.settlement import Key
from store import results
from store.database import Transaction
from store.results import VoiceRow
from store.units import LockedUnit

REMEMBERED = 8192  # answers whose units want another voice, some kB each


class Reading(NamedTuple):
    """An answer as read before the transaction, with what judging it needs.

    Without `features` it is invalid, for the reason in `fault`. `stored` is what is kept of it beside its
    body: its content, where the body does not say just that.
    """

    hash: bytes
    content_id: int
    background: Background
    features: Features | None
    stored: dict[str, Any] | None
    fault: str


Readings = Mapping[tuple[Key, bytes], Reading]
"""By unit and the hash of the result."""


class Hearing:
    """The features of answers by the hash of their result; bounded."""

    def __init__(self, campaigns: Campaigns, facts: UnitFacts) -> None:
        self.campaigns = campaigns
        self.facts = facts
        self._heard: dict[bytes, Features] = {}

    async def read(self, answers: Sequence[tuple[Key, bytes, bytes]]) -> Readings:
        """Reads answers (unit, hash, body) against their tasks, before any lock is held."""
        facts = await self.facts.of([key for key, _, _ in answers])
        readings: dict[tuple[Key, bytes], Reading] = {}
        for key, digest, body in answers:
            campaign = await self.campaigns.find(key[0]) if key in facts else None
            if campaign is None:
                continue
            perspective_id, content_id = facts[key]
            perspective = campaign.tasks[perspective_id].task.perspective
            background = await self.campaigns.background(campaign.id, perspective_id)
            words, stored, fault = None, None, ""
            try:
                content, is_normal = decode_answer(body, perspective)
                words = campaign.policy.features(content, perspective)
                stored = None if is_normal else content
            except Refused as refused:
                fault = f"{refused.code}: {refused.detail}"
            readings[key, digest] = Reading(digest, content_id, background, words, stored, fault)
        return readings

    async def recall(
        self, tx: Transaction, units: Mapping[Key, LockedUnit], voices: Mapping[Key, Sequence[VoiceRow]]
    ) -> dict[bytes, Features]:
        """The features of every stored voice that may be compared, by hash; those not heard here are read."""
        heard: dict[bytes, Features] = {}
        unheard: dict[bytes, VoiceRow] = {}
        for key, unit in units.items():
            for voice in voices[key]:
                if unit.state == UnitState.OPEN or voice.user_id == unit.canonical_user_id:
                    known = self._heard.get(voice.hash)
                    if known is None:
                        unheard[voice.hash] = voice
                    else:
                        heard[voice.hash] = known
        if not unheard:
            return heard
        for digest, answer in (await results.answers(tx, list(unheard.values()))).items():
            unit = units[unheard[digest].campaign_id, unheard[digest].unit_id]
            campaign = self.campaigns.need(unit.campaign_id)
            perspective = campaign.tasks[unit.perspective_id].task.perspective
            heard[digest] = campaign.policy.features(answer, perspective)
        return heard

    def keep(self, readings: Iterable[Reading]) -> None:
        """Feeds stored answers to their backgrounds, and remembers them for when the next voice comes."""
        for reading in readings:
            if reading.features is not None:
                reading.background.add(reading.content_id, reading.features.tokens)
                self._heard[reading.hash] = reading.features
        while len(self._heard) > REMEMBERED:
            del self._heard[next(iter(self._heard))]

    def forget(self, digests: Iterable[bytes]) -> None:
        """Lets answers go whose units want no other voice."""
        for digest in digests:
            self._heard.pop(digest, None)
