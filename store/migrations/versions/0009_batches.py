"""Batches: what was imported together."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("priority BETWEEN -3 AND 3", name=op.f("ck_batches_priority")),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_batches_campaign_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
        sa.UniqueConstraint("campaign_id", "name", name=op.f("uq_batches_campaign_id_name")),
    )
    op.create_table(
        "batch_ranges",
        sa.Column("campaign_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("first_unit", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("last_unit", sa.BigInteger(), nullable=False),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("first_unit <= last_unit", name=op.f("ck_batch_ranges_ends")),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_batch_ranges_batch_id")),
        sa.PrimaryKeyConstraint("campaign_id", "first_unit", name=op.f("pk_batch_ranges")),
    )
    op.create_index(op.f("ix_batch_ranges_batch_id"), "batch_ranges", ["batch_id"])
