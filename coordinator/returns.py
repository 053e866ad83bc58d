"""The return command: answers and failures of one host, stored, judged and acknowledged."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, assert_never

from captions.agreement import Features, features
from captions.answer import decode_answer, encode_answer
from captions.background import Background
from captions.perspective import Perspective, Refused
from coordinator import validation
from coordinator.campaigns import Campaigns
from coordinator.identity import Caller
from coordinator.lifecycle import Claim, LeaseEnding, Receipt, UnitState, receive
from coordinator.settlement import EndedLease, Key, by_unit, give_back, replica, settle, widen
from coordinator.validation import MoreWanted, Settled
from store import leases, ledger, results, shelves, units
from store.database import Database, Transaction
from store.leases import Lease, PastLease
from store.ledger import Entry
from store.results import NewResult, VoiceRow
from store.shelves import Replica
from store.units import LockedUnit


@dataclass(frozen=True, slots=True)
class ReturnedAnswer:
    """An answer as it came; `hash` is `protos.signing.result` of it."""

    key: Key
    hash: bytes
    body: bytes
    model: str
    endpoint: str
    seed: int
    elapsed_ms: int


@dataclass(frozen=True, slots=True)
class ReturnedFailure:
    """A host's word that it cannot answer, and why."""

    key: Key
    reason: str


Returned = ReturnedAnswer | ReturnedFailure


@dataclass(frozen=True, slots=True)
class SignedBatch:
    """What makes a return provable later: the hashes (32 bytes each, in order) and the host's signature."""

    hashes: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What became of one returned result; `reason` has words where it was not stored."""

    key: Key
    receipt: Receipt
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Reading:
    """An answer as read before the transaction, with what judging it needs."""

    perspective: Perspective
    content_id: int
    background: Background
    content: dict[str, Any] | None
    features: Features | None
    fault: str


@dataclass(frozen=True, slots=True)
class _Scene:
    """All that the database knows of the returned units, read under their locks."""

    units: Mapping[Key, LockedUnit]
    live: Mapping[Key, list[Lease]]
    past: Mapping[Key, list[PastLease]]
    voices: Mapping[Key, list[VoiceRow]]


@dataclass(slots=True)
class _Outcome:
    """What one return will write."""

    acks: list[Acknowledged] = field(default_factory=list)
    rows: dict[Key, NewResult] = field(default_factory=dict)
    ended: list[EndedLease] = field(default_factory=list)


class Returns:
    """The return command on one database."""

    def __init__(self, db: Database, campaigns: Campaigns, clock: Callable[[], datetime]) -> None:
        self._db = db
        self._campaigns = campaigns
        self._clock = clock

    async def __call__(
        self, caller: Caller, returned: Sequence[Returned], batch: SignedBatch
    ) -> list[Acknowledged]:
        """Stores and judges; gives one acknowledgement per item, in order. All is durable when it returns.

        Sent again, it stores nothing twice and gives the same answers.
        """
        readings = await self._read(returned)
        now = self._clock()

        async def body(tx: Transaction) -> _Outcome:
            scene = await self._look(tx, sorted({item.key for item in returned}))
            outcome = _decide(caller, returned, readings, scene)
            await self._write(tx, caller, batch, scene, outcome, readings, now)
            return outcome

        outcome = await self._db.transaction("return", body, pipelined=True)
        for key in outcome.rows:
            reading = readings[key]
            if reading.features is not None:
                reading.background.add(reading.content_id, reading.features.tokens)
        return outcome.acks

    async def _read(self, returned: Sequence[Returned]) -> dict[Key, _Reading]:
        """Reads answers against their tasks, before any lock is held."""
        answers = [item for item in returned if isinstance(item, ReturnedAnswer)]
        facts = await self._db.transaction("facts", lambda tx: units.facts(tx, [a.key for a in answers]))
        readings = {}
        for answer in answers:
            if answer.key not in facts or answer.key in readings:
                continue
            perspective_id, content_id = facts[answer.key]
            campaign = await self._campaigns.find(answer.key[0])
            if campaign is None:
                continue
            perspective = campaign.tasks[perspective_id].task.perspective
            background = await self._campaigns.background(campaign.id, perspective_id)
            try:
                content = decode_answer(answer.body, perspective)
            except Refused as refused:
                fault = f"{refused.code}: {refused.detail}"
                reading = _Reading(perspective, content_id, background, None, None, fault)
            else:
                words = features(content, perspective)
                reading = _Reading(perspective, content_id, background, content, words, "")
            readings[answer.key] = reading
        return readings

    async def _look(self, tx: Transaction, keys: Sequence[Key]) -> _Scene:
        locked = await units.lock(tx, keys)
        return _Scene(
            units={(unit.campaign_id, unit.id): unit for unit in locked},
            live=by_unit(await leases.of_units(tx, keys)),
            past=by_unit(await leases.past(tx, keys)),
            voices=by_unit(await results.of_units(tx, keys)),
        )

    async def _write(
        self,
        tx: Transaction,
        caller: Caller,
        batch: SignedBatch,
        scene: _Scene,
        outcome: _Outcome,
        readings: Mapping[Key, _Reading],
        now: datetime,
    ) -> None:
        if outcome.rows:
            return_id = await results.add_return(tx, caller.host_id, batch.hashes, batch.signature, now)
            await results.add(tx, return_id, list(outcome.rows.values()), now)
            await leases.answered(tx, caller.host_id, list(outcome.rows))
            await shelves.remove(tx, _filled_places(scene, outcome))
        await give_back(tx, outcome.ended, scene.units, self._campaigns, now)
        ends, wider, entries = [], {}, [_failure(caller, scene, ended) for ended in outcome.ended]
        for key, row in outcome.rows.items():
            unit, reading = scene.units[key], readings[key]
            if row.late:
                entries += self._straggler(unit, row, reading, scene.voices[key])
                continue
            match self._judge(unit, row, reading, scene.voices[key]):
                case Settled() as settled:
                    ends.append((unit, settled))
                case MoreWanted(count):
                    answered = {voice.lane for voice in scene.voices[key]} | {row.lane}
                    wider[key] = (unit, count, answered)
        await settle(tx, ends, now)
        await widen(tx, wider)
        await ledger.add(tx, entries, now)

    def _judge(
        self, unit: LockedUnit, row: NewResult, reading: _Reading, voices: Sequence[VoiceRow]
    ) -> Settled | MoreWanted:
        quorum = self._campaigns.need(unit.campaign_id).policy.quorum
        answers = {v.user_id: features(v.answer, reading.perspective) for v in voices if not v.late}
        if reading.features is not None:
            answers[row.user_id] = reading.features
        return validation.judge(answers, unit.content_id, reading.background, quorum)

    def _straggler(
        self, unit: LockedUnit, row: NewResult, reading: _Reading, voices: Sequence[VoiceRow]
    ) -> list[Entry]:
        """A late answer is judged against the canonical one, and earns or loses standing by it."""
        canonical = next((v for v in voices if v.user_id == unit.canonical_user_id), None)
        if canonical is None or reading.features is None:
            return []
        campaign = self._campaigns.need(unit.campaign_id)
        reference = features(canonical.answer, reading.perspective)
        agrees = validation.agrees_with_canonical(
            reading.features, reference, unit.content_id, reading.background, campaign.policy.quorum
        )
        credit = campaign.tasks[unit.perspective_id].row.credit if agrees else 0.0
        judgement = "agreed" if agrees else "disagreed"
        whose = (row.user_id, row.host_id, unit.perspective_id, row.model)
        return [Entry(unit.campaign_id, unit.id, *whose, judgement, credit)]


def _decide(
    caller: Caller, returned: Sequence[Returned], readings: Mapping[Key, _Reading], scene: _Scene
) -> _Outcome:
    """What becomes of each item; a second item for one unit gets what the first got."""
    outcome = _Outcome()
    seen: dict[Key, Acknowledged] = {}
    for item in returned:
        if item.key not in seen:
            match item:
                case ReturnedAnswer():
                    seen[item.key] = _decide_answer(caller, item, readings.get(item.key), scene, outcome)
                case ReturnedFailure():
                    seen[item.key] = _decide_failure(caller, item, scene, outcome)
                case _:
                    assert_never(item)
        outcome.acks.append(seen[item.key])
    return outcome


def _decide_answer(
    caller: Caller, item: ReturnedAnswer, reading: _Reading | None, scene: _Scene, outcome: _Outcome
) -> Acknowledged:
    unit = scene.units.get(item.key)
    held = _held(scene.live[item.key], caller)
    before = [lease for lease in scene.past[item.key] if lease.host_id == caller.host_id]
    earlier = next((v.hash for v in scene.voices[item.key] if v.user_id == caller.user_id), None)
    state = None if unit is None else UnitState(unit.state)
    receipt = receive(Claim(state, held is not None, bool(before), earlier), item.hash)
    if receipt not in {Receipt.COUNTED, Receipt.LATE}:
        return Acknowledged(item.key, receipt, _WORDS.get(receipt, ""))
    if reading is None or reading.content is None:
        fault = "unread" if reading is None else reading.fault
        if held is not None:
            outcome.ended.append(EndedLease(held, LeaseEnding.FAILED, fault))
        return Acknowledged(item.key, Receipt.INVALID, fault)
    outcome.rows[item.key] = NewResult(
        campaign_id=item.key[0],
        unit_id=item.key[1],
        user_id=caller.user_id,
        lane=held.lane if held is not None else before[-1].lane,
        host_id=caller.host_id,
        hash=item.hash,
        body=item.body,
        answer=None if encode_answer(reading.content) == item.body else reading.content,
        model=item.model,
        endpoint=item.endpoint,
        seed=item.seed,
        elapsed_ms=item.elapsed_ms,
        late=receipt is Receipt.LATE,
        leased_at=None if held is None else held.leased_at,
    )
    return Acknowledged(item.key, receipt)


def _decide_failure(caller: Caller, item: ReturnedFailure, scene: _Scene, outcome: _Outcome) -> Acknowledged:
    held = _held(scene.live[item.key], caller)
    if held is not None:
        outcome.ended.append(EndedLease(held, LeaseEnding.FAILED, item.reason))
        return Acknowledged(item.key, Receipt.FAILURE)
    known = any(lease.host_id == caller.host_id for lease in scene.past[item.key])
    if known:
        return Acknowledged(item.key, Receipt.FAILURE)
    return Acknowledged(item.key, Receipt.NOT_LEASED, _WORDS[Receipt.NOT_LEASED])


_WORDS = {
    Receipt.UNKNOWN_UNIT: "There is no such unit.",
    Receipt.NOT_LEASED: "This host never held this unit.",
    Receipt.ALREADY_ANSWERED: "This volunteer gave another answer to this unit before.",
}


def _held(live: Sequence[Lease], caller: Caller) -> Lease | None:
    return next((lease for lease in live if lease.host_id == caller.host_id), None)


def _filled_places(scene: _Scene, outcome: _Outcome) -> list[Replica]:
    """Where lapsed leases' replicas wait again although their answers came after all."""
    return [
        replica(scene.units[key], row.lane)
        for key, row in outcome.rows.items()
        if row.leased_at is None and not row.late
    ]


def _failure(caller: Caller, scene: _Scene, ended: EndedLease) -> Entry:
    unit = scene.units[ended.lease.campaign_id, ended.lease.unit_id]
    return Entry(
        unit.campaign_id, unit.id, caller.user_id, caller.host_id, unit.perspective_id, "", "failed", 0.0
    )
