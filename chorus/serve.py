"""One server process of a coordinator: `python -m chorus.serve work|images|upkeep`.

Settings come from CHORUS_… variables. It prints one line when it serves, and ends on SIGTERM, on
SIGINT, and when its standard input closes, which is how it knows that its supervisor is gone.
"""

import asyncio
import contextlib
import gc
import json
import resource
import signal
import sys
from typing import TYPE_CHECKING, Literal, assert_never, get_args

if TYPE_CHECKING:
    from coordinator.settings import Settings

Role = Literal["work", "images", "upkeep"]


async def serve(role: Role, settings: "Settings") -> None:
    """Serves until told to stop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for wanted in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(wanted, stop.set)
    watched = await _end_with(sys.stdin, stop)
    async with contextlib.AsyncExitStack() as stack:
        if settings.database_url is None:
            raise SystemExit("CHORUS_DATABASE_URL is not set.")
        match role:  # each process loads what it needs alone
            case "work":
                from coordinator.server import work_server

                await stack.enter_async_context(work_server(settings, settings.database_url))
            case "images":
                from coordinator.image_server import image_server

                await stack.enter_async_context(image_server(settings))
            case "upkeep":
                from coordinator.monitor import monitor
                from coordinator.upkeep import upkeep

                await stack.enter_async_context(upkeep(settings, settings.database_url))
                await stack.enter_async_context(monitor(settings, settings.database_url))
            case _:
                assert_never(role)
        print(json.dumps({"ready": role}), flush=True)
        await stop.wait()
    watched.close()


async def _end_with(stream: object, stop: asyncio.Event) -> asyncio.ReadTransport:
    """Sets `stop` when the stream ends."""

    class UntilEnd(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (any end will do)
            stop.set()

    transport, _ = await asyncio.get_running_loop().connect_read_pipe(UntilEnd, stream)
    return transport


def _allow_connections() -> None:
    """Lets this process hold as many connections as the system allows; often only a quarter of them is on."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError, OSError):  # some systems name a limit that cannot be had
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> None:
    """Reads the role from the command line and serves."""
    import uvloop

    if len(sys.argv) != 2 or sys.argv[1] not in get_args(Role):
        raise SystemExit(f"usage: python -m chorus.serve {'|'.join(get_args(Role))}")
    from chorus import metric_files
    from coordinator import logs
    from coordinator.settings import Settings

    settings = Settings()
    logs.configure(settings.log_level)
    metric_files.share(settings.metrics_folder, sys.argv[1])  # before anything that measures is imported
    # Answers in memory are many small objects: looking through them for cycles took a seventh of the time.
    gc.freeze()
    _allow_connections()
    gc.set_threshold(100_000, 50, 100)
    uvloop.run(serve(sys.argv[1], settings))  # type: ignore[arg-type]  # checked above


if __name__ == "__main__":
    main()
