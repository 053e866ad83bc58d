"""The return command: answers and failures of hosts, stored, judged and acknowledged."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, assert_never

from captions.agreement import Features
from captions.consensus import Voice
from coordinator import validation
from coordinator.campaigns import Campaigns
from coordinator.combining import LINGER_S, Combiner
from coordinator.evidence import LOUDEST
from coordinator.facts import UnitFacts
from coordinator.hearing import Hearing, Reading, Readings
from coordinator.identity import Caller
from coordinator.lifecycle import Claim, LeaseEnding, Receipt, UnitState, receive
from coordinator.pace import Paces
from coordinator.settlement import (
    EndedLease,
    Key,
    Wanted,
    by_unit,
    give_back,
    replica,
    settle,
    tell_verdicts,
    widen,
)
from coordinator.trust import Trust
from coordinator.validation import MoreWanted, Settled
from store import leases, ledger, replicas, results, rounds, shelves
from store.database import Database, Transaction
from store.leases import Lease, PastLease
from store.ledger import Entry
from store.replicas import Replica
from store.results import NewResult, NewReturn, VoiceRow
from store.situation import lock_and_read
from store.units import LockedUnit

AT_ONCE = 3  # return transactions at once, per process
CAPACITY = 512  # results that share one transaction
IDS_AT_ONCE = 500


class ReturnedAnswer(NamedTuple):
    """An answer as it came; `hash` is `protos.signing.result` of it."""

    key: Key
    hash: bytes
    body: bytes
    model: str
    endpoint: str
    seed: int
    elapsed_ms: int


class ReturnedFailure(NamedTuple):
    """A host's word that it cannot answer, and why."""

    key: Key
    reason: str


Returned = ReturnedAnswer | ReturnedFailure


@dataclass(frozen=True, slots=True)
class SignedBatch:
    """What makes a return provable later: the hashes (32 bytes each, in order) and the host's signature."""

    hashes: bytes
    signature: bytes


class Acknowledged(NamedTuple):
    """What became of one returned result; `reason` has words where it was not stored."""

    key: Key
    receipt: Receipt
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Return:
    """One call."""

    caller: Caller
    items: Sequence[Returned]
    batch: SignedBatch
    id: int


@dataclass(frozen=True, slots=True)
class _Situation:
    """All that the database knows of the returned units, read under their locks."""

    units: Mapping[Key, LockedUnit]
    live: Mapping[Key, list[Lease]]
    past: Mapping[Key, list[PastLease]]
    voices: Mapping[Key, list[VoiceRow]]
    heard: Mapping[bytes, Features]


@dataclass(slots=True)
class _Outcome:
    """What the returns of one transaction will write.

    `alone` are the answers that may settle alone, `settled` those whose units are settled.
    """

    acks: list[list[Acknowledged]] = field(default_factory=list)
    batches: list[NewReturn] = field(default_factory=list)
    rows: defaultdict[Key, list[NewResult]] = field(default_factory=lambda: defaultdict(list))
    ended: list[EndedLease] = field(default_factory=list)
    alone: set[bytes] = field(default_factory=set)
    stored: int = 0
    settled: list[bytes] = field(default_factory=list)


class Returns:
    """The return command on one database. Calls that come together share a transaction."""

    def __init__(
        self,
        db: Database,
        campaigns: Campaigns,
        facts: UnitFacts,
        trust: Trust,
        paces: Paces,
        clock: Callable[[], datetime],
    ) -> None:
        self._db = db
        self._campaigns = campaigns
        self._trust = trust
        self._paces = paces
        self._clock = clock
        self._ids: list[int] = []
        self._hearing = Hearing(campaigns, facts)
        self._combined = Combiner(
            "return", self._together, at_once=AT_ONCE, capacity=CAPACITY, linger_s=LINGER_S
        )

    async def __call__(
        self, caller: Caller, items: Sequence[Returned], batch: SignedBatch
    ) -> list[Acknowledged]:
        """Stores and judges; gives one acknowledgement per item, in order. All is durable when it returns.

        Sent again, it stores nothing twice and gives the same answers.
        """
        if not self._ids:
            self._ids = await self._db.transaction(
                "return ids", lambda tx: results.reserve_return_ids(tx, IDS_AT_ONCE)
            )
        acks = await self._combined(_Return(caller, items, batch, self._ids.pop()), len(items))
        self._paces.returned(
            caller.host_id, (ack.key for ack in acks if ack.receipt is not Receipt.DUPLICATE)
        )
        return acks

    async def _together(self, returns: Sequence[_Return]) -> list[list[Acknowledged]]:
        answers = [item for one in returns for item in one.items if isinstance(item, ReturnedAnswer)]
        readings = await self._hearing.read([answer[:3] for answer in answers])
        keys = sorted({item.key for one in returns for item in one.items})
        now = self._clock()

        async def body(tx: Transaction) -> _Outcome:
            rows = await lock_and_read(tx, keys)
            locked = {(unit.campaign_id, unit.id): unit for unit in rows.units}
            voices = by_unit(rows.voices)
            heard = await self._hearing.recall(tx, locked, voices)
            situation = _Situation(locked, by_unit(rows.live), by_unit(rows.past), voices, heard)
            outcome = _Outcome()
            for one in returns:
                _decide(one, readings, situation, outcome)
            await _recall(tx, returns, outcome)
            await self._write(tx, situation, outcome, readings, now)
            return outcome

        outcome = await self._db.transaction("return", body, pipelined=True)
        self._hearing.keep(readings[key, row.hash] for key, rows in outcome.rows.items() for row in rows)
        self._hearing.forget(outcome.settled)
        return outcome.acks

    async def _write(
        self,
        tx: Transaction,
        situation: _Situation,
        outcome: _Outcome,
        readings: Readings,
        now: datetime,
    ) -> None:
        stored = [row for rows in outcome.rows.values() for row in rows]
        await results.add(tx, outcome.batches, stored, now)
        await shelves.guard_users(tx, {row.user_id for row in stored if row.leased_at is None})
        await leases.answered(tx, [(row.campaign_id, row.unit_id, row.user_id) for row in stored])
        await replicas.remove(tx, _filled_places(situation, stored))
        ends, wider, entries = [], [], [_failure(situation, ended) for ended in outcome.ended]
        for key, rows in outcome.rows.items():
            unit, voices = situation.units[key], situation.voices[key]
            if unit.state != UnitState.OPEN:
                entries += self._stragglers(unit, rows, readings, situation)
                continue
            match self._judge(unit, rows, readings, situation, outcome.alone):
                case Settled() as settled:
                    ends.append((unit, settled))
                    outcome.settled += [voice.hash for voice in voices] + [row.hash for row in rows]
                case MoreWanted(count):
                    answered = frozenset([voice.lane for voice in voices] + [row.lane for row in rows])
                    replication = self._campaigns.need(key[0]).policy.replication
                    wider.append(Wanted(unit, count, answered, replication))
        await settle(tx, ends, now)
        locked = dict(situation.units)
        for unit, end in ends:
            locked[unit.campaign_id, unit.id] = unit._replace(state=end.state.value)
        lost = await give_back(tx, outcome.ended, locked, self._campaigns, now)
        wider = [one for one in wider if (one.unit.campaign_id, one.unit.id) not in lost]
        await widen(tx, wider)
        tell_verdicts(tx, self._campaigns, ends, [one.unit for one in wider])
        await ledger.add(tx, entries, now)

    def _judge(
        self,
        unit: LockedUnit,
        rows: Sequence[NewResult],
        readings: Readings,
        situation: _Situation,
        alone: Set[bytes],
    ) -> Settled | MoreWanted:
        reading = readings[(unit.campaign_id, unit.id), rows[0].hash]
        earlier = situation.voices[unit.campaign_id, unit.id]
        heard: list[tuple[VoiceRow | NewResult, Features]] = [
            (voice, situation.heard[voice.hash]) for voice in earlier if not voice.late
        ]
        for row in rows:
            words = readings[(unit.campaign_id, unit.id), row.hash].features
            if words is not None:
                heard.append((row, words))
        voices = []
        for said, words in heard:
            weight = self._trust.weight(said.host_id, unit.campaign_id, unit.perspective_id, said.model)
            is_alone = len(heard) == 1 and said.hash in alone
            voices.append(Voice(said.user_id, words, weight if is_alone else min(weight, LOUDEST)))
        quorum = self._campaigns.need(unit.campaign_id).policy.quorum_beyond(unit.extra_voices)
        return validation.judge(voices, unit.content_id, reading.background, quorum)

    def _stragglers(
        self, unit: LockedUnit, rows: Sequence[NewResult], readings: Readings, situation: _Situation
    ) -> list[Entry]:
        """Late answers are judged against the canonical one, and earn or lose standing by it."""
        voices = situation.voices[unit.campaign_id, unit.id]
        canonical = next((v for v in voices if v.user_id == unit.canonical_user_id), None)
        if canonical is None:
            return []
        campaign = self._campaigns.need(unit.campaign_id)
        credit = campaign.tasks[unit.perspective_id].row.credit
        entries = []
        for row in rows:
            reading = readings[(unit.campaign_id, unit.id), row.hash]
            if reading.features is not None:
                agrees = validation.agrees_with_canonical(
                    reading.features,
                    situation.heard[canonical.hash],
                    unit.content_id,
                    reading.background,
                    campaign.policy.quorum,
                )
                whose = (row.user_id, row.host_id, unit.perspective_id, row.model)
                judged = ("agreed", credit) if agrees else ("disagreed", 0.0)
                entries.append(Entry(unit.campaign_id, unit.id, *whose, *judged))
        return entries


def _decide(one: _Return, readings: Readings, situation: _Situation, outcome: _Outcome) -> None:
    """What becomes of each item of a call; an item that is there twice gets the same word twice."""
    seen: dict[tuple[Key, bytes | str], Acknowledged] = {}
    acks = []
    kept = outcome.stored
    for item in one.items:
        said = item[:2]
        if said not in seen:
            match item:
                case ReturnedAnswer():
                    seen[said] = _decide_answer(
                        one, item, readings.get((item.key, item.hash)), situation, outcome
                    )
                case ReturnedFailure():
                    seen[said] = _decide_failure(one, item, situation, outcome)
                case _:
                    assert_never(item)
        acks.append(seen[said])
    outcome.acks.append(acks)
    if outcome.stored > kept:
        batch = NewReturn(one.id, one.caller.host_id, one.batch.hashes, one.batch.signature)
        outcome.batches.append(batch)


async def _recall(tx: Transaction, returns: Sequence[_Return], outcome: _Outcome) -> None:
    """A result that was left behind when its unit was reopened is a duplicate when it is sent again."""
    refused = [
        (acks, place, item.key, (item.key, one.caller.user_id, item.hash))
        for one, acks in zip(returns, outcome.acks, strict=True)
        for place, item in enumerate(one.items)
        if isinstance(item, ReturnedAnswer) and acks[place].receipt is Receipt.NOT_LEASED
    ]
    if refused:
        known = await rounds.left_behind(tx, [sent for _, _, _, sent in refused])
        for acks, place, key, sent in refused:
            if sent in known:
                acks[place] = Acknowledged(key, Receipt.DUPLICATE)


def _decide_answer(
    one: _Return, item: ReturnedAnswer, reading: Reading | None, situation: _Situation, outcome: _Outcome
) -> Acknowledged:
    caller, key = one.caller, item.key
    unit = situation.units.get(key)
    held = _held(situation.live[key], caller, outcome)
    before = [lease for lease in situation.past[key] if lease.host_id == caller.host_id]
    voices = [*situation.voices[key], *outcome.rows.get(key, ())]
    earlier = next((voice.hash for voice in voices if voice.user_id == caller.user_id), None)
    state = None if unit is None else UnitState(unit.state)
    receipt = receive(Claim(state, held is not None, bool(before), earlier), item.hash)
    if receipt not in {Receipt.COUNTED, Receipt.LATE}:
        return Acknowledged(key, receipt, _WORDS.get(receipt, ""))
    if reading is None or reading.features is None:
        fault = "unread" if reading is None else reading.fault
        if held is not None:
            outcome.ended.append(EndedLease(held, LeaseEnding.FAILED, fault))
        return Acknowledged(key, Receipt.INVALID, fault)
    row = NewResult(
        campaign_id=key[0],
        unit_id=key[1],
        user_id=caller.user_id,
        lane=held.lane if held is not None else before[-1].lane,
        host_id=caller.host_id,
        hash=item.hash,
        body=item.body,
        answer=reading.stored,
        model=item.model,
        endpoint=item.endpoint,
        seed=item.seed,
        elapsed_ms=item.elapsed_ms,
        late=receipt is Receipt.LATE,
        leased_at=None if held is None else held.leased_at,
        return_id=one.id,
    )
    outcome.rows[key].append(row)
    outcome.stored += 1
    if held is not None and held.alone:
        outcome.alone.add(item.hash)
    return Acknowledged(key, receipt)


def _decide_failure(
    one: _Return, item: ReturnedFailure, situation: _Situation, outcome: _Outcome
) -> Acknowledged:
    held = _held(situation.live[item.key], one.caller, outcome)
    if held is not None:
        outcome.ended.append(EndedLease(held, LeaseEnding.FAILED, item.reason))
        return Acknowledged(item.key, Receipt.FAILURE)
    if any(lease.host_id == one.caller.host_id for lease in situation.past[item.key]):
        return Acknowledged(item.key, Receipt.FAILURE)
    return Acknowledged(item.key, Receipt.NOT_LEASED, _WORDS[Receipt.NOT_LEASED])


_WORDS = {
    Receipt.UNKNOWN_UNIT: "There is no such unit.",
    Receipt.NOT_LEASED: "This host never held this unit.",
    Receipt.ALREADY_ANSWERED: "This volunteer gave another answer to this unit before.",
}


def _held(live: Sequence[Lease], caller: Caller, outcome: _Outcome) -> Lease | None:
    """The caller's live lease, unless an earlier item of the same transaction ends it."""
    for lease in live:
        if lease.host_id == caller.host_id:
            stored = outcome.rows.get((lease.campaign_id, lease.unit_id), ())
            answered = any(row.host_id == caller.host_id for row in stored)
            failed = outcome.ended and any(ended.lease is lease for ended in outcome.ended)
            return None if answered or failed else lease
    return None


def _filled_places(situation: _Situation, stored: Sequence[NewResult]) -> list[Replica]:
    """Where lapsed leases' replicas wait again although their answers came after all."""
    return [
        replica(situation.units[row.campaign_id, row.unit_id], row.lane)
        for row in stored
        if row.leased_at is None and not row.late
    ]


def _failure(situation: _Situation, ended: EndedLease) -> Entry:
    lease = ended.lease
    unit = situation.units[lease.campaign_id, lease.unit_id]
    return Entry(
        unit.campaign_id, unit.id, lease.user_id, lease.host_id, unit.perspective_id, "", "failed", 0.0
    )
