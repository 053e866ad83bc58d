"""Hosts that give nothing up: a load process that sends each result until it is acknowledged.

`python stubborn.py PLAN.json` works until it is killed, or its parent is gone. Each host writes into its
journal what it holds and what was acknowledged before it makes its next call; started again it goes on there.
"""

import asyncio
import os
import random
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import BaseModel

from captions.answer import encode_answer
from chorus.bench.captions import caption
from protos import signing, work_pb2, work_pb2_grpc
from protos.invite import PRIVATE_SERVER_NAME

HELD = 0  # no acknowledgement has this status
NAMED_AT_ONCE = 4096
CALL_S = 30.0
LONGEST_PAUSE_S = 2.0


class Plan(BaseModel):
    """What one load process does: `ca` is DER in hex; hosts are (id, key in hex)."""

    address: str
    ca: str
    journals: Path
    hosts: list[tuple[int, str]]


class Record(NamedTuple):
    """A line of a journal: the host holds this result, or it was acknowledged with this status."""

    status: int
    campaign_id: int
    unit_id: int
    seed: int
    hash: bytes


RECORD = struct.Struct(">BIQI32s")


def journal(folder: Path, host_id: int) -> Path:
    """A host's journal."""
    return folder / f"host-{host_id}"


def records(path: Path) -> Iterator[Record]:
    """What a journal says; what kill -9 cut short is passed over."""
    written = path.read_bytes() if path.exists() else b""
    whole = written[: len(written) - len(written) % RECORD.size]
    return map(Record._make, RECORD.iter_unpack(whole))


def unacknowledged(path: Path) -> dict[bytes, Record]:
    """The results of a journal that were never acknowledged, by hash."""
    held: dict[bytes, Record] = {}
    for record in records(path):
        if record.status == HELD:
            held[record.hash] = record
        else:
            held.pop(record.hash, None)
    return held


class Stubborn:
    """One host."""

    def __init__(self, host_id: int, key: Ed25519PrivateKey, stub: Any, journals: Path) -> None:
        self._id = host_id
        self._key = key
        self._stub = stub
        self._random = random.Random()
        self._metadata: tuple[tuple[str, bytes], ...] = ()
        path = journal(journals, host_id)
        self._held = {
            record.hash: _answer(record.campaign_id, record.unit_id, host_id, record.seed)
            for record in unacknowledged(path).values()
        }
        self._journal = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(self._journal, os.fstat(self._journal).st_size // RECORD.size * RECORD.size)
        self._may_have_forgotten = True

    async def work(self) -> None:
        """Returns and leases, for ever."""
        failures = 0
        while True:
            try:
                if not self._metadata:
                    await self._open_session()
                elif self._may_have_forgotten:
                    await self._resume()
                else:
                    await self._exchange()
                failures = 0
            except grpc.aio.AioRpcError as error:
                self._weigh(error)
                failures += 1
                await asyncio.sleep(self._random.uniform(0, min(LONGEST_PAUSE_S, 0.05 * 2**failures)))

    def _weigh(self, error: grpc.aio.AioRpcError) -> None:
        """Nothing but an ended session and a coordinator that is away is told to honest hosts."""
        told = dict(error.trailing_metadata() or ()).get("chorus-error")
        if told in {"SESSION_INVALID", "CHALLENGE_INVALID"}:
            self._metadata = ()
        elif told != "UNAVAILABLE" and error.code() not in _AWAY:
            raise error
        self._may_have_forgotten = True

    async def _open_session(self) -> None:
        challenge = (await self._stub.Challenge(work_pb2.ChallengeRequest(), timeout=CALL_S)).challenge
        request = work_pb2.OpenSessionRequest(
            host_id=self._id,
            challenge=challenge,
            signature=self._key.sign(signing.session(challenge, self._id)),
            protocol=1,
        )
        opened = await self._stub.OpenSession(request, timeout=CALL_S)
        self._metadata = (("chorus-session-bin", opened.session_token),)

    async def _resume(self) -> None:
        """Takes again what an answer that never came had leased."""
        named = [
            work_pb2.UnitRef(campaign_id=result.campaign_id, unit_id=result.unit_id)
            for result in list(self._held.values())[:NAMED_AT_ONCE]
        ]
        request = work_pb2.ResumeRequest(held=named)
        response = await self._stub.Resume(request, metadata=self._metadata, timeout=CALL_S)
        for batch in response.leases:
            self._answer(batch)
        self._may_have_forgotten = response.more

    async def _exchange(self) -> None:
        batch = self._random.choice((64, 96, 128))
        sent = dict(list(self._held.items())[:batch])
        request = work_pb2.WorkRequest(results=sent.values(), want=batch, tier="80g", wait_ms=500)
        if sent:
            request.signature = self._key.sign(signing.result_batch(self._id, list(sent)))
        response = await self._stub.Work(request, metadata=self._metadata, timeout=CALL_S)
        acknowledged = zip(sent.items(), response.acks, strict=True)
        self._write([_record(ack.status, digest, result) for (digest, result), ack in acknowledged])
        for digest in sent:
            del self._held[digest]
        self._answer(response.lease)
        if not self._held:
            await asyncio.sleep(min(LONGEST_PAUSE_S, response.retry_ms / 1000) * self._random.uniform(0.5, 1))

    def _answer(self, batch: work_pb2.LeaseBatch) -> None:
        new = {}
        answered = {result.unit_id for result in self._held.values()}
        for unit in batch.units:
            if unit.unit_id in answered:  # its lease lapsed, and here it is again
                continue
            # Another answer each time, so that one which was lost cannot come again.
            result = _answer(unit.campaign_id, unit.unit_id, self._id, self._random.getrandbits(32))
            new[signing.result(result)] = result
        self._write([_record(HELD, digest, result) for digest, result in new.items()])
        self._held.update(new)

    def _write(self, lines: Sequence[bytes]) -> None:
        if lines:
            os.write(self._journal, b"".join(lines))


_AWAY = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,  # a process that was killed within its answer
    grpc.StatusCode.INTERNAL,  # as above
}


def _answer(campaign_id: int, unit_id: int, host_id: int, seed: int) -> work_pb2.Result:
    body = encode_answer({"caption": caption(unit_id, host_id)})
    answer = work_pb2.Answer(body=body, model="honest", endpoint="test", seed=seed, elapsed_ms=1000)
    return work_pb2.Result(campaign_id=campaign_id, unit_id=unit_id, answer=answer)


def _record(status: int, digest: bytes, result: work_pb2.Result) -> bytes:
    return RECORD.pack(status, result.campaign_id, result.unit_id, result.answer.seed, digest)


async def main(plan: Plan) -> None:
    """Lets all hosts of a plan work, each over a connection of its own."""
    authority = x509.load_der_x509_certificate(bytes.fromhex(plan.ca)).public_bytes(Encoding.PEM)
    credentials = grpc.ssl_channel_credentials(authority)
    options = (
        ("grpc.ssl_target_name_override", PRIVATE_SERVER_NAME),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_reconnect_backoff_ms", 1000),
    )
    working = [asyncio.create_task(_leave_with(os.getppid()))]
    for host_id, seed in plan.hosts:
        key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))
        channel = grpc.aio.secure_channel(plan.address, credentials, options)
        host = Stubborn(host_id, key, work_pb2_grpc.CoordinatorStub(channel), plan.journals)
        working.append(asyncio.create_task(host.work()))
    await asyncio.gather(*working)


async def _leave_with(parent: int) -> None:
    while os.getppid() == parent:  # noqa: ASYNC110 (nobody tells)
        await asyncio.sleep(1)
    raise SystemExit


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(Plan.model_validate_json(Path(sys.argv[1]).read_bytes())))
