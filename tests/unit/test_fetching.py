"""Bytes are fetched within limits, and never from where a stranger must not reach."""

import asyncio
import contextlib
import datetime
import ipaddress
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from coordinator.fetching import Fetcher, FetchLimits, FetchRefused, is_public, parse_url

LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
QUICK = FetchLimits(max_bytes=1000, total_s=5)

Handler = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(
    handler: Handler, tls: ssl.SSLContext | None = None, *, keep_open: bool = False
) -> AsyncIterator[str]:
    """A loopback server that hands each request's head to `handler`; yields "127.0.0.1:port"."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await handler(head, writer)
                await writer.drain()
                if not keep_open:
                    break
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def saying(body: bytes, *headers: str, status: str = "200 OK") -> Handler:
    async def handler(_head: bytes, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]
        writer.write("\r\n".join(lines).encode() + body)

    return handler


def redirecting(target: str, status: str = "302 Found") -> Handler:
    return saying(b"", f"Location: {target}", status=status)


def names(**addresses: str) -> Callable[[str], Awaitable[list[str]]]:
    async def resolve(host: str) -> list[str]:
        if host not in addresses and not host[0].isdigit():
            raise OSError("no such name")
        return addresses.get(host, host).split()

    return resolve


async def fetched(url: str, **options: object) -> bytes:
    settings = {"limits": QUICK, "allowed_networks": (LOOPBACK,)} | options
    async with Fetcher(**settings) as fetcher:  # type: ignore[arg-type]  # keyword options of a test
        return await fetcher.fetch(url)


async def refusal(url: str, **options: object) -> str:
    with pytest.raises(FetchRefused) as caught:
        await fetched(url, **options)
    assert caught.value.detail
    return caught.value.code


# --- what works ---


async def test_a_url_is_fetched_from_the_address_that_was_checked():
    heads: list[bytes] = []

    async def handler(head: bytes, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        await saying(b"picture")(head, writer)

    asked: list[str] = []

    async def resolve(host: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    async with serving(handler) as address:
        port = address.rpartition(":")[2]
        assert await fetched(f"http://photos.test:{port}/a%20b.jpg?x=1#f", resolve=resolve) == b"picture"
    assert asked == ["photos.test"], "one question, and no second answer to trust"
    assert heads[0].startswith(b"GET /a%20b.jpg?x=1 HTTP/1.1\r\n")
    assert f"host: photos.test:{port}".encode() in heads[0].lower()
    assert b"accept-encoding: identity" in heads[0].lower()


async def test_the_next_address_is_tried_where_one_takes_no_connection():
    async with serving(saying(b"picture")) as address:
        port = address.rpartition(":")[2]
        resolve = names(**{"photos.test": "127.0.0.2 127.0.0.1"})
        assert await fetched(f"http://photos.test:{port}/", resolve=resolve) == b"picture"


async def test_redirects_are_followed_and_relative_ones_too():
    async def handler(head: bytes, writer: asyncio.StreamWriter) -> None:
        hops = {b"/a": "/b/c", b"/b/c": "d", b"/b/d": None}
        target = hops[head.split()[1]]
        await (saying(b"picture") if target is None else redirecting(target))(head, writer)

    async with serving(handler) as address:
        assert await fetched(f"http://{address}/a") == b"picture"


async def test_a_body_of_exactly_the_limit_is_taken():
    async with serving(saying(b"x" * 1000)) as address:
        assert len(await fetched(f"http://{address}/")) == 1000


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with serving(saying(b"picture")) as address:
        assert await fetched(f"http://{address}/") == b"picture"


# --- private addresses ---


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "017700000001",
        "0",
        "0.0.0.0",  # noqa: S104  # an attempt, not a binding
        "localhost",
        "LOCALHOST",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:7f00:1::]",
        "[2001:0:7f00:1::]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[fc00::1]",
        "[ff02::1]",
        "10.0.0.1",
        "172.16.3.4",
        "192.168.1.1",
        "100.100.100.200",
        "169.254.169.254",
        "168.63.129.16",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
    ],
)
async def test_no_spelling_of_a_private_address_is_reached(host: str):
    code = await refusal(f"http://{host}/latest/meta-data", allowed_networks=())
    # A system without IPv6, or with a strict resolver, may not even know the address.
    assert code in {"private_address", "unresolvable", "bad_url"}
    if host[0].isdigit() and host.count(".") == 3 and not host.startswith("0"):
        assert code == "private_address"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "[::1]", "localhost"])
async def test_the_usual_spellings_of_loopback_are_called_private(host: str):
    assert await refusal(f"http://{host}/", allowed_networks=()) == "private_address"


@pytest.mark.parametrize("answer", ["127.0.0.1", "10.1.2.3", "93.184.215.14 10.1.2.3", "::1", "fe80::1%lo"])
async def test_a_name_with_a_private_answer_is_refused(answer: str):
    resolve = names(**{"rebind.test": answer})
    assert await refusal("http://rebind.test/", resolve=resolve, allowed_networks=()) == "private_address"


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Again", "308 For ever"])
@pytest.mark.parametrize("target", ["http://169.254.169.254/", "http://inside.test/", "//10.0.0.1/a"])
async def test_a_redirect_to_a_private_address_is_refused(target: str, status: str):
    resolve = names(**{"inside.test": "192.168.0.7"})
    async with serving(redirecting(target, status)) as address:
        assert await refusal(f"http://{address}/", resolve=resolve) == "private_address"


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/", "http://a:b@127.0.0.1/", "javascript:alert(1)"]
)
async def test_a_redirect_to_what_is_no_plain_url_is_refused(target: str):
    async with serving(redirecting(target)) as address:
        assert await refusal(f"http://{address}/") == "bad_url"


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.215.14", "2606:2800:220:1::1", "64:ff9b::808:808"])
def test_public_addresses_are_public(address: str):
    assert is_public(ipaddress.ip_address(address))


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_no_more_public_for_being_wrapped(ipv4: ipaddress.IPv4Address):
    number = int(ipv4)
    mapped = ipaddress.IPv6Address((0xFFFF << 32) | number)
    translated = ipaddress.IPv6Address((0x64FF9B << 96) | number)
    assert is_public(mapped) == is_public(translated) == is_public(ipv4)
    assert not is_public(ipaddress.IPv6Address((0x2002 << 112) | (number << 80)))
    assert not is_public(ipaddress.IPv6Address(number))


@given(st.text(max_size=60))
def test_no_text_breaks_the_reading_of_urls(text: str):
    for url in (text, "http://" + text, f"https://example.org:{text}", f"http://[{text}]/"):
        with contextlib.suppress(FetchRefused):
            assert parse_url(url).scheme in ("http", "https")


# --- limits ---


async def test_a_slow_drip_ends_at_the_total_time():
    over = asyncio.Event()

    async def handler(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\nx")
        await writer.drain()
        await over.wait()

    async with serving(handler) as address:
        assert await refusal(f"http://{address}/", limits=FetchLimits(total_s=0.05)) == "timeout"
        over.set()


async def test_silence_and_slow_names_end_at_the_total_time():
    over = asyncio.Event()

    async def silent(_head: bytes, _writer: asyncio.StreamWriter) -> None:
        await over.wait()

    async def never(_host: str) -> list[str]:
        await over.wait()
        return []

    limits = FetchLimits(total_s=0.05)
    async with serving(silent) as address:
        assert await refusal(f"http://{address}/", limits=limits) == "timeout"
        assert await refusal("http://slow.test/", limits=limits, resolve=never) == "timeout"
        over.set()


async def test_an_endless_body_ends_at_the_limit():
    sent = 0

    async def handler(_head: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 1000)
            await writer.drain()
            sent += 1000

    async with serving(handler) as address:
        assert await refusal(f"http://{address}/", limits=FetchLimits(max_bytes=100_000)) == "too_large"
    assert sent < 50_000_000


@pytest.mark.parametrize("length", ["1001", "9" * 18])
async def test_a_declared_length_above_the_limit_is_refused_unread(length: str):
    async def handler(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode())

    async with serving(handler) as address:
        assert await refusal(f"http://{address}/") == "too_large"


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "zstd", "identity, gzip"])
async def test_a_compressed_body_is_refused_unread(encoding: str):
    async with serving(saying(b"bomb", f"Content-Encoding: {encoding}")) as address:
        assert await refusal(f"http://{address}/") == "encoded"


async def test_a_circle_of_redirects_ends_after_five():
    asked = 0

    async def handler(head: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await redirecting("/again")(head, writer)

    async with serving(handler) as address:
        assert await refusal(f"http://{address}/") == "too_many_redirects"
    assert asked == 6


@pytest.mark.parametrize(
    "status", ["404 Not Found", "500 Oh", "204 Empty", "206 Part", "304 Same", "401 Who"]
)
async def test_any_answer_but_200_is_refused(status: str):
    async with serving(saying(b"", status=status)) as address:
        assert await refusal(f"http://{address}/") == "http_status"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0\0\0\0\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000,
        b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: \xff\xfe\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_a_server_that_speaks_nonsense_is_refused(answer: bytes):
    async def handler(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    async with serving(handler) as address:
        # A Location of strange bytes is a path, asked for again and again, or a name that nobody has.
        codes = {"unreachable", "bad_url", "too_many_redirects", "unresolvable", "too_large"}
        assert await refusal(f"http://{address}/") in codes


async def test_no_server_and_no_name_are_told_apart():
    async with serving(saying(b"")) as address:
        pass
    assert await refusal(f"http://{address}/") == "unreachable"
    assert await refusal("http://nowhere.test/", resolve=names()) == "unresolvable"
    assert await refusal(f"http://{'x' * 70}.test/") == "unresolvable"


# --- certificates ---


def _certificate_for(name: str, folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's TLS context with a self-made certificate for `name`, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    file.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cafile=file)


async def test_a_certificate_must_fit_the_name_although_the_address_is_dialled(tmp_path: Path):
    server, client = _certificate_for("photos.test", tmp_path)
    resolve = names(**{"photos.test": "127.0.0.1", "other.test": "127.0.0.1"})
    # The server would go on with the open connection: the name must be checked again all the same.
    async with serving(saying(b"picture"), tls=server, keep_open=True) as address:
        port = address.rpartition(":")[2]
        async with Fetcher(
            limits=QUICK, allowed_networks=(LOOPBACK,), resolve=resolve, tls=client
        ) as fetcher:
            assert await fetcher.fetch(f"https://photos.test:{port}/") == b"picture"
            with pytest.raises(FetchRefused, match="unreachable"):
                await fetcher.fetch(f"https://other.test:{port}/")


# --- files ---


async def test_a_file_is_read_whole_up_to_the_limit(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(b"x" * 1000)
    (tmp_path / "b.jpg").write_bytes(b"x" * 1001)
    assert await fetched((tmp_path / "a.jpg").as_uri()) == b"x" * 1000
    assert await refusal((tmp_path / "b.jpg").as_uri()) == "too_large"


async def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to("/etc/hostname")
    assert await refusal((tmp_path / "pipe.jpg").as_uri()) == "not_a_file"
    assert await refusal(tmp_path.as_uri()) == "not_a_file"
    assert await refusal("file:///dev/zero") == "not_a_file"
    assert await refusal((tmp_path / "link.jpg").as_uri()) == "unreadable"
    assert await refusal((tmp_path / "gone.jpg").as_uri()) == "no_such_file"
    assert await refusal("file:///nul%00.jpg") == "unreadable"
