"""People: users and teams."""

from collections.abc import Collection
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from store.database import Transaction
from store.schema import metadata, one_of

ROLES = ("volunteer", "contributor", "moderator", "admin", "synthesizer")

users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    one_of("role", ROLES),
)

teams = sa.Table(
    "teams",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
)

# A user is in one team at a time; who was in which when is kept, for credit goes by when work was judged.
team_members = sa.Table(
    "team_members",
    metadata,
    sa.Column("user_id", sa.ForeignKey("users.id"), primary_key=True),
    sa.Column("joined_at", sa.DateTime(timezone=True), primary_key=True),
    sa.Column("left_at", sa.DateTime(timezone=True)),
    sa.Column("team_id", sa.ForeignKey("teams.id"), nullable=False, index=True),
    sa.CheckConstraint("left_at > joined_at", name="left_at"),
    sa.Index("uq_team_members_now", "user_id", unique=True, postgresql_where=sa.text("left_at IS NULL")),
)


async def user_id(tx: Transaction, name: str) -> int | None:
    """The id of the user of that name."""
    found = await tx.sql.execute(sa.select(users.c.id).where(users.c.name == name))
    return found.scalar_one_or_none()


async def create_team(tx: Transaction, name: str, now: datetime) -> bool:
    """Makes a team; False where the name is taken."""
    statement = insert(teams).values(name=name, created_at=now).on_conflict_do_nothing()
    return (await tx.sql.execute(statement.returning(teams.c.id))).one_or_none() is not None


async def team_id(tx: Transaction, name: str) -> int | None:
    """The id of the team of that name."""
    found = await tx.sql.execute(sa.select(teams.c.id).where(teams.c.name == name))
    return found.scalar_one_or_none()


async def leave_team(tx: Transaction, user: int, now: datetime) -> bool:
    """Takes a user out of the team that it is in; False where it is in none."""
    here = (team_members.c.user_id == user, team_members.c.left_at.is_(None))
    # Who leaves in the moment of joining was never in.
    undone = await tx.sql.execute(sa.delete(team_members).where(*here, team_members.c.joined_at >= now))
    left = await tx.sql.execute(sa.update(team_members).where(*here).values(left_at=now))
    return undone.rowcount + left.rowcount > 0


async def join_team(tx: Transaction, user: int, team: int, now: datetime) -> None:
    """Puts a user into a team, out of any other."""
    await tx.sql.execute(sa.select(users.c.id).where(users.c.id == user).with_for_update())
    await leave_team(tx, user, now)
    await tx.sql.execute(insert(team_members).values(user_id=user, team_id=team, joined_at=now))


async def team_of(tx: Transaction, user: int) -> str | None:
    """The name of the team that a user is in."""
    statement = sa.select(teams.c.name).join(team_members)
    found = await tx.sql.execute(
        statement.where(team_members.c.user_id == user, team_members.c.left_at.is_(None))
    )
    return found.scalar_one_or_none()


async def members(tx: Transaction) -> list[tuple[str, str | None]]:
    """(team name, user name) of every member; a team without any has one row with None."""
    here = sa.and_(team_members.c.team_id == teams.c.id, team_members.c.left_at.is_(None))
    statement = (
        sa.select(teams.c.name, users.c.name)
        .select_from(
            teams.outerjoin(team_members, here).outerjoin(users, users.c.id == team_members.c.user_id)
        )
        .order_by(teams.c.name, users.c.name)
    )
    return [(row[0], row[1]) for row in await tx.sql.execute(statement)]


async def named(tx: Transaction, targets: Collection[str]) -> list[tuple[int, str]]:
    """(user id, target) of users, given as "user:NAME", and of all who are in a team, as "team:NAME"."""
    names = {
        kind: [target.partition(":")[2] for target in targets if target.startswith(kind)]
        for kind in ("user", "team")
    }
    found = await tx.raw.execute(NAMED, names)
    return [tuple(row) for row in await found.fetchall()]


NAMED = """
SELECT id, 'user:' || name FROM users WHERE name = ANY (%(user)s::text[])
UNION ALL
SELECT m.user_id, 'team:' || t.name
FROM teams t JOIN team_members m ON m.team_id = t.id AND m.left_at IS NULL
WHERE t.name = ANY (%(team)s::text[])
"""
