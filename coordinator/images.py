"""Images by hash over HTTPS, to those who hold a short-lived URL."""

import base64
import binascii
import secrets
import time
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from coordinator import metrics
from coordinator.health import Faults, health_routes
from coordinator.keys import Keys
from coordinator.objects import Objects

LIFETIME_S = 3600
ROUNDING_S = 600  # URLs of the same ten minutes are equal, so that caches help


class ImageUrls:
    """Makes and checks the URLs; every coordinator with the same keys agrees on them."""

    def __init__(self, base: str, keys: Keys, now: Callable[[], float] = time.time) -> None:
        self._base = base.rstrip("/")
        self._keys = keys
        self._now = now

    def url(self, digest: bytes) -> str:
        """A URL for the image of this SHA-256, good for LIFETIME_S at least."""
        expires = (int(self._now()) // ROUNDING_S + 1) * ROUNDING_S + LIFETIME_S
        return f"{self._base}/images/{digest.hex()}?expires={expires}&mac={self._mac(digest, expires)}"

    def allows(self, digest: bytes, expires: str, mac: str) -> bool:
        """Whether a URL with these parts is ours and still good."""
        if not (expires.isascii() and expires.isdigit() and len(expires) <= 12 and mac.isascii()):
            return False
        return secrets.compare_digest(mac, self._mac(digest, int(expires))) and self._now() < int(expires)

    def _mac(self, digest: bytes, expires: int) -> str:
        mac = self._keys.mac("image", digest + expires.to_bytes(8, "big"))[:18]
        return base64.urlsafe_b64encode(mac).decode()


def image_app(urls: ImageUrls, objects: Objects, faults: Faults) -> Starlette:
    """The HTTP application: GET /images/HASH with a good URL, /healthz and /readyz."""
    sent, bad, missing = (metrics.IMAGES.labels(word) for word in ("sent", "url_invalid", "not_found"))

    async def image(request: Request) -> Response:
        try:
            digest = binascii.unhexlify(request.path_params["digest"])
        except (binascii.Error, ValueError):
            missing.inc()
            return PlainTextResponse("not_found", 404)
        query = request.query_params
        if not urls.allows(digest, query.get("expires", ""), query.get("mac", "")):
            bad.inc()
            return PlainTextResponse(
                "url_invalid: the URL is altered or over; lease again for a new one", 403
            )
        content = await objects.get(digest)
        if content is None:
            missing.inc()
            return PlainTextResponse("not_found", 404)
        sent.inc()
        metrics.IMAGE_BYTES.inc(len(content))
        caching = {"Cache-Control": "private, max-age=86400, immutable", "X-Content-Type-Options": "nosniff"}
        return Response(content, media_type="image/jpeg", headers=caching)

    return Starlette(routes=[Route("/images/{digest}", image), *health_routes(faults)])
