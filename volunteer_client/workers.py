"""The work itself: fetch images ahead, keep the model endpoint busy, turn what it says into results."""

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import assert_never

import structlog

from protos import work_pb2
from volunteer_client.api import ImageError, Images
from volunteer_client.backoff import Backoff
from volunteer_client.endpoint_error import JobWrong, SetupWrong, Wait
from volunteer_client.engine import Answered, Engine
from volunteer_client.holdings import Holdings
from volunteer_client.lease import Lease, Ref
from volunteer_client.picture import PictureError, as_baseline_jpeg
from volunteer_client.stats import Stats

FETCHES = 6
OUTAGE_S = 120.0
SERVER_ERRORS = 3
FAILURES_IN_A_ROW = 20
FAILURE_CHARACTERS = 300


class SetupError(Exception):
    """The volunteer has to change something before any work can be done; the text says what."""

    def __init__(self, wrong: SetupWrong) -> None:
        super().__init__(wrong.advice)
        self.code = wrong.code


class Endpoint:
    """Whether the endpoint may be asked now. After trouble, one request at a time until one succeeds."""

    def __init__(self, concurrency: int, backoff: Backoff) -> None:
        self._concurrency = concurrency
        self._backoff = backoff
        self._open_at = 0.0
        self._trouble_since: float | None = None
        self.last_answer_at = float("-inf")
        self.is_up = False

    def limit(self, now: float) -> int:
        """How many requests may be in flight."""
        if not self.is_up or now < self._open_at:
            return 0
        return 1 if self._backoff.failures else self._concurrency

    def opens_in(self, now: float) -> float | None:
        """Seconds until asking is allowed again; None where only an event can change that."""
        return self._open_at - now if now < self._open_at else None

    def answered(self, now: float) -> None:
        """All is well."""
        self._backoff.succeeded()
        self._trouble_since, self.last_answer_at = None, now

    def found_up(self) -> None:
        """A probe succeeded."""
        self.is_up, self._trouble_since = True, None

    def is_out(self, now: float) -> bool:
        """Whether trouble has lasted, or will last, so long that units are better off elsewhere."""
        ends = max(now, self._open_at)
        return self._trouble_since is not None and ends - self._trouble_since > OUTAGE_S

    def failed(self, wait: Wait, now: float) -> float:
        """Notes trouble; gives the seconds to wait. Failures of one moment count once."""
        if self._trouble_since is None:
            self._trouble_since = now
        if now >= self._open_at:
            own = self._backoff.failed()
            self._open_at = now + (own if wait.retry_after_s is None else wait.retry_after_s + own / 10)
        if self.is_out(now):
            self.is_up = False
        return self._open_at - now


class Workers:
    """Everything between a lease and a result."""

    def __init__(
        self,
        engine: Engine,
        images: Images,
        holdings: Holdings,
        stats: Stats,
        endpoint: Endpoint,
        *,
        image_backoff: Backoff,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._engine = engine
        self._images = images
        self._holdings = holdings
        self._queue = holdings.queue
        self._stats = stats
        self._endpoint = endpoint
        self._image_backoff = image_backoff
        self._log = log
        self._fetching: dict[Ref, asyncio.Task[None]] = {}
        self._asking: dict[Ref, asyncio.Task[None]] = {}
        self._saving: dict[Ref, asyncio.Task[None]] = {}
        self._server_errors: dict[Ref, list[float]] = {}
        self._failures_in_a_row = 0
        self._fatal: BaseException | None = None

    async def fetching(self) -> None:
        """Gets the images of leased units, several at once: a stalled one holds up no other."""
        while True:
            while len(self._fetching) < FETCHES:
                ref = self._queue.next_fetch(self._holdings.clock())
                if ref is None:
                    break
                self._begin(self._fetching, ref, self._fetch(self._holdings.leases[ref]))
            await self._holdings.changed.wait(None)

    async def asking(self) -> None:
        """Keeps the endpoint busy. Raises SetupError where the volunteer has to change something."""
        while self._fatal is None:
            now = self._holdings.clock()
            while len(self._asking) < self._endpoint.limit(now):
                ref = self._queue.next_ask(now)
                if ref is None:
                    break
                picture = self._holdings.pictures[ref]
                self._begin(self._asking, ref, self._ask(self._holdings.leases[ref], picture))
            await self._holdings.changed.wait(self._endpoint.opens_in(now))
        raise self._fatal

    async def watching(self) -> None:
        """While the endpoint is down: leases nothing, and looks again and again. Raises SetupError."""
        while True:
            if self._endpoint.is_up:
                await self._holdings.changed.wait(None)
                continue
            self._queue.pause("endpoint")
            now = self._holdings.clock()
            if self._endpoint.is_out(now):
                self.abort(await self._holdings.give_back(self._queue.unfinished(), "endpoint_unavailable"))
            left = self._endpoint.opens_in(now)
            if left is not None:
                await self._holdings.changed.wait(left)
                continue
            trouble = await self._engine.probe()
            match trouble:
                case None | JobWrong():
                    self._endpoint.found_up()
                    self._queue.resume("endpoint")
                    self._log.info("endpoint answers", kind=self._engine.kind)
                    self._holdings.changed.beat()
                case SetupWrong():
                    raise SetupError(trouble)
                case Wait():
                    delay = self._endpoint.failed(trouble, self._holdings.clock())
                    self._log.info(
                        "waiting", because=trouble.code, detail=trouble.detail, seconds=round(delay)
                    )
                case _ as never:
                    assert_never(never)

    def abort(self, refs: Sequence[Ref]) -> None:
        """Ends the requests of units that were stopped."""
        for ref in refs:
            for tasks in (self._fetching, self._asking):
                if ref in tasks:
                    tasks[ref].cancel()

    async def stop(self) -> None:
        """Ends all requests; waits for answers that are on their way to the disk."""
        running = [*self._fetching.values(), *self._asking.values()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await asyncio.gather(*self._saving.values(), return_exceptions=True)

    def _begin(
        self, tasks: dict[Ref, asyncio.Task[None]], ref: Ref, work: Coroutine[object, object, None]
    ) -> None:
        task = tasks[ref] = asyncio.create_task(work)
        task.add_done_callback(partial(self._ended, tasks, ref))

    def _ended(self, tasks: dict[Ref, asyncio.Task[None]], ref: Ref, task: asyncio.Task[None]) -> None:
        if tasks.get(ref) is task:
            del tasks[ref]
        if not task.cancelled() and task.exception() is not None:
            self._fatal = task.exception()
        self._holdings.changed.beat()

    async def _fetch(self, lease: Lease) -> None:
        ref, image_hash, spool = lease.ref, lease.unit.image_hash, self._holdings.spool
        try:
            data = await asyncio.to_thread(spool.image, image_hash)
            if data is None:
                data = await self._images.fetch(lease.unit.image_url, image_hash)
                with contextlib.suppress(OSError):  # kept only to spare a second fetch
                    await asyncio.to_thread(spool.keep_image, image_hash, data)
            picture = await asyncio.to_thread(as_baseline_jpeg, data)
        except ImageError as error:
            await self._after_image_error(ref, error)
        except PictureError as error:
            self._save_failure(ref, error.code, error.detail)
        else:
            self._image_backoff.succeeded()
            if ref in self._holdings.leases:
                self._holdings.pictures[ref] = picture
                self._queue.fetched(ref, self._holdings.clock())

    async def _after_image_error(self, ref: Ref, error: ImageError) -> None:
        if error.is_lasting:
            self._save_failure(ref, error.code, error.detail)
            return
        self._log.warning("image not to be had", unit=str(ref), reason=str(error))
        self._queue.no_lease_before(self._holdings.clock() + self._image_backoff.failed())
        await self._holdings.give_back([ref], error.code)

    async def _ask(self, lease: Lease, picture: bytes) -> None:
        ref = lease.ref
        outcome = await self._engine.ask(lease.task, lease.prompt, picture, str(ref))
        now = self._holdings.clock()
        match outcome:
            case Answered():
                self._failures_in_a_row = 0
                self._endpoint.answered(now)
                self._save_answer(ref, outcome)
            case JobWrong():
                self._endpoint.answered(now)
                self._save_failure(ref, outcome.code, outcome.detail)
                self._after_failure(outcome)
            case SetupWrong():
                self._queue.put_back(ref, now)
                raise SetupError(outcome)
            case Wait():
                self._after_wait(ref, outcome, now)
            case _ as never:
                assert_never(never)

    def _after_failure(self, wrong: JobWrong) -> None:
        """A set-up under which nothing succeeds must not burn through a campaign."""
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= FAILURES_IN_A_ROW:
            advice = (
                f"The last {FAILURES_IN_A_ROW} answers were all bad, the last one so: {wrong.code}: "
                f"{wrong.detail}. Try another model, or more context for this one."
            )
            raise SetupError(SetupWrong("nothing_works", advice))

    def _after_wait(self, ref: Ref, wait: Wait, now: float) -> None:
        delay = self._endpoint.failed(wait, now)
        self._log.info("waiting", because=wait.code, detail=wait.detail, seconds=round(delay, 1))
        if wait.is_server_error:
            errors = self._server_errors.setdefault(ref, [])
            errors.append(now)
            # Others were answered meanwhile: it is this unit, not the server.
            if len(errors) >= SERVER_ERRORS and self._endpoint.last_answer_at > errors[0]:
                self._save_failure(ref, "endpoint_error", wait.detail)
                return
        self._queue.put_back(ref, now)

    def _save_answer(self, ref: Ref, answered: Answered) -> None:
        self._stats.note_answer(answered.elapsed_s)
        self._log.info("done", unit=str(ref), seconds=round(answered.elapsed_s, 2))
        answer = work_pb2.Answer(
            body=answered.body,
            model=answered.model,
            endpoint=self._engine.kind,
            seed=answered.seed,
            elapsed_ms=round(answered.elapsed_s * 1000),
        )
        self._save(work_pb2.Result(campaign_id=ref.campaign_id, unit_id=ref.unit_id, answer=answer))

    def _save_failure(self, ref: Ref, code: str, detail: str) -> None:
        words = f"{code}: {detail}"[:FAILURE_CHARACTERS]
        self._stats.failed += 1
        self._log.warning("failed", unit=str(ref), reason=words)
        self._save(work_pb2.Result(campaign_id=ref.campaign_id, unit_id=ref.unit_id, failure=words))

    def _save(self, result: work_pb2.Result) -> None:
        """Writes to disk beside the next request, so that the endpoint need not wait for the disk."""
        ref = Ref(result.campaign_id, result.unit_id)
        self._server_errors.pop(ref, None)
        self._begin(self._saving, ref, self._holdings.finish(result))
