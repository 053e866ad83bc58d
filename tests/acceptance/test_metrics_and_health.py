"""Metrics and health of real processes: what they say while they are killed, cut off and told to stop."""

import asyncio
import contextlib
import json
import re
import signal
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx2
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.street import Street, free_port
from support.waiting import wait_until

from chorus.processes import Child, python
from coordinator.keys import keys_of
from coordinator.settings import Settings

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def street(open_folder: Path) -> Iterator[Street]:
    """A coordinator with two work servers and a campaign of eight units, two of them captioned twice."""
    folder = Path(tempfile.mkdtemp(dir=open_folder))
    folder.chmod(0o711)
    with Street(folder, "--workers", "2") as running:
        running.campaign(6)
        for number, name in enumerate(("ada", "ben")):
            home = running.join(name, running.invite("--user", name))
            running.volunteer(home, running.reader(name, number), name, "--exit-when-idle", "2")
        wait_until(lambda: running.status()["open"] == 0, 90, pause_s=0.3)
        yield running


def _get(street: Street, path: str) -> httpx2.Response:
    return httpx2.get(f"http://127.0.0.1:{street.metrics_port}{path}", timeout=10)


def _figures(street: Street) -> dict[str, float]:
    """Every sample of the page, by name and labels."""
    page = _get(street, "/metrics").text
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in page.splitlines()
        if not line.startswith("#")
    }


def _sum(figures: dict[str, float], pattern: str) -> float:
    return sum(value for name, value in figures.items() if re.fullmatch(pattern, name))


def test_the_page_says_what_was_done(street: Street) -> None:
    figures, status = _figures(street), street.status()
    assert (
        _sum(figures, r'chorus_verdicts_total\{campaign="scenes",.*verdict="accepted"\}')
        == status["accepted"]
    )
    assert _sum(figures, r'chorus_verdicts_total\{.*verdict="exhausted"\}') == status["exhausted"]
    assert figures['chorus_results_total{receipt="counted"}'] == status["results"] >= 12
    assert _sum(figures, r"chorus_units_leased_total\{.*\}") >= 12
    assert figures['chorus_call_seconds_count{call="Work"}'] > 0
    assert figures['chorus_transaction_seconds_count{name="return"}'] > 0
    assert figures['chorus_group_commit_calls_count{of="return"}'] > 0
    assert figures['chorus_image_fetches_total{outcome="sent"}'] >= 6
    assert figures["chorus_image_bytes_total"] > 10_000
    assert figures['chorus_pool_size{pid="work-2"}'] == 8
    assert figures['chorus_upkeep_rows_total{job="book"}'] == 6


def test_counters_never_fall_when_a_process_is_killed(street: Street) -> None:
    before = _figures(street)
    victims = [*street.servers("work"), *street.servers("upkeep"), *street.servers("images")]
    for victim in victims:
        victim.kill()
    roles = ("work", "work", "upkeep", "images")

    def back() -> bool:
        living = sum(len(street.servers(role)) for role in set(roles))
        try:
            return living == len(roles) and _get(street, "/readyz").status_code == 200
        except httpx2.TransportError:
            return False

    wait_until(back, 60)
    after = _figures(street)
    counters = [
        name for name in before if re.match(r"chorus_(?!table|pool_in_use)\w+(_total|_count|_sum)\b", name)
    ]
    assert len(counters) > 40
    assert {name: (before[name], after[name]) for name in counters if after[name] < before[name]} == {}
    assert {line for line in after if line.startswith("chorus_pool_size")} == {
        line for line in before if line.startswith("chorus_pool_size")
    }


def _credentials(data: Path) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        ssl.DER_cert_to_PEM_cert(keys_of(Settings(data=data)).ca_der).encode()
    )


def _grpc_status(street: Street) -> int:
    with grpc.secure_channel(f"127.0.0.1:{street.port}", _credentials(street.data)) as channel:
        request = health_pb2.HealthCheckRequest(service="chorus.v1.Coordinator")
        return health_pb2_grpc.HealthStub(channel).Check(request, timeout=5).status


def test_without_its_database_a_coordinator_is_not_ready_and_then_ready_again(street: Street) -> None:
    assert (_get(street, "/readyz").text, _grpc_status(street)) == ("ready\n", SERVING)
    supervisor = psutil.Process(street.process.pid)
    supervisor.send_signal(signal.SIGSTOP)  # so that it does not start the database again at once
    try:
        for process in street.process.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name() == "postgres":
                    process.kill()
        wait_until(lambda: _get(street, "/readyz").status_code == 503, 2)
        wait_until(lambda: _grpc_status(street) == NOT_SERVING, 2)
        assert "database_unreachable" in _get(street, "/readyz").text
        assert _get(street, "/healthz").status_code == 200
        assert _get(street, "/metrics").status_code == 200
    finally:
        supervisor.send_signal(signal.SIGCONT)
    wait_until(lambda: _get(street, "/readyz").status_code == 200, 60)
    wait_until(lambda: _grpc_status(street) == SERVING, 10)


def test_a_work_server_that_hangs_is_seen(street: Street) -> None:
    wait_until(lambda: _get(street, "/readyz").status_code == 200, 30)
    hanging = street.servers("work")[0]
    hanging.suspend()
    try:
        wait_until(lambda: "picture_stale: shelves of work-" in _get(street, "/readyz").text, 10)
    finally:
        hanging.resume()
    wait_until(lambda: _get(street, "/readyz").status_code == 200, 10)


@dataclass(frozen=True)
class Servers:
    """One process of each role, without a supervisor, that drain for a second."""

    children: dict[str, Child]
    ports: dict[str, str]

    def at(self, port: str) -> str:
        return f"127.0.0.1:{self.ports[f'CHORUS_{port}']}"


@pytest.fixture
async def servers(data_folder: Path, database_url: str) -> AsyncIterator[Servers]:
    ports = {f"CHORUS_{name}": str(free_port()) for name in ("PORT", "IMAGES_PORT", "METRICS_PORT")}
    wanted = {
        "CHORUS_DATA": str(data_folder),
        "CHORUS_DATABASE_URL": database_url,
        "CHORUS_DRAIN_S": "1",
        **ports,
    }
    keys_of(Settings(data=data_folder))
    children = {
        role: Child(role, python("-m", "chorus.serve", role), wanted, data_folder / f"{role}.log")
        for role in ("work", "images", "upkeep")
    }
    for child in children.values():
        await child.start()
    yield Servers(children, ports)
    for child in children.values():
        await child.stop()


async def _ready(client: httpx2.AsyncClient, url: str) -> tuple[int, str]:
    """Status and text of /readyz; 0 where nobody listens any more."""
    try:
        response = await client.get(f"{url}/readyz")
    except httpx2.TransportError:
        return 0, ""
    return response.status_code, response.text


@pytest.mark.parametrize(
    ("role", "scheme", "port"), [("images", "https", "IMAGES_PORT"), ("upkeep", "http", "METRICS_PORT")]
)
async def test_a_web_server_says_not_ready_before_it_closes_its_port(
    servers: Servers, data_folder: Path, role: str, scheme: str, port: str
) -> None:
    child = servers.children[role]
    url = f"{scheme}://{servers.at(port)}"
    context = ssl.create_default_context(cadata=keys_of(Settings(data=data_folder)).ca_der)
    async with httpx2.AsyncClient(verify=context, trust_env=False, timeout=5) as client:
        assert await _ready(client, url) == (200, "ready\n")
        stopping = asyncio.create_task(child.stop())
        seen = []
        while not seen or seen[-1][0]:
            seen.append(await _ready(client, url))
        await stopping
    states = list(dict.fromkeys(seen))
    assert [state for state, _ in states if state != 200] == [503, 0]
    assert [text for state, text in states if state == 503] == ["stopping\n"]


async def test_a_work_server_tells_watchers_before_it_closes_its_port(
    servers: Servers, data_folder: Path
) -> None:
    child = servers.children["work"]
    target = servers.at("PORT")
    async with grpc.aio.secure_channel(target, _credentials(data_folder)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        stopping = asyncio.create_task(child.stop())
        assert (await watch.read()).status == NOT_SERVING
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING  # it still listens
        await stopping


async def test_an_undecodable_message_is_one_line_in_the_log(servers: Servers, data_folder: Path) -> None:
    child = servers.children["work"]
    target = servers.at("PORT")
    before = child.log_file.read_text().count("\n")
    async with grpc.aio.secure_channel(target, _credentials(data_folder)) as channel:
        work = channel.unary_unary("/chorus.v1.Coordinator/Work", lambda raw: raw, lambda raw: raw)
        with pytest.raises(grpc.aio.AioRpcError):
            await work(b"\xff\xff\xff\xff")
    lines = child.log_file.read_text().splitlines()[before:]
    assert len(lines) == 1
    assert json.loads(lines[0])["level"] == "info"
