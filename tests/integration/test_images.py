"""Images over HTTPS: the right bytes to those who hold a good URL, and a plain no to everybody else."""

import hashlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import httpx2
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from coordinator.health import Readiness
from coordinator.image_server import image_server
from coordinator.images import LIFETIME_S, ROUNDING_S, ImageUrls, image_app
from coordinator.keys import Keys, keys_of
from coordinator.objects import Objects
from coordinator.settings import Settings

CONTENT = b"\xff\xd8 a picture"
DIGEST = hashlib.sha256(CONTENT).digest()
NOW = 1_800_000_000.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Settings(data=tmp_path, images_port=probe.getsockname()[1])


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    """Talks to the image server over TLS, trusting the coordinator's own authority alone."""
    await Objects(settings.objects_folder).put(DIGEST, CONTENT)
    context = ssl.create_default_context(cadata=keys_of(settings).ca_der)
    async with image_server(settings), httpx2.AsyncClient(verify=context, trust_env=False) as talking:
        yield talking


def _keys(settings: Settings) -> Keys:
    return keys_of(settings)


async def test_a_good_url_gives_the_bytes_and_lets_them_be_kept(
    client: httpx2.AsyncClient, settings: Settings
):
    response = await client.get(ImageUrls(settings.images_base, _keys(settings)).url(DIGEST))
    assert (response.status_code, response.content) == (200, CONTENT)
    assert response.headers["content-type"] == "image/jpeg"
    assert "immutable" in response.headers["cache-control"]


async def test_altered_expired_and_foreign_urls_are_refused(client: httpx2.AsyncClient, settings: Settings):
    keys = _keys(settings)
    good = ImageUrls(settings.images_base, keys).url(DIGEST)
    expired = ImageUrls(settings.images_base, keys, lambda: NOW - 10**9).url(DIGEST)
    foreign = ImageUrls(settings.images_base, keys_of(Settings(data=settings.data / "other"))).url(DIGEST)
    later = good.replace("expires=1", "expires=2", 1)
    bare = good.partition("?")[0]
    other = good.replace(DIGEST.hex(), hashlib.sha256(b"another").hexdigest())
    odd = [
        f"{bare}?expires={expires}&mac={mac}"
        for expires in ("9", "-1", "²", "9" * 30, "9" * 5000)
        for mac in "é0"
    ]
    for url in (good[:-1], good + "x", expired, foreign, later, bare, other, *odd):
        response = await client.get(url)
        assert (response.status_code, response.text.split(":")[0]) == (403, "url_invalid"), url


async def test_an_image_that_is_not_there_is_not_found(client: httpx2.AsyncClient, settings: Settings):
    urls = ImageUrls(settings.images_base, _keys(settings))
    assert (await client.get(urls.url(bytes(32)))).status_code == 404
    assert (await client.get(f"{settings.images_base}/images/xyz")).status_code == 404
    assert (await client.get(f"{settings.images_base}/")).status_code == 404


async def test_the_health_page_answers_and_nothing_is_served_in_the_clear(
    client: httpx2.AsyncClient, settings: Settings
):
    assert (await client.get(f"{settings.images_base}/healthz")).text == "ok\n"
    with pytest.raises(httpx2.TransportError):
        await client.get(f"http://127.0.0.1:{settings.images_port}/healthz")


def test_urls_of_the_same_minutes_are_equal_and_hold_an_hour(settings: Settings):
    keys, clock = _keys(settings), [NOW]
    urls = ImageUrls("https://h", keys, lambda: clock[0])
    first = urls.url(DIGEST)
    expires, mac = (part.partition("=")[2] for part in first.partition("?")[2].split("&"))
    for passed, equal in ((ROUNDING_S - NOW % ROUNDING_S - 1, True), (ROUNDING_S, False)):
        clock[0] = NOW + passed
        assert (urls.url(DIGEST) == first) is equal
    for passed, allowed in ((LIFETIME_S, True), (LIFETIME_S + ROUNDING_S, False)):
        clock[0] = NOW + passed
        assert urls.allows(DIGEST, expires, mac) is allowed


TEXT = st.text(st.characters(codec="utf-8"), max_size=40)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(path=TEXT, expires=TEXT | st.integers().map(str), mac=TEXT, raw=st.booleans())
def test_odd_paths_and_queries_are_refused_never_a_fault(
    tmp_path: Path, path: str, expires: str, mac: str, raw: bool
):
    settings = Settings(data=tmp_path)
    app = image_app(
        ImageUrls("https://h", _keys(settings)), Objects(settings.objects_folder), Readiness().faults
    )
    place = path if raw else DIGEST.hex()
    query = f"expires={quote(expires, safe='')}&mac={quote(mac, safe='')}"
    response = TestClient(app).get(f"http://h/images/{quote(place)}?{query}", follow_redirects=False)
    assert response.status_code in {307, 403, 404}


@pytest.mark.parametrize(
    "path",
    [
        "/images/",
        "/images/..%2f..%2fkeys%2fca.key",
        "/images/%00",
        "/images/%ff",
        "/images/a",
        "//images//",
        "/%",
    ],
)
def test_paths_that_climb_find_nothing(tmp_path: Path, path: str):
    settings = Settings(data=tmp_path)
    app = image_app(
        ImageUrls("https://h", _keys(settings)), Objects(settings.objects_folder), Readiness().faults
    )
    response = TestClient(app).get(f"http://h{path}", follow_redirects=False)
    assert response.status_code in {307, 403, 404}
