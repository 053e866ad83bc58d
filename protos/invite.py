"""An invite: one line of text that carries all that a volunteer's client needs to join."""

import base64
import json
from dataclasses import dataclass
from typing import Self

PREFIX = "chorus1."

# Certificates of a private CA carry this name, so that any address of the coordinator will do.
PRIVATE_SERVER_NAME = "coordinator.chorus.internal"


class InviteError(ValueError):
    """The text is not an invite; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Invite:
    """Addresses ("host:port", at least one), a token, and the private CA (DER) where there is one."""

    addresses: tuple[str, ...]
    token: str
    ca_der: bytes | None

    def encode(self) -> str:
        """The line to hand to a volunteer."""
        fields = {"a": list(self.addresses), "t": self.token}
        if self.ca_der is not None:
            fields["c"] = base64.b64encode(self.ca_der).decode()
        packed = json.dumps(fields, separators=(",", ":")).encode()
        return PREFIX + base64.urlsafe_b64encode(packed).rstrip(b"=").decode()

    @classmethod
    def decode(cls, text: str) -> Self:
        """Reads an invite; white space around and inside (a mail's line breaks) is ignored."""
        compact = "".join(text.split())
        if not compact.startswith(PREFIX):
            raise InviteError(f"An invite starts with '{PREFIX}'. Copy the whole line that you were given.")
        packed = compact.removeprefix(PREFIX)
        try:
            fields = json.loads(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)))
            addresses, token, ca = fields["a"], fields["t"], fields.get("c")
            if (
                not isinstance(addresses, list)
                or not addresses
                or not all(map(_is_word, (*addresses, token)))
            ):
                raise TypeError("fields of the wrong type")
            ca_der = None if ca is None else base64.b64decode(ca, validate=True)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InviteError("The invite is damaged. Copy the whole line that you were given.") from error
        return cls(tuple(addresses), token, ca_der)


def _is_word(value: object) -> bool:
    return isinstance(value, str) and bool(value.encode())
