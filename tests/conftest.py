"""Fixtures for every suite: one PostgreSQL a session, one cloned database a test; in CI nothing may skip."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import psycopg
import pytest
from support.engine import Engine
from support.waiting import wait_until

from store.database import Database
from store.embedded import EmbeddedPostgres
from store.migrate import upgrade

ALLOWED_SKIPS = ("needs root", "needs a plain user")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:  # noqa: ARG001 (pytest's signature)
    """In CI a test that skips is an error: CI has all that a test may need."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(allowed in reason for allowed in ALLOWED_SKIPS):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI: {reason}"


@pytest.fixture(scope="session")
def open_folder() -> Iterator[Path]:
    """A folder that PostgreSQL's user can reach too; pytest's own are closed to it where we are root."""
    folder = Path(tempfile.mkdtemp(prefix="chorus-tests-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def data_folder(open_folder: Path) -> Path:
    """A fresh folder for one test's coordinator."""
    folder = Path(tempfile.mkdtemp(dir=open_folder))
    folder.chmod(0o711)
    return folder


@pytest.fixture(scope="session")
def postgres(open_folder: Path) -> Iterator[str]:
    """URL of a server whose database `template_chorus` has the schema and nothing else."""
    with EmbeddedPostgres(open_folder / "postgres") as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE template_chorus")
        upgrade(in_database(server.url, "template_chorus"))
        yield server.url


def in_database(url: str, name: str) -> str:
    """The same server's URL, for another database."""
    head, _, query = url.partition("?")
    return f"{head.rsplit('/', 1)[0]}/{name}?{query}"


_numbers = iter(range(1_000_000))


@pytest.fixture
def database_url(postgres: str) -> Iterator[str]:
    """A database of the test's own, cloned from the template."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template_chorus STRATEGY file_copy")
        yield in_database(postgres, name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def captioner() -> Iterator[str]:
    """Base URL of the small real captioner in ../shared, started for this session."""
    script = Path(__file__).parents[2] / "shared" / "tools" / "captioner" / "run"
    if not script.is_file():
        pytest.skip("needs ../shared/tools/captioner")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "PORT": str(port)}
    process = subprocess.Popen(
        [script], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: _answers(f"http://127.0.0.1:{port}/health"), timeout_s=300)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=2).status_code == 200
    except httpx2.HTTPError:
        return False


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    """The test's database, connected."""
    database = Database.connect(database_url, pool_size=12)
    yield database
    await database.close()


@pytest.fixture
def engine(db: Database) -> Engine:
    """A work engine with a clock that the test moves."""
    return Engine(db)
