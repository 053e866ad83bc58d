"""Hosts (machines of volunteers) and the invites that let them in."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from psycopg.rows import class_row
from sqlalchemy.dialects.postgresql import insert

from store.database import Transaction
from store.schema import metadata, one_of
from store.users import users

hosts = sa.Table(
    "hosts",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("user_id", sa.ForeignKey("users.id"), nullable=False, index=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("public_key", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("tier_cap", sa.SmallInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False, server_default="active"),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    # Of the last session: a copied or restored client falls behind.
    sa.Column("sequence", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("session_mark", sa.LargeBinary),
    sa.Index("ix_hosts_revoked", "id", postgresql_where=sa.text("state = 'revoked'")),
    one_of("state", ("active", "revoked")),
    sa.CheckConstraint("octet_length(public_key) = 32", name="public_key"),
)

invites = sa.Table(
    "invites",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("token_hash", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("user_id", sa.ForeignKey("users.id")),
    sa.Column("tier_cap", sa.SmallInteger, nullable=False),
    sa.Column("uses_left", sa.Integer, nullable=False),
    sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint("uses_left >= 0", name="uses_left"),
)


@dataclass(frozen=True, slots=True)
class HostRow:
    """A host and its owner."""

    id: int
    user_id: int
    user_name: str
    name: str
    public_key: bytes
    tier_cap: int
    state: str


async def add_invite(
    tx: Transaction,
    token_hash: bytes,
    user_id: int | None,
    tier_cap: int,
    uses: int,
    expires_at: datetime,
    now: datetime,
) -> None:
    """Keeps an invite by the hash of its token; the token itself is never stored."""
    values = {"token_hash": token_hash, "user_id": user_id, "tier_cap": tier_cap, "uses_left": uses}
    await tx.sql.execute(insert(invites).values(**values, expires_at=expires_at, created_at=now))


async def spend_invite(tx: Transaction, token_hash: bytes, now: datetime) -> tuple[int | None, int] | None:
    """Uses an invite once and gives (user id or None, tier cap); None where it does not hold any more."""
    usable = (invites.c.token_hash == token_hash, invites.c.uses_left > 0, invites.c.expires_at > now)
    statement = sa.update(invites).where(*usable).values(uses_left=invites.c.uses_left - 1)
    row = (await tx.sql.execute(statement.returning(invites.c.user_id, invites.c.tier_cap))).one_or_none()
    return None if row is None else (row.user_id, row.tier_cap)


async def ensure_user(tx: Transaction, name: str, role: str, now: datetime) -> int:
    """The id of the user of that name, made with `role` if missing."""
    await tx.sql.execute(insert(users).values(name=name, role=role, created_at=now).on_conflict_do_nothing())
    return int((await tx.sql.execute(sa.select(users.c.id).where(users.c.name == name))).scalar_one())


async def guard_key(tx: Transaction, public_key: bytes) -> None:
    """Until this transaction ends nobody else enrols this key, so that who asks twice is one host."""
    await tx.raw.execute("SELECT pg_advisory_xact_lock(7382, hashtext(encode(%s, 'hex')))", (public_key,))


async def add_user(tx: Transaction, name: str, suffix: str, role: str, now: datetime) -> tuple[int, str]:
    """Makes a user under `name`, where that is taken with (the start of) `suffix`; gives (id, name)."""
    for wanted in (name, f"{name}-{suffix[:6]}", f"{name}-{suffix}"):
        statement = insert(users).values(name=wanted, role=role, created_at=now).on_conflict_do_nothing()
        user_id = (await tx.sql.execute(statement.returning(users.c.id))).scalar_one_or_none()
        if user_id is not None:
            return int(user_id), wanted
    raise ValueError(f"both '{name}' and '{name}-{suffix}' are taken")


async def add_host(
    tx: Transaction, user_id: int, name: str, public_key: bytes, tier_cap: int, now: datetime
) -> int:
    """Makes a host and gives its id."""
    values = {"user_id": user_id, "name": name, "public_key": public_key, "tier_cap": tier_cap}
    statement = insert(hosts).values(**values, created_at=now)
    added = await tx.sql.execute(statement.returning(hosts.c.id))
    return int(added.scalar_one())


async def host_by_key(tx: Transaction, public_key: bytes) -> HostRow | None:
    """The host that holds this key."""
    return await _host(tx, hosts.c.public_key == public_key)


async def host_by_id(tx: Transaction, host_id: int) -> HostRow | None:
    """The host of this id; an id beyond the database's integers is nobody's."""
    return None if host_id >= 2**63 else await _host(tx, hosts.c.id == host_id)


async def next_session(tx: Transaction, host_id: int, sequence: int, mark: bytes) -> bool:
    """Notes a session that goes on from the last one, or is that one asked for again; False for any other."""
    follows = hosts.c.sequence < sequence
    is_same = sa.and_(hosts.c.sequence == sequence, hosts.c.session_mark == mark)
    statement = sa.update(hosts).where(hosts.c.id == host_id, sa.or_(follows, is_same))
    noted = await tx.sql.execute(statement.values(sequence=sequence, session_mark=mark).returning(hosts.c.id))
    return noted.one_or_none() is not None


async def _host(tx: Transaction, where: sa.ColumnElement[bool]) -> HostRow | None:
    statement = (
        sa.select(
            hosts.c.id,
            hosts.c.user_id,
            users.c.name.label("user_name"),
            hosts.c.name,
            hosts.c.public_key,
            hosts.c.tier_cap,
            hosts.c.state,
        )
        .select_from(hosts.join(users))
        .where(where)
    )
    row = (await tx.sql.execute(statement)).one_or_none()
    return None if row is None else HostRow(*row)


@dataclass(frozen=True, slots=True)
class ListedHost:
    """A host as operators see it; `allowed` None means that it may have the whole cap in hand."""

    id: int
    user: str
    name: str
    tier_cap: int
    state: str
    created_at: datetime
    allowed: int | None
    parked_until: datetime | None
    reason: str | None
    held: int


async def listed(tx: Transaction, user: str | None, host_id: int | None) -> list[ListedHost]:
    """Hosts for people: of one user, the one of that id, or all; the oldest first."""
    cursor = tx.raw.cursor(row_factory=class_row(ListedHost))
    await cursor.execute(LISTED, {"user": user, "host": host_id})
    return await cursor.fetchall()


LISTED = """
SELECT h.id, u.name AS user, h.name, h.tier_cap, h.state, h.created_at, q.allowed, q.parked_until, q.reason,
       (SELECT count(*) FROM leases l WHERE l.host_id = h.id) AS held
FROM hosts h JOIN users u ON u.id = h.user_id LEFT JOIN host_quotas q ON q.host_id = h.id
WHERE (%(user)s::text IS NULL OR u.name = %(user)s) AND (%(host)s::bigint IS NULL OR h.id = %(host)s)
ORDER BY h.id
"""


async def revoke(tx: Transaction, host_id: int) -> bool:
    """Ends a host for good; False where it is revoked already, or unknown."""
    statement = sa.update(hosts).where(hosts.c.id == host_id, hosts.c.state != "revoked")
    done = await tx.sql.execute(statement.values(state="revoked").returning(hosts.c.id))
    return done.one_or_none() is not None


async def revoked(tx: Transaction) -> frozenset[int]:
    """The ids of all revoked hosts."""
    rows = await tx.sql.execute(sa.select(hosts.c.id).where(hosts.c.state == "revoked"))
    return frozenset(rows.scalars())
