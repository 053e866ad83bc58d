"""A volunteer's client: wires the parts together, runs them, and ends in two polite steps."""

import asyncio
import os
import signal
import sys
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from enum import IntEnum
from random import Random
from typing import assert_never

import structlog

from volunteer_client.api import Coordinator, Images, RejectedError
from volunteer_client.backoff import Backoff
from volunteer_client.configure import ConfigureError, Home
from volunteer_client.conversation import LONG_POLL_MS, Conversation, Wish
from volunteer_client.engine import Engine
from volunteer_client.holdings import Holdings
from volunteer_client.queue import Queue
from volunteer_client.spool import Spool
from volunteer_client.stats import Stats
from volunteer_client.workers import Endpoint, SetupError, Workers

Log = structlog.typing.FilteringBoundLogger

IMPATIENT_POLL_MS = 3_000  # of a client that is to end when there is nothing to do

EXIT_DONE = 0
EXIT_SETUP = 2
EXIT_REJECTED = 3
EXIT_KILLED = 130


@dataclass(frozen=True, slots=True)
class Settings:
    """How a run was asked for. `exit_when_idle_s` None runs for ever; `seed` None draws one.

    `drain_limit_s` is how long a drain waits for the endpoint's next answer before it hands back.
    """

    endpoint: str
    model: str
    api_key: str | None
    concurrency: int = 2
    tier: str | None = None
    perspectives: tuple[str, ...] = ()
    seed: int | None = None
    temperature: float | None = None
    exit_when_idle_s: float | None = None
    drain_limit_s: float = 120.0


class Mode(IntEnum):
    """How far the client is on its way out."""

    RUNNING = 0
    DRAINING = 1
    HANDING_BACK = 2


def steady_clock() -> float:
    """Seconds that go on while the machine sleeps where that can be had, and never jump."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


async def run(home: Home, settings: Settings, log: Log) -> int:
    """Works until stopped, idle for long enough, or wrongly set up; gives the exit status.

    Raises ConfigureError where the home cannot be used.
    """
    with home.lock():
        enrolment, key = home.joined()
        random = Random()  # noqa: S311  # jitter and sampling seeds, no secrets
        tier = settings.tier or enrolment.tier
        wish = Wish(settings.concurrency, tier, settings.perspectives, settings.model)
        seed = random.getrandbits(31) if settings.seed is None else settings.seed
        async with AsyncExitStack() as stack:
            coordinator = Coordinator(enrolment, key, home.memory())
            stack.push_async_callback(coordinator.close)
            images = Images(enrolment.ca_der, random=random)
            stack.push_async_callback(images.close)
            engine = Engine(
                settings.endpoint,
                settings.model,
                settings.api_key,
                seed=seed,
                temperature=settings.temperature,
            )
            stack.push_async_callback(engine.close)
            stats = Stats()
            try:
                spool = Spool(home.spool_folder)
                holdings = Holdings(
                    Queue(wish.concurrency), spool, clock=steady_clock, disk_backoff=Backoff(random), log=log
                )
                await holdings.restore(enrolment.coordinator_key)
            except OSError as error:
                raise ConfigureError("spool_unusable", f"The spool cannot be used: {error}") from None
            endpoint = Endpoint(wish.concurrency, Backoff(random))
            workers = Workers(
                engine, images, holdings, stats, endpoint, image_backoff=Backoff(random), log=log
            )
            conversation = Conversation(
                coordinator,
                enrolment,
                holdings,
                stats,
                wish,
                random=random,
                log=log,
                on_stop=workers.abort,
                poll_ms=LONG_POLL_MS if settings.exit_when_idle_s is None else IMPATIENT_POLL_MS,
            )
            log.info("starting", host=enrolment.host_id, user=enrolment.user_name, model=settings.model)
            client = Client(
                conversation,
                workers,
                holdings,
                stats,
                settings.exit_when_idle_s,
                settings.drain_limit_s,
                log,
            )
            return await client.run()


class Client:
    """Runs the conversation and the work beside each other until one of them, or the volunteer, ends it."""

    def __init__(
        self,
        conversation: Conversation,
        workers: Workers,
        holdings: Holdings,
        stats: Stats,
        exit_when_idle_s: float | None,
        drain_limit_s: float,
        log: Log,
    ) -> None:
        self._conversation = conversation
        self._workers = workers
        self._holdings = holdings
        self._stats = stats
        self._exit_when_idle_s = exit_when_idle_s
        self._drain_limit_s = drain_limit_s
        self._log = log
        self._mode = Mode.RUNNING
        self._drained: tuple[int, float] | None = None

    async def run(self) -> int:
        """Until the end; gives the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        status = EXIT_DONE
        try:
            await self._run_parts()
        except SetupError as error:
            self._log.error("stopping: the set-up has to change", code=error.code, advice=str(error))
            status, self._mode = EXIT_SETUP, Mode.HANDING_BACK
        except RejectedError as error:
            self._log.error("stopping: the coordinator refuses this host", code=error.code, advice=str(error))
            status = EXIT_REJECTED
        if self._mode is Mode.HANDING_BACK:
            await self._conversation.hand_back()
        self._say_goodbye()
        return status

    async def _run_parts(self) -> None:
        parts = [
            self._until_over(),
            self._conversation.conversing(),
            self._conversation.renewing(),
            self._workers.fetching(),
            self._workers.asking(),
            self._workers.watching(),
        ]
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._workers.stop()
        for task in done:
            task.result()

    async def _until_over(self) -> None:
        while self._mode < Mode.HANDING_BACK:
            if self._mode is Mode.DRAINING:
                if self._conversation.is_done():
                    return
                still = self._drain_left()
                if still <= 0:
                    self._log.warning(
                        "handing back: the endpoint gave no answer", seconds=self._drain_limit_s
                    )
                    self._mode = Mode.HANDING_BACK
                    return
                await self._holdings.changed.wait(still)
                continue
            idle_since, patience = self._conversation.idle_since, self._exit_when_idle_s
            left = None
            if idle_since is not None and patience is not None and self._conversation.is_done():
                left = idle_since + patience - self._holdings.clock()
                if left <= 0:
                    self._log.info("ending: there was nothing to do", seconds=patience)
                    return
            await self._holdings.changed.wait(left)

    def _drain_left(self) -> float:
        """Seconds until a drain in which nothing is finished any more is given up."""
        ended = self._stats.answered + self._stats.failed
        if self._drained is None or self._drained[0] != ended:
            self._drained = (ended, self._holdings.clock())
        return self._drained[1] + self._drain_limit_s - self._holdings.clock()

    def _on_signal(self) -> None:
        match self._mode:
            case Mode.RUNNING:
                self._mode = Mode.DRAINING
                self._holdings.queue.pause("draining")
                left = len(self._holdings.queue.unfinished())
                self._log.info("finishing what is held; press Ctrl-C again to hand it back", units=left)
            case Mode.DRAINING:
                self._mode = Mode.HANDING_BACK
                self._log.info("handing back; press Ctrl-C again to stop at once")
            case Mode.HANDING_BACK:
                with suppress(OSError):
                    sys.stdout.flush()
                os._exit(EXIT_KILLED)  # nothing is lost: finished answers are on disk
            case _ as never:
                assert_never(never)
        self._holdings.changed.beat()

    def _say_goodbye(self) -> None:
        left = len(self._holdings.results)
        if left:
            self._log.warning("answers wait in the spool for the next start", answers=left)
        self._log.info(
            "stopped",
            leased=self._stats.leased,
            answered=self._stats.answered,
            failed=self._stats.failed,
            released=self._stats.released,
            **dict(sorted(self._stats.acknowledged.items())),
        )
