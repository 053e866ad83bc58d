"""One load process of `chorus bench idle`: hosts that wait for work, each on a TLS connection of its own.

`python -m chorus.bench.pollers PLAN.json` says that it is there. At a line on its standard input it opens its
sessions and says how many wait; at each further line it tells the units received so far, with their times.
"""

import asyncio
import json
import random
import resource
import sys
import time
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import BaseModel

from chorus.bench.load import LoadHost, open_host
from protos import work_pb2, work_pb2_grpc
from protos.invite import PRIVATE_SERVER_NAME

OPENED_AT_ONCE = 16

Received = list[tuple[int, float]]
"""Unit ids, and when they came by the machine's monotonic clock (s)."""


class Plan(BaseModel):
    """Where to, as which hosts (id, key, perspectives), and how long a call may wait."""

    address: str
    ca: str
    hosts: list[tuple[int, str, list[str]]]
    wait_ms: int


async def poll(host: LoadHost, wait_ms: int, received: Received) -> None:
    """Waits for work again and again; the first wait has a random length, so that later ones are spread."""
    wait_s = random.uniform(0.2, 1.0) * wait_ms / 1000  # noqa: S311 (spreads load)
    while True:
        request = work_pb2.WorkRequest(want=1, tier="80g", wait_ms=int(1000 * wait_s))
        response = await host.stub.Work(request, metadata=host.metadata)
        received.extend((unit.unit_id, time.monotonic()) for unit in response.lease.units)
        wait_s = wait_ms / 1000


async def _open(plan: Plan, received: Received) -> list[asyncio.Task[None]]:
    authority = x509.load_der_x509_certificate(bytes.fromhex(plan.ca)).public_bytes(Encoding.PEM)
    credentials = grpc.ssl_channel_credentials(authority)
    options = (("grpc.ssl_target_name_override", PRIVATE_SERVER_NAME), ("grpc.use_local_subchannel_pool", 1))
    free = asyncio.Semaphore(OPENED_AT_ONCE)

    async def one(host_id: int, seed: str, perspectives: list[str]) -> asyncio.Task[None]:
        async with free:
            channel = grpc.aio.secure_channel(plan.address, credentials, options)
            stub = work_pb2_grpc.CoordinatorStub(channel)  # type: ignore[no-untyped-call]  # generated
            host = await open_host(stub, host_id, seed, perspectives)
            return asyncio.create_task(poll(host, plan.wait_ms, received))

    return list(await asyncio.gather(*(one(*host) for host in plan.hosts)))


async def main(plan: Plan) -> None:
    """Runs a plan until the end of its standard input."""
    received: Received = []
    print(json.dumps({"ready": 0}), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    polling = await _open(plan, received)
    print(json.dumps({"waiting": len(polling)}), flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        ended = [task for task in polling if task.done()]
        if ended:
            ended[0].result()
        print(json.dumps({"received": received}), flush=True)


if __name__ == "__main__":
    import uvloop

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    uvloop.run(main(Plan.model_validate_json(Path(sys.argv[1]).read_bytes())))
