"""The wall clock; everything below the servers is handed a clock instead."""

from datetime import UTC, datetime


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)
