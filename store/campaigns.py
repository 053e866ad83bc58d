"""Campaigns, and their tasks: each perspective as the campaign asks it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, insert

from store.database import Transaction
from store.schema import metadata, one_of

STATES = ("running", "paused", "cancelled")

campaigns = sa.Table(
    "campaigns",
    metadata,
    sa.Column("id", sa.Integer, sa.Identity(always=True), primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("state", sa.Text, nullable=False, server_default="running"),
    sa.Column("policy", JSONB, nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    one_of("state", STATES),
)

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("campaign_id", sa.ForeignKey("campaigns.id"), primary_key=True),
    sa.Column("perspective_id", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("tier", sa.SmallInteger, nullable=False),
    sa.Column("credit", sa.Float, nullable=False),
    sa.UniqueConstraint("campaign_id", "name"),
)


@dataclass(frozen=True, slots=True)
class CampaignRow:
    """A campaign as stored; `policy` is what `coordinator.campaign.Policy` wrote."""

    id: int
    name: str
    state: str
    policy: dict[str, Any]


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One perspective of a campaign; `body` is the JSON that volunteers get, `digest` its SHA-256."""

    campaign_id: int
    perspective_id: int
    name: str
    version: str
    digest: bytes
    body: bytes
    tier: int
    credit: float


async def create(tx: Transaction, name: str, policy: dict[str, Any], now: datetime) -> int | None:
    """Makes a campaign and gives its id; None where the name is taken."""
    statement = insert(campaigns).values(name=name, policy=policy, created_at=now)
    result = await tx.sql.execute(statement.on_conflict_do_nothing().returning(campaigns.c.id))
    row = result.one_or_none()
    return None if row is None else int(row.id)


async def add_tasks(tx: Transaction, rows: Sequence[TaskRow]) -> None:
    """Fixes the campaign's tasks; their bodies never change afterwards."""
    await tx.sql.execute(insert(tasks), [asdict(row) for row in rows])


async def find(tx: Transaction, name: str) -> CampaignRow | None:
    """The campaign of that name."""
    columns = (campaigns.c.id, campaigns.c.name, campaigns.c.state, campaigns.c.policy)
    row = (await tx.sql.execute(sa.select(*columns).where(campaigns.c.name == name))).one_or_none()
    return None if row is None else CampaignRow(*row)


async def all_campaigns(tx: Transaction) -> list[CampaignRow]:
    """Every campaign, oldest first."""
    columns = (campaigns.c.id, campaigns.c.name, campaigns.c.state, campaigns.c.policy)
    return [CampaignRow(*row) for row in await tx.sql.execute(sa.select(*columns).order_by(campaigns.c.id))]


async def all_tasks(tx: Transaction) -> list[TaskRow]:
    """Every task of every campaign."""
    rows = await tx.sql.execute(sa.select(tasks).order_by(tasks.c.campaign_id, tasks.c.perspective_id))
    return [TaskRow(*row) for row in rows]


async def hold(tx: Transaction, campaign_id: int) -> CampaignRow:
    """The campaign, whose state stays as it is until this transaction ends."""
    columns = (campaigns.c.id, campaigns.c.name, campaigns.c.state, campaigns.c.policy)
    statement = sa.select(*columns).where(campaigns.c.id == campaign_id).with_for_update(read=True)
    return CampaignRow(*(await tx.sql.execute(statement)).one())


async def set_state(tx: Transaction, campaign_id: int, state: str) -> None:
    """Makes a campaign hand out work ("running") or not ("paused", "cancelled")."""
    await tx.sql.execute(sa.update(campaigns).where(campaigns.c.id == campaign_id).values(state=state))
    tx.tell_everyone()
