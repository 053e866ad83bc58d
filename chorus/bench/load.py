"""One load process of the bench: many hosts that return and lease over TLS as fast as they are served.

`python -m chorus.bench.load PLAN.json` prints one line of JSON when all sessions are open, starts at a
line on its standard input, and prints its figures as a last line.
"""

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import BaseModel

from captions.answer import encode_answer
from chorus.bench.captions import caption
from protos import signing, work_pb2, work_pb2_grpc
from protos.invite import PRIVATE_SERVER_NAME

APART_EVERY = 8  # calls
EMPTY_S = 0.02


@dataclass(slots=True)
class Figures:
    """What one process saw."""

    seconds: float = 0.0
    calls: int = 0
    results: int = 0
    lease_s: list[float] = field(default_factory=list)
    return_s: list[float] = field(default_factory=list)
    refused: int = 0


@dataclass(frozen=True, slots=True)
class LoadHost:
    """A host of the bench and its open session."""

    host_id: int
    key: Ed25519PrivateKey
    stub: work_pb2_grpc.CoordinatorStub
    metadata: tuple[tuple[str, bytes], ...]
    perspectives: list[str]


async def open_host(
    stub: work_pb2_grpc.CoordinatorStub, host_id: int, seed: str, perspectives: list[str]
) -> LoadHost:
    """Opens a session by proof of the host's key."""
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))
    challenge = (await stub.Challenge(work_pb2.ChallengeRequest())).challenge
    opened = await stub.OpenSession(
        work_pb2.OpenSessionRequest(
            host_id=host_id,
            challenge=challenge,
            signature=key.sign(signing.session(challenge, host_id)),
            protocol=1,
        )
    )
    return LoadHost(host_id, key, stub, (("chorus-session-bin", opened.session_token),), perspectives)


async def work(host: LoadHost, batch: int, end: "End", figures: Figures) -> None:
    """Return and lease in one call, again and again; now and then apart, to see how long each takes."""
    results: list[work_pb2.Result] = []
    turn = host.host_id
    while not end.reached(figures):
        turn += 1
        if results and turn % APART_EVERY == 0:
            await _call(host, results, 0, figures)
            results = []
        response = await _call(host, results, batch, figures)
        results = [_answer(unit, host.host_id) for unit in response.lease.units]
        if not results:
            await asyncio.sleep(EMPTY_S)


async def _call(
    host: LoadHost, results: list[work_pb2.Result], want: int, figures: Figures
) -> work_pb2.WorkResponse:
    request = work_pb2.WorkRequest(results=results, want=want, tier="80g", perspectives=host.perspectives)
    if results:
        hashes = [signing.result(result) for result in results]
        request.signature = host.key.sign(signing.result_batch(host.host_id, hashes))
    began = time.monotonic()
    response: work_pb2.WorkResponse = await host.stub.Work(request, metadata=host.metadata)
    took = time.monotonic() - began
    figures.calls += 1
    if not results:
        figures.lease_s.append(took)
    elif not want:
        figures.return_s.append(took)
    stored = sum(ack.status == work_pb2.STORED for ack in response.acks)
    figures.results += stored
    figures.refused += len(response.acks) - stored
    return response


@dataclass(frozen=True, slots=True)
class End:
    """A moment (monotonic seconds), or a number of results, 0 for any."""

    at: float
    results: int

    def reached(self, figures: Figures) -> bool:
        return time.monotonic() >= self.at or 0 < self.results <= figures.results


def _answer(unit: work_pb2.Unit, host_id: int) -> work_pb2.Result:
    body = encode_answer({"caption": caption(unit.unit_id, host_id)})
    answer = work_pb2.Answer(body=body, model="bench", endpoint="bench", seed=1, elapsed_ms=1000)
    return work_pb2.Result(campaign_id=unit.campaign_id, unit_id=unit.unit_id, answer=answer)


class Plan(BaseModel):
    """What one load process does: `ca` is DER in hex; hosts are (id, key in hex, perspectives)."""

    address: str
    ca: str
    hosts: list[tuple[int, str, list[str]]]
    batch: int
    seconds: float
    results: int = 0


async def main(plan: Plan) -> None:
    """Runs a plan."""
    authority = x509.load_der_x509_certificate(bytes.fromhex(plan.ca))
    credentials = grpc.ssl_channel_credentials(authority.public_bytes(Encoding.PEM))
    channels = []
    for number in range(min(8, len(plan.hosts))):
        options = (("grpc.ssl_target_name_override", PRIVATE_SERVER_NAME), ("bench.channel", number))
        channels.append(grpc.aio.secure_channel(plan.address, credentials, options))
    stubs = [work_pb2_grpc.CoordinatorStub(channel) for channel in channels]  # type: ignore[no-untyped-call]  # generated
    opened = [await open_host(stubs[number % len(stubs)], *host) for number, host in enumerate(plan.hosts)]
    print(json.dumps({"ready": len(opened)}), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    figures = Figures()
    end = End(time.monotonic() + plan.seconds, plan.results)
    began = time.monotonic()
    await asyncio.gather(*(work(host, plan.batch, end, figures) for host in opened))
    figures.seconds = time.monotonic() - began
    for channel in channels:
        await channel.close()
    shown = {name: getattr(figures, name) for name in Figures.__slots__}
    print(json.dumps(shown), flush=True)


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(Plan.model_validate_json(Path(sys.argv[1]).read_bytes())))
