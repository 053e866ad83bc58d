"""Wires one image server: HTTPS by uvicorn."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import uvicorn

from coordinator.images import ImageUrls, image_app
from coordinator.keys import keys_of
from coordinator.objects import Objects
from coordinator.settings import Settings


@contextlib.asynccontextmanager
async def image_server(settings: Settings) -> AsyncIterator[None]:
    """Serves images while the context lasts."""
    keys = keys_of(settings)
    app = image_app(ImageUrls(settings.images_base, keys), Objects(settings.objects_folder))
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.images_port,
        ssl_certfile=keys.certificate,
        ssl_keyfile=keys.private_key,
        log_config=None,
        access_log=False,
        lifespan="off",
    )
    server = _ImageServer(config)
    serving = asyncio.create_task(server.serve())
    await server.listening.wait()
    try:
        yield
    finally:
        server.should_exit = True
        await serving


class _ImageServer(uvicorn.Server):
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
