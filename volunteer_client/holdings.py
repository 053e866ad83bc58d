"""All that a client holds: queue, spool and what is at hand in memory, kept in step."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

import structlog

from protos import work_pb2
from volunteer_client.backoff import Backoff
from volunteer_client.lease import Lease, Ref
from volunteer_client.queue import Queue
from volunteer_client.spool import Spool


class Pulse:
    """Wakes all who wait when something has changed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def beat(self) -> None:
        """Something has changed."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, timeout_s: float | None) -> None:
        """Until the next beat, or so many seconds; None waits for a beat alone."""
        event = self._event
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            pass


class Holdings:
    """Leased units on their way to results. Disk first: nothing is done with an answer before it is there."""

    def __init__(
        self,
        queue: Queue,
        spool: Spool,
        *,
        clock: Callable[[], float],
        disk_backoff: Backoff,
        log: structlog.typing.FilteringBoundLogger,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.queue = queue
        self.spool = spool
        self.clock = clock
        self.changed = Pulse()
        self.leases: dict[Ref, Lease] = {}
        self.results: dict[Ref, work_pb2.Result] = {}
        self.pictures: dict[Ref, bytes] = {}
        self.to_release: dict[Ref, str] = {}
        self._disk_backoff = disk_backoff
        self._log = log
        self._sleep = sleep

    async def restore(self, coordinator_key: bytes) -> None:
        """Takes up what an earlier run left in the spool. Raises OSError where the disk fails."""
        contents = await asyncio.to_thread(self.spool.load, coordinator_key)
        now = self.clock()
        for result in contents.results:
            ref = Ref(result.campaign_id, result.unit_id)
            self.results[ref] = result
            self.queue.finish(ref, result.ByteSize(), now)
        for lease, left_s in contents.leases:
            self.leases[lease.ref] = lease
            self.queue.restore(lease.ref, now, left_s)
        for path in contents.damaged:
            self._log.warning("damaged spool file moved aside", file=str(path))
        if contents.results or contents.leases:
            self._log.info("continuing", answers=len(contents.results), units=len(contents.leases))

    async def take(self, leases: Sequence[Lease], lease_s: float) -> int:
        """Takes leased units, on disk first; gives how many were new. Where the disk fails they go back."""
        leases = [lease for lease in leases if lease.ref not in self.to_release]
        new = [lease for lease in leases if lease.ref not in self.queue]
        try:
            if new:
                await asyncio.to_thread(self.spool.hold, new, lease_s)
        except OSError as error:
            self._log.error("the disk does not take leased units", error=str(error))
            self.to_release.update({lease.ref: "disk_failed" for lease in new})
            return 0
        now = self.clock()
        for lease in leases:
            if self.queue.hold(lease.ref, now, lease_s):
                self.leases[lease.ref] = lease
        self.changed.beat()
        return len(new)

    async def finish(self, result: work_pb2.Result) -> None:
        """Keeps a result: on disk, however long the disk refuses, and then in the queue to be returned."""
        ref = Ref(result.campaign_id, result.unit_id)
        while True:
            try:
                await asyncio.to_thread(self.spool.finish, result)
                break
            except OSError as error:
                delay = self._disk_backoff.failed()
                self._log.error(
                    "waiting: the disk does not take an answer", error=str(error), seconds=round(delay)
                )
                await self._sleep(delay)
        self._disk_backoff.succeeded()
        self.results[ref] = result
        self.queue.finish(ref, result.ByteSize(), self.clock())
        self._forget([ref])
        self.changed.beat()

    async def drop(self, refs: Iterable[Ref]) -> list[Ref]:
        """Forgets units that are no longer this host's; gives those that were held unfinished."""
        gone = self.queue.drop(refs)
        self._forget(gone)
        await asyncio.to_thread(self.spool.drop, gone)
        self.changed.beat()
        return gone

    async def give_back(self, refs: Iterable[Ref], reason: str) -> list[Ref]:
        """Forgets units and notes them for release; gives those that were held unfinished."""
        gone = await self.drop(refs)
        self.to_release.update(dict.fromkeys(gone, reason))
        self.changed.beat()
        return gone

    async def settle(self, refs: Sequence[Ref]) -> None:
        """Forgets results that the coordinator has answered finally, and images that nothing needs soon."""
        await asyncio.to_thread(self.spool.acknowledged, refs)
        self.queue.settle(refs)
        for ref in refs:
            self.results.pop(ref, None)
        wanted = {lease.unit.image_hash for lease in self.leases.values()}
        await asyncio.to_thread(self.spool.prune_images, wanted)
        self.changed.beat()

    async def set_aside(self, ref: Ref) -> None:
        """Moves a result that the coordinator cannot read out of the way, and says where."""
        path = await asyncio.to_thread(self.spool.set_aside, ref)
        self._log.error("the coordinator cannot read an answer; moved aside", unit=str(ref), file=str(path))
        self.queue.settle([ref])
        self.results.pop(ref, None)

    def _forget(self, refs: Iterable[Ref]) -> None:
        for ref in refs:
            self.leases.pop(ref, None)
            self.pictures.pop(ref, None)
