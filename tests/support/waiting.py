"""Awaiting a condition, with a limit."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], timeout_s: float = 30.0, pause_s: float = 0.05) -> None:
    """Returns as soon as the condition holds; fails where it does not within the time."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s} s: {condition}")
        time.sleep(pause_s)
