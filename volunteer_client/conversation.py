"""What the client says to the coordinator: results, leases, renewals, releases."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import structlog

from protos import work_pb2
from volunteer_client.api import AwayError, Coordinator, RejectedError
from volunteer_client.backoff import Backoff
from volunteer_client.configure import Enrolment
from volunteer_client.holdings import Holdings
from volunteer_client.lease import Ref, verify_batch
from volunteer_client.queue import RESULTS_A_CALL, Call
from volunteer_client.stats import Stats

# A call that finds no work is held so long by the coordinator, and only while nothing else needs the line.
LONG_POLL_MS = 120_000
PROMPT_S = 1.0  # after which a call that may be held is held
LEAST_POLL_S = 0.2
HAND_BACK_S = 15.0
HELD_A_CALL = 4096

_ABOUT_A_RESULT = frozenset({"INVALID_REQUEST", "BATCH_TOO_LARGE", "SIGNATURE_INVALID"})
_NAMES = {
    work_pb2.STORED: "stored",
    work_pb2.DUPLICATE: "duplicate",
    work_pb2.LATE: "late",
    work_pb2.REFUSED: "refused",
    work_pb2.FAILURE_NOTED: "failure_noted",
}
_IDLE_WORDS = {
    "no_work": "nothing waits right now",
    "holds_enough": "this machine holds as much as it can return in time",
    "nothing_new_for_you": "what waits has your answer already, and needs somebody else's",
    "paused_by_operator": "the operators have paused their campaigns",
    "no_work_for_perspectives": "work waits, but none of the perspectives that you chose",
    "no_work_for_model": "work waits, but its campaigns ask for other models",
    "no_work_for_tier": "work waits, but for machines with more memory",
    "over_quota": "this machine holds as many units as it may",
    "parked": "this machine gets no work for a while, because its work kept failing or an operator said so",
}


@dataclass(frozen=True, slots=True)
class Wish:
    """What a volunteer will do: how many requests at once, what the machine can hold, which perspectives.

    `model` is the one that does it.
    """

    concurrency: int
    tier: str
    perspectives: tuple[str, ...]
    model: str


class Conversation:
    """One host's talk with its coordinator. Every method is safe to lose and to repeat."""

    def __init__(
        self,
        coordinator: Coordinator,
        enrolment: Enrolment,
        holdings: Holdings,
        stats: Stats,
        wish: Wish,
        *,
        random: Random,
        log: structlog.typing.FilteringBoundLogger,
        on_stop: Callable[[Sequence[Ref]], None],
        poll_ms: int = LONG_POLL_MS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._coordinator = coordinator
        self._enrolment = enrolment
        self._holdings = holdings
        self._queue = holdings.queue
        self._stats = stats
        self._wish = wish
        self._random = random
        self._log = log
        self._on_stop = on_stop
        self._poll_ms = poll_ms
        self._sleep = sleep
        self._away = Backoff(random)
        self._unfit = Backoff(random)
        self._waiting_because = ""
        self._is_calling = False
        self._may_have_forgotten = True
        self.idle_since: float | None = None

    async def conversing(self) -> None:
        """Returns, leases and releases, for ever. Raises RejectedError at a refusal."""
        while True:
            await self._release_pending()
            call = self._planned()
            if call is None and not self._may_have_forgotten:
                await self._holdings.changed.wait(self._queue.wake_in(self._holdings.clock(), self._rate()))
                continue
            self._is_calling = True
            try:
                if self._may_have_forgotten:
                    await self._resume()
                elif call is not None:
                    await self._call(call)
            finally:
                self._is_calling = False
                self._holdings.changed.beat()

    def _planned(self) -> Call | None:
        return self._queue.plan(self._holdings.clock(), self._rate())

    def _rate(self) -> float | None:
        return self._stats.rate(self._wish.concurrency)

    async def renewing(self) -> None:
        """Keeps leases alive while units are held, and drops those that the coordinator takes back."""
        backoff = Backoff(self._random)
        while True:
            delay = self._queue.renew_in(self._holdings.clock())
            if delay is None or delay > 0:
                await self._holdings.changed.wait(delay)
                continue
            try:
                await self._renew()
                backoff.succeeded()
            except AwayError as error:
                self._say_waiting(error.code, error.detail)
                await self._sleep(backoff.failed())

    async def hand_back(self) -> None:
        """Releases what is unfinished and returns what is finished, once each; the rest stays on disk."""
        self._queue.pause("handing_back")
        unfinished = self._queue.unfinished()
        try:
            async with asyncio.timeout(HAND_BACK_S):
                await self._release_pending()
                for part in _parts(unfinished):
                    await self._coordinator.release(part, "client_stopped")
                    self._stats.released += len(await self._holdings.drop(part))
                while (call := self._queue.plan(self._holdings.clock(), None)) is not None:
                    before = len(self._queue)
                    await self._exchange(call)
                    if len(self._queue) == before:
                        break
        except (AwayError, RejectedError, TimeoutError) as error:
            self._log.warning("could not hand everything back", reason=str(error) or "the time ran out")

    def is_done(self) -> bool:
        """Whether there is nothing to return, to release or to hear, or nobody to say it to."""
        is_empty = not self._queue.refs() and not self._holdings.to_release and not self._is_calling
        return is_empty or (not self._queue.unfinished() and self._away.failures > 2)

    async def _resume(self) -> None:
        """Takes again what an earlier run, or an answer that never came, left leased and unknown here."""
        named = [*self._queue.unfinished(), *self._holdings.to_release, *self._queue.refs()]
        try:
            response = await self._coordinator.resume(list(dict.fromkeys(named))[:HELD_A_CALL])
        except AwayError as error:
            self._say_waiting(error.code, error.detail)
            await self._sleep(self._away.failed())
            return
        except RejectedError as error:
            if error.code != "UNIMPLEMENTED":
                raise
            self._may_have_forgotten = False  # an older coordinator: forgotten leases run out
            return
        before = self._stats.leased
        for batch in response.leases:
            await self._absorb_lease(batch)
        await self._stop(response.stop)
        self._may_have_forgotten = response.more and self._stats.leased > before

    async def _call(self, call: Call) -> None:
        try:
            await self._exchange(call)
        except AwayError as error:
            self._may_have_forgotten |= call.want > 0
            self.idle_since = None
            self._say_waiting(error.code, error.detail)
            await self._sleep(self._away.failed())
        except RejectedError as error:
            if not call.returns or error.code not in _ABOUT_A_RESULT:
                raise
            await self._after_refused_batch(call, error)

    async def _exchange(self, call: Call) -> None:
        """One Work call and all that follows from its answer. Raises AwayError or RejectedError."""
        results = [self._holdings.results[ref] for ref in call.returns]
        wait_ms = 0 if self._queue.refs() else self._poll_ms
        asking = asyncio.ensure_future(
            self._coordinator.work(
                results,
                want=call.want,
                tier=self._wish.tier,
                perspectives=self._wish.perspectives,
                model=self._wish.model,
                wait_ms=wait_ms,
            )
        )
        if wait_ms and not await self._while_wanted(asking):
            return
        response = await asking
        settled = await self._absorb_acks(call.returns, response.acks)
        if settled < len(call.returns):
            raise AwayError("UNAVAILABLE", "the coordinator did not acknowledge every result")
        if results:
            self._queue.returns_went_well()
        self._away.succeeded()
        for message in response.messages:
            self._log.warning("message", code=message.code, text=printable(message.text))
            await self._coordinator.showed(message.id)
        if response.lease.units:
            await self._absorb_lease(response.lease)
        elif call.want:
            self._absorb_idleness(response)

    async def _while_wanted(self, asking: "asyncio.Future[work_pb2.WorkResponse]") -> bool:
        """Waits for the answer to a call that may be held; hangs up, and says False, once no work is wanted.

        Whatever the coordinator may just have leased then goes back to its shelf.
        """
        try:
            await asyncio.wait({asking}, timeout=PROMPT_S)
            self._is_calling = asking.done()  # a call that only waits is no cause to stay
            self._holdings.changed.beat()
            while not asking.done():
                change: asyncio.Future[Any] = asyncio.ensure_future(self._holdings.changed.wait(None))
                both: set[asyncio.Future[Any]] = {asking, change}
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                change.cancel()
                if self._planned() is None and not asking.done():
                    return False
            return True
        finally:
            if not asking.done():
                asking.cancel()
                self._may_have_forgotten = True

    async def _absorb_acks(self, sent: Sequence[Ref], acks: Iterable[work_pb2.Ack]) -> int:
        waiting = set(sent)
        settled: list[Ref] = []
        safe: list[Ref] = []
        for ack in acks:
            ref, name = Ref(ack.campaign_id, ack.unit_id), _NAMES.get(ack.status)
            if ref not in waiting or name is None:
                continue
            waiting.discard(ref)
            settled.append(ref)
            self._stats.acknowledged[name] += 1
            if ack.status == work_pb2.REFUSED:
                self._log.warning("refused", unit=str(ref), reason=ack.reason)
            elif ack.status != work_pb2.FAILURE_NOTED:
                safe.append(ref)
        if settled:
            await self._holdings.settle(settled)
        if safe:
            named = " ".join(map(str, safe))
            self._log.info("acknowledged", units=named, in_all=self._stats.acknowledged.total())
        return len(settled)

    async def _absorb_lease(self, batch: work_pb2.LeaseBatch) -> None:
        leases, unfit = verify_batch(batch, self._enrolment.host_id, self._enrolment.coordinator_key)
        new = await self._holdings.take(leases, batch.lease_s)
        self._stats.leased += new
        self.idle_since = None
        self._waiting_because = ""
        for reason, refs in unfit.items():
            self._log.error("units that do not verify go back unseen", units=len(refs), reason=reason)
            self._holdings.to_release.update(dict.fromkeys(refs, reason))
        if new:
            self._unfit.succeeded()
            self._log.info("leased", units=new)
        else:
            self._queue.no_lease_before(self._holdings.clock() + self._unfit.failed())

    def _absorb_idleness(self, response: work_pb2.WorkResponse) -> None:
        now = self._holdings.clock()
        pause = max(response.retry_ms / 1000, LEAST_POLL_S) * self._random.uniform(1.0, 1.25)
        self._queue.no_lease_before(now + pause)
        if not self._queue.refs():
            self.idle_since = now if self.idle_since is None else self.idle_since
            reason = response.idle_reason or "no_work"
            self._say_waiting(reason, _IDLE_WORDS.get(reason, ""))

    async def _after_refused_batch(self, call: Call, error: RejectedError) -> None:
        """One bad result must not hold up the others: halve until it is alone, then set it aside."""
        if call.want:  # the wish for work may be what is wrong: return alone
            self._queue.no_lease_before(self._holdings.clock() + 1.0 + self._unfit.failed())
        elif len(call.returns) > 1:
            self._queue.halve_returns(len(call.returns))
            self._log.warning(
                "a batch was refused; trying fewer", answers=len(call.returns), reason=error.code
            )
        else:
            await self._holdings.set_aside(call.returns[0])

    async def _renew(self) -> None:
        self._queue.note_renewal(self._holdings.clock())
        for part in _parts(self._queue.refs()):
            response = await self._coordinator.renew(part)
            renewed = [Ref(ref.campaign_id, ref.unit_id) for ref in response.renewed]
            if renewed:
                self._queue.renew(renewed, self._holdings.clock(), response.lease_s)
            await self._stop(response.stop)

    async def _stop(self, refs: Iterable[work_pb2.UnitRef]) -> None:
        stopped = await self._holdings.drop(Ref(ref.campaign_id, ref.unit_id) for ref in refs)
        if stopped:
            self._on_stop(stopped)
            self._log.info("stopped: settled or taken back", units=len(stopped))

    async def _release_pending(self) -> None:
        by_reason: dict[str, list[Ref]] = {}
        for ref, reason in self._holdings.to_release.items():
            by_reason.setdefault(reason, []).append(ref)
        for reason, refs in by_reason.items():
            for part in _parts(refs):
                try:
                    await self._coordinator.release(part, reason)
                except AwayError as error:
                    self._say_waiting(error.code, error.detail)
                    await self._sleep(self._away.failed())
                    return
                self._stats.released += len(part)
                self._log.info("released", units=len(part), reason=reason)
                for ref in part:
                    self._holdings.to_release.pop(ref, None)

    def _say_waiting(self, code: str, detail: str) -> None:
        """Once per cause: a night without work is one line."""
        if code != self._waiting_because:
            self._waiting_because = code
            self._log.info("waiting", because=code, **({"detail": detail} if detail else {}))


def printable(text: str) -> str:
    """Somebody else's words, fit for a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def _parts(refs: Sequence[Ref]) -> list[Sequence[Ref]]:
    return [refs[start : start + RESULTS_A_CALL] for start in range(0, len(refs), RESULTS_A_CALL)]
