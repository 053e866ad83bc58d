"""Fixtures for the acceptance tests."""

import os
import random
import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def plain() -> tuple[str, ...]:
    """What to run a command under, so that it runs as the user `nobody`.

    Where our Python lies under root's home, the user may read everything, though write nothing.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root")
    # As with all that a plain user starts: its children have to find our Python too.
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
    nobody = ("setpriv", "--reuid=nobody", "--regid=65534", "--clear-groups")
    reading = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search")
    for under in ((*nobody, "--inh-caps=-all"), (*nobody, *reading)):
        tried = subprocess.run([*under, sys.executable, "-c", child], check=False, capture_output=True)
        if tried.returncode == 0:
            return under
    pytest.skip("needs root that may give a plain user our Python to read")


@pytest.fixture
def seed() -> int:
    """Drawn anew each time and printed; CHORUS_TEST_SEED repeats one."""
    drawn = int(os.environ.get("CHORUS_TEST_SEED", random.SystemRandom().randrange(10**6)))
    print(f"seed {drawn}")
    return drawn
