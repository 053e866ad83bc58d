"""Runs a web application by uvicorn inside a server process."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp


@contextlib.asynccontextmanager
async def web_server(
    app: ASGIApp, host: str, port: int, *, certificate: Path | None = None, private_key: Path | None = None
) -> AsyncIterator[None]:
    """Serves `app` while the context lasts; over TLS where it is given a certificate and its key."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        lifespan="off",
        ssl_certfile=certificate,
        ssl_keyfile=private_key,
    )
    server = _WebServer(config)
    serving = asyncio.create_task(server.serve())
    await server.listening.wait()
    try:
        yield
    finally:
        server.should_exit = True
        await serving


class _WebServer(uvicorn.Server):
    """uvicorn that leaves the signals to its process and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()
