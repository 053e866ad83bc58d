"""Messages to volunteers: sent by operators and by the coordinator, delivered from a picture in memory."""

from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta
from heapq import merge
from operator import attrgetter

from coordinator.errors import OperatorError
from store import hosts, messages, users
from store.database import Database, Transaction
from store.messages import Message

AT_ONCE = 16
MAX_WORDS = 1000
ABOUT_A_HOST = timedelta(days=7)
"""How long a message of the coordinator itself stands."""

Addressee = tuple[int | None, int | None]
"""(user id, host id); both None: all."""


class Messages:
    """The messages that stand, as last read."""

    def __init__(self, db: Database, clock: Callable[[], datetime]) -> None:
        self._db = db
        self._clock = clock
        self._by_addressee: dict[Addressee, list[Message]] = {}

    async def refresh(self) -> None:
        """Reads the messages that stand now."""
        now = self._clock()
        found: defaultdict[Addressee, list[Message]] = defaultdict(list)
        for message in await self._db.transaction("messages", lambda tx: messages.standing(tx, now)):
            found[message.user_id, message.host_id].append(message)
        self._by_addressee = dict(found)

    def after(self, last: int, *, user_id: int, host_id: int) -> list[Message]:
        """A host's next messages after the one that it saw last, oldest first, a few at once."""
        addressees: tuple[Addressee, ...] = ((None, None), (user_id, None), (None, host_id))
        its_own = [self._by_addressee.get(addressee, ()) for addressee in addressees]
        new = (message for message in merge(*its_own, key=attrgetter("id")) if message.id > last)
        return [message for message, _ in zip(new, range(AT_ONCE), strict=False)]


async def send(db: Database, to: str, text: str, until: datetime, now: datetime) -> int:
    """Sends an operator's message to "all", "user:NAME" or "host:ID"; gives its id.

    Raises OperatorError: message_text_invalid, message_over, message_addressee_invalid, user_unknown,
    host_unknown, message_stands.
    """
    if not text.strip() or not text.isprintable() or len(text) > MAX_WORDS:
        raise OperatorError(
            "message_text_invalid", f"A message has 1 to {MAX_WORDS} printable characters, on one line."
        )
    if until <= now:
        raise OperatorError("message_over", "The message would be over already. Give a later --until.")

    async def body(tx: Transaction) -> int | None:
        user_id, host_id = await _addressee(tx, to)
        return await messages.add(
            tx, user_id=user_id, host_id=host_id, code="operator", text=text.strip(), now=now, until=until
        )

    message_id = await db.transaction("send message", body)
    if message_id is None:
        raise OperatorError("message_stands", "The same message to the same people stands already.")
    return message_id


async def _addressee(tx: Transaction, to: str) -> Addressee:
    kind, _, who = to.partition(":")
    if to == "all":
        return (None, None)
    if kind == "user":
        user_id = await users.user_id(tx, who)
        if user_id is None:
            raise OperatorError("user_unknown", f"There is no user '{who}'.")
        return (user_id, None)
    if kind == "host" and who.isdecimal():
        host = await hosts.host_by_id(tx, int(who))
        if host is None:
            raise OperatorError("host_unknown", f"There is no host {who}. See: chorus admin host list")
        return (None, host.id)
    raise OperatorError(
        "message_addressee_invalid", f"'{to}' is nobody: write --to all, --to user:NAME or --to host:ID."
    )


async def withdraw(db: Database, message_id: int, now: datetime) -> None:
    """Ends a message; those who saw it saw it. Raises OperatorError("message_unknown")."""
    if not await db.transaction("withdraw message", lambda tx: messages.withdraw(tx, message_id, now)):
        raise OperatorError(
            "message_unknown", f"No message {message_id} stands. See: chorus admin message list"
        )


async def tell_owner(tx: Transaction, host_id: int, code: str, words: str, now: datetime) -> None:
    """Tells a host's owner, on all machines, about it; not again while the same message stands."""
    host = await hosts.host_by_id(tx, host_id)
    if host is not None:
        text = f"Host {host.id} ({host.name}): {words}"
        await messages.add(
            tx, user_id=host.user_id, host_id=None, code=code, text=text, now=now, until=now + ABOUT_A_HOST
        )
