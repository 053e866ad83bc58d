"""The home folder of a volunteer's client: its key, its enrolment, and one client at a time."""

import base64
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from volunteer_client import durable
from volunteer_client.memory import Memory


class ConfigureError(Exception):
    """Something of the set-up is wrong. `code` is stable; the text says what to do."""

    def __init__(self, code: str, advice: str) -> None:
        super().__init__(advice)
        self.code = code


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What a host knows of its coordinator, and of itself there.

    `addresses` are "host:port"; `ca_der` is the pinned private CA, None where public roots vouch;
    `coordinator_key` is the raw Ed25519 key (32 bytes) that signs units and leases.
    """

    addresses: tuple[str, ...]
    ca_der: bytes | None
    coordinator_key: bytes
    host_id: int
    user_name: str
    host_name: str
    tier: str

    def to_json(self) -> bytes:
        """The enrolment as it is kept in the home folder."""
        fields = {
            "addresses": list(self.addresses),
            "ca": None if self.ca_der is None else base64.b64encode(self.ca_der).decode(),
            "coordinator_key": self.coordinator_key.hex(),
            "host_id": self.host_id,
            "user_name": self.user_name,
            "host_name": self.host_name,
            "tier": self.tier,
        }
        return json.dumps(fields, indent=2).encode() + b"\n"

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Reads what `to_json` wrote. Raises ValueError, KeyError or TypeError on anything else."""
        fields = json.loads(text)
        ca = fields["ca"]
        return cls(
            addresses=tuple(str(address) for address in fields["addresses"]),
            ca_der=None if ca is None else base64.b64decode(ca, validate=True),
            coordinator_key=bytes.fromhex(fields["coordinator_key"]),
            host_id=int(fields["host_id"]),
            user_name=str(fields["user_name"]),
            host_name=str(fields["host_name"]),
            tier=str(fields["tier"]),
        )


class Home:
    """A folder (mode 0700) that belongs to one host and is used by one client at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().absolute()
        self.spool_folder = self.folder / "spool"
        self._memory_file = self.folder / "memory.json"
        self._key_file = self.folder / "host.key"
        self._enrolment_file = self.folder / "enrolment.json"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the home. Raises ConfigureError where another client holds it."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = (self.folder / "lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise ConfigureError(
                "home_unusable", f"The home folder {self.folder} cannot be used: {error}"
            ) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise ConfigureError(
                    "home_in_use",
                    f"Another client (process {file.read().strip() or 'unknown'}) uses {self.folder}. "
                    "Stop it first, or give this one a folder of its own with --home.",
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def enrolment(self) -> Enrolment | None:
        """The enrolment, None before the first join. Raises ConfigureError where the file is damaged."""
        try:
            return Enrolment.from_json(self._enrolment_file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigureError(
                "enrolment_damaged",
                f"{self._enrolment_file} cannot be read ({error}). Join again with --force and a new invite.",
            ) from None

    def joined(self) -> tuple[Enrolment, Ed25519PrivateKey]:
        """Enrolment and key. Raises ConfigureError where the home has not joined."""
        enrolment, key = self.enrolment(), self.key()
        if enrolment is None or key is None:
            raise ConfigureError(
                "not_joined",
                f"{self.folder} has not joined a coordinator. "
                "Run `chorus volunteer join INVITE` with the invite that you were given.",
            )
        return enrolment, key

    def key(self) -> Ed25519PrivateKey | None:
        """The host's key, None before the first join. Raises ConfigureError where it is damaged."""
        try:
            key = serialization.load_pem_private_key(self._key_file.read_bytes(), password=None)
            if not isinstance(key, Ed25519PrivateKey):
                raise ValueError("not an Ed25519 key")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise ConfigureError(
                "key_damaged", f"{self._key_file} cannot be read ({error}). Join again with --force."
            ) from None
        return key

    def key_or_new(self) -> Ed25519PrivateKey:
        """The key; a new one is durable in the home (mode 0600) before it is handed out."""
        key = self.key()
        if key is None:
            key = Ed25519PrivateKey.generate()
            pem = key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            durable.write(self._key_file, pem)
        return key

    def memory(self) -> Memory:
        """What the last run left to remember. Raises ConfigureError where the file cannot be read."""
        try:
            return Memory(self._memory_file)
        except OSError as error:
            raise ConfigureError("home_unusable", f"{self._memory_file} cannot be read: {error}") from None

    def enrol(self, enrolment: Enrolment) -> None:
        """Keeps an enrolment, durably."""
        durable.write(self._enrolment_file, enrolment.to_json())

    def set_aside(self) -> Path | None:
        """Moves all that belongs to an enrolment into a folder of its own; None where there was nothing."""
        parts = (self._enrolment_file, self._key_file, self._memory_file, self.spool_folder)
        present = [path for path in parts if path.exists()]
        if not present:
            return None
        aside = self.folder / f"replaced-{time.time_ns()}"
        aside.mkdir(mode=0o700)
        for path in present:
            path.rename(aside / path.name)
        durable.sync_folder(self.folder)
        return aside

    def put_back(self, aside: Path) -> None:
        """Undoes `set_aside`."""
        for path in aside.iterdir():
            path.rename(self.folder / path.name)
        aside.rmdir()


def check_endpoint(url: str) -> str:
    """The base URL of a model endpoint without a trailing slash. Raises ConfigureError."""
    example = "for example http://127.0.0.1:11434/v1 (Ollama) or http://127.0.0.1:8000/v1 (vLLM)"
    try:
        parts = urlsplit(url.strip())
        _ = parts.port
    except ValueError as error:
        raise ConfigureError("endpoint_invalid", f"The endpoint is no URL ({error}): {example}.") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigureError("endpoint_invalid", f"The endpoint must be an http or https URL: {example}.")
    if parts.username or parts.password:
        raise ConfigureError(
            "endpoint_has_password",
            "The endpoint's URL holds a name or password. Put the key in an environment variable and "
            "name that with --api-key-env.",
        )
    if parts.query or parts.fragment:
        raise ConfigureError("endpoint_invalid", f"The endpoint's URL ends after its path: {example}.")
    return url.strip().rstrip("/")


def read_api_key(variable: str | None) -> str | None:
    """The endpoint's key from an environment variable; None where no variable is named."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigureError(
            "api_key_missing", f"The environment variable {variable} is empty: put the endpoint's key there."
        )
    return key
