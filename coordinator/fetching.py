"""Fetching: the bytes behind a source, from a file or over HTTP, within limits.

A URL may be anyone's idea of a trick, so that every hop is resolved once, every address is checked, and
the connection goes to a checked address and nowhere else.
"""

import asyncio
import ipaddress
import os
import socket
import ssl
import stat
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, TypeAlias
from urllib.parse import unquote_to_bytes, urlsplit

import httpx2

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve: TypeAlias = Callable[[str], Awaitable[Sequence[str]]]

FetchRefusal: TypeAlias = Literal[
    "no_such_file",
    "not_a_file",  # a folder, a device or a FIFO
    "unreadable",
    "too_large",
    "bad_url",
    "unresolvable",
    "private_address",
    "unreachable",  # no connection, a broken one, or a certificate that does not fit
    "too_many_redirects",
    "http_status",
    "encoded",  # compressed, though identity was asked for
    "timeout",
]

MAX_URL = 8192


class FetchRefused(Exception):  # noqa: N818  # a refusal is an answer, not a fault of the program
    """There are no bytes to be had; `code` is stable, `detail` is for people."""

    def __init__(self, code: FetchRefusal, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.detail} ({self.code})"


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Bytes of the body; seconds for everything from name to last byte, and for one connection; hops."""

    max_bytes: int = 50_000_000
    total_s: float = 60.0
    connect_s: float = 10.0
    redirects: int = 5


DEFAULT_LIMITS = FetchLimits()


async def resolve_host(host: str) -> list[str]:
    """All addresses that the system knows for a name or a literal, in its order of preference."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


class Fetcher:
    """Fetches many sources; an async context manager. Safe to use from many tasks at once.

    `allowed_networks` are reachable although they are not public: an intranet's, a test's.
    No proxy, cookie or stored credential is used. `tls` replaces the system's certificate authorities.
    """

    def __init__(
        self,
        *,
        limits: FetchLimits = DEFAULT_LIMITS,
        allowed_networks: Sequence[Network] = (),
        resolve: Resolve = resolve_host,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._limits = limits
        self._allowed_networks = allowed_networks
        self._resolve = resolve
        self._transport = httpx2.AsyncHTTPTransport(
            verify=True if tls is None else tls,
            # Connections are pooled by address: kept, one host's would serve another's name unchecked.
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.aclose()

    async def fetch(self, value: str) -> bytes:
        """The whole content behind a source's `value` (file:// or http(s)://). Raises FetchRefused only."""
        if value.startswith("file://"):
            return await asyncio.to_thread(read_file, value, self._limits.max_bytes)
        try:
            async with asyncio.timeout(self._limits.total_s):
                return await self._get(parse_url(value))
        except TimeoutError as error:
            raise FetchRefused("timeout", f"not done within {self._limits.total_s:g} s") from error
        except (httpx2.TransportError, httpx2.StreamError) as error:
            raise FetchRefused("unreachable", f"the connection broke: {error}") from error

    async def _get(self, url: httpx2.URL) -> bytes:
        for _ in range(self._limits.redirects + 1):
            response = await self._send(url)
            try:
                if not response.has_redirect_location:
                    return await self._body(response)
                url = parse_url(response.headers["location"], base=url)
            finally:
                await response.aclose()
        raise FetchRefused("too_many_redirects", f"more than {self._limits.redirects} redirects")

    async def _send(self, url: httpx2.URL) -> httpx2.Response:
        """The answer's head, from the first of the host's checked addresses that takes a connection."""
        host = url.raw_host.decode("ascii")
        timeouts = {"connect": self._limits.connect_s, "read": None, "write": None, "pool": None}
        headers = {
            "Host": url.netloc.decode("ascii"),
            "Accept": "image/*",
            "Accept-Encoding": "identity",
            "User-Agent": "chorus-import",
        }
        failure: Exception | None = None
        for address in await self._checked_addresses(host):
            request = httpx2.Request(
                "GET",
                url.copy_with(host=str(address)),
                headers=headers,
                extensions={"timeout": timeouts, "sni_hostname": host},
            )
            try:
                return await self._transport.handle_async_request(request)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                failure = error
        raise FetchRefused("unreachable", f"{host} takes no connection: {failure}") from failure

    async def _checked_addresses(self, host: str) -> list[Address]:
        """The host's addresses, all of them allowed: one private answer among public ones is an attack."""
        try:
            addresses = [_unwrapped(ipaddress.ip_address(text)) for text in await self._resolve(host)]
        except (OSError, ValueError) as error:
            raise FetchRefused("unresolvable", f"the name {host} has no address: {error}") from error
        if not addresses:
            raise FetchRefused("unresolvable", f"the name {host} has no address")
        for address in addresses:
            if not is_public(address) and not any(address in network for network in self._allowed_networks):
                detail = f"{host} is at {address}, which is not a public address"
                raise FetchRefused("private_address", detail)
        return addresses

    async def _body(self, response: httpx2.Response) -> bytes:
        if response.status_code != 200:
            raise FetchRefused("http_status", f"the server answered {response.status_code}")
        if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise FetchRefused("encoded", "the server compresses although it was asked not to")
        declared = response.headers.get("content-length", "")
        most = self._limits.max_bytes
        if declared.isdecimal() and int(declared[:20]) > most:
            raise FetchRefused("too_large", f"{declared[:20]} bytes; at most {most:,} are taken")
        body = bytearray()
        async for part in response.aiter_raw():
            body += part
            if len(body) > most:
                raise FetchRefused("too_large", f"more than {most:,} bytes")
        return bytes(body)


def parse_url(text: str, base: httpx2.URL | None = None) -> httpx2.URL:
    """An http or https URL without its fragment, or what a redirect from `base` means by `text`."""
    if len(text) > MAX_URL:
        raise FetchRefused("bad_url", f"a URL has at most {MAX_URL:,} characters")
    try:
        url = (httpx2.URL(text) if base is None else base.join(text)).copy_with(fragment=None)
        host = url.raw_host.decode("ascii")
    except (httpx2.InvalidURL, ValueError) as error:
        raise FetchRefused("bad_url", f"not a URL: {error}") from error
    if url.scheme not in ("http", "https"):
        raise FetchRefused("bad_url", "a URL begins with http:// or https://")
    if not host or not 0 < (url.port or 80) < 65536:
        raise FetchRefused("bad_url", "a URL needs a host, and a port between 1 and 65535")
    if url.userinfo:
        raise FetchRefused("bad_url", "a URL must not hold a user name or password")
    return url


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")
_AZURE_HOST = ipaddress.IPv4Address("168.63.129.16")  # every Azure machine's own host, on a public address


def is_public(address: Address) -> bool:
    """Whether an address is one machine's on the open Internet, tunnels seen through or refused."""
    match _unwrapped(address):
        case ipaddress.IPv4Address() as ipv4:
            return ipv4.is_global and not ipv4.is_multicast and not ipv4.is_reserved and ipv4 != _AZURE_HOST
        case ipaddress.IPv6Address() as ipv6 if ipv6 in _NAT64:
            return is_public(ipaddress.IPv4Address(ipv6.packed[12:]))
        case ipaddress.IPv6Address() as ipv6:
            return ipv6.is_global and ipv6 in _GLOBAL_UNICAST and ipv6 not in _SIX_TO_FOUR


def _unwrapped(address: Address) -> Address:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped


def read_file(uri: str, max_bytes: int) -> bytes:
    """A regular file's content; never waits on a FIFO, never follows a link that took the file's place."""
    path = os.fsdecode(unquote_to_bytes(urlsplit(uri).path))
    try:
        with open(path, "rb", opener=_open_at_once) as file:  # Path.open takes no opener
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise FetchRefused("not_a_file", "not a regular file")
            if about.st_size > max_bytes:
                raise FetchRefused("too_large", f"{about.st_size:,} bytes; at most {max_bytes:,} are taken")
            return file.read(about.st_size)
    except FileNotFoundError as error:
        raise FetchRefused("no_such_file", "the file is gone") from error
    except IsADirectoryError as error:
        raise FetchRefused("not_a_file", "a folder, not a file") from error
    except (OSError, ValueError) as error:
        raise FetchRefused("unreadable", f"the file cannot be read: {error}") from error


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)
