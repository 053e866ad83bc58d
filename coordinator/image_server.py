"""Wires one image server: HTTPS."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from coordinator.health import Readiness
from coordinator.images import ImageUrls, image_app
from coordinator.keys import keys_of
from coordinator.objects import Objects
from coordinator.settings import Settings
from coordinator.web_server import web_server


@contextlib.asynccontextmanager
async def image_server(settings: Settings) -> AsyncIterator[None]:
    """Serves images while the context lasts."""
    keys, readiness = keys_of(settings), Readiness()
    app = image_app(ImageUrls(settings.images_base, keys), Objects(settings.objects_folder), readiness.faults)
    async with web_server(
        app, settings.host, settings.images_port, certificate=keys.certificate, private_key=keys.private_key
    ):
        try:
            yield
        finally:
            readiness.drain()
            await asyncio.sleep(settings.drain_s)
