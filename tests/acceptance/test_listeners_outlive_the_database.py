"""Word of new work goes on after PostgreSQL was killed: every work server listens again, on its own."""

import contextlib
from pathlib import Path

import psycopg
from support.street import Street
from support.waiting import wait_until


def _listeners(street: Street) -> set[int]:
    listening = "SELECT pid FROM pg_stat_activity WHERE application_name = 'chorus listener'"
    with contextlib.suppress(psycopg.OperationalError, AssertionError):  # away, or not yet back
        return {row[0] for row in street.rows(listening)}
    return set()


def test_every_work_server_listens_again_after_the_database_was_killed(data_folder: Path) -> None:
    with Street(data_folder, "--workers", "2") as street:
        wait_until(lambda: len(_listeners(street)) == 2)
        before = _listeners(street)
        street.postgres(backends=False)[0].kill()
        wait_until(lambda: len(_listeners(street) - before) == 2, timeout_s=60)
