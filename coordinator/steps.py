"""Steps that servers take again and again beside their calls."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger("steps")


async def again(every_s: float, name: str, step: Callable[[], Awaitable[object]]) -> None:
    """Runs a step every so many seconds, until cancelled."""
    while True:
        await asyncio.sleep(every_s)
        await guarded(name, step)


async def guarded(name: str, step: Callable[[], Awaitable[object]]) -> None:
    """Runs a step; one that fails is told to the log, and its caller goes on in its rhythm."""
    try:
        await step()
    except Exception as error:  # noqa: BLE001 (one failed step must not end a server)
        log.warning("step_failed", step=name, error=str(error).splitlines()[0] if str(error) else repr(error))
