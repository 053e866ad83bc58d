"""Messages to volunteers: from operators, and from the coordinator about a host."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from psycopg.rows import class_row

from store.database import Transaction
from store.schema import metadata, one_of

CODES = ("operator", "copied", "over_quota", "parked")

# To one user, to one host, or, where both are NULL, to all.
messages = sa.Table(
    "messages",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("user_id", sa.ForeignKey("users.id"), index=True),
    sa.Column("host_id", sa.ForeignKey("hosts.id"), index=True),
    sa.Column("code", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("until", sa.DateTime(timezone=True), nullable=False),
    sa.Index("ix_messages_until", "until"),
    one_of("code", CODES),
    sa.CheckConstraint("user_id IS NULL OR host_id IS NULL", name="one_addressee"),
)


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it is delivered; `user_id` and `host_id` say to whom."""

    id: int
    user_id: int | None
    host_id: int | None
    code: str
    text: str


@dataclass(frozen=True, slots=True)
class ListedMessage:
    """A message as operators see it: `user` and `host_id` say to whom."""

    id: int
    user: str | None
    host_id: int | None
    code: str
    text: str
    created_at: datetime
    until: datetime


async def add(
    tx: Transaction,
    *,
    user_id: int | None,
    host_id: int | None,
    code: str,
    text: str,
    now: datetime,
    until: datetime,
) -> int | None:
    """Adds a message and gives its id; None where the same one still stands.

    Messages are added one transaction after the other, so that whoever has seen one has seen all before it.
    """
    values = {"user": user_id, "host": host_id, "code": code, "text": text, "now": now, "until": until}
    await tx.raw.execute("SELECT pg_advisory_xact_lock(7383, 0)")
    found = await tx.raw.execute(ADD, values)
    row = await found.fetchone()
    return None if row is None else int(row[0])


ADD = """
INSERT INTO messages (user_id, host_id, code, text, created_at, until)
SELECT %(user)s::bigint, %(host)s::bigint, %(code)s, %(text)s, %(now)s, %(until)s
WHERE NOT EXISTS (
    SELECT FROM messages
    WHERE user_id IS NOT DISTINCT FROM %(user)s::bigint AND host_id IS NOT DISTINCT FROM %(host)s::bigint
      AND code = %(code)s AND text = %(text)s AND until > %(now)s)
RETURNING id
"""


async def standing(tx: Transaction, now: datetime) -> list[Message]:
    """Every message that stands, oldest first."""
    cursor = tx.raw.cursor(row_factory=class_row(Message))
    await cursor.execute(STANDING, {"now": now})
    return await cursor.fetchall()


STANDING = "SELECT id, user_id, host_id, code, text FROM messages WHERE until > %(now)s ORDER BY id"


async def listed(tx: Transaction, now: datetime) -> list[ListedMessage]:
    """Every message that stands, for people, oldest first."""
    cursor = tx.raw.cursor(row_factory=class_row(ListedMessage))
    await cursor.execute(LISTED, {"now": now})
    return await cursor.fetchall()


LISTED = """
SELECT m.id, u.name AS user, m.host_id, m.code, m.text, m.created_at, m.until
FROM messages m LEFT JOIN users u ON u.id = m.user_id
WHERE m.until > %(now)s ORDER BY m.id
"""


async def withdraw(tx: Transaction, message_id: int, now: datetime) -> bool:
    """Ends a message; False where none of this id stands."""
    found = await tx.raw.execute(
        "UPDATE messages SET until = %(now)s WHERE id = %(id)s AND until > %(now)s RETURNING id",
        {"id": message_id, "now": now},
    )
    return await found.fetchone() is not None
