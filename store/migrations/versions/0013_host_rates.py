"""How fast hosts are, by campaign and perspective."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.create_table(
        "host_rates",
        sa.Column("host_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("campaign_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("perspective_id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("samples", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("seconds >= 0", name=op.f("ck_host_rates_seconds")),
        sa.PrimaryKeyConstraint("host_id", "campaign_id", "perspective_id", name=op.f("pk_host_rates")),
    )
    op.create_index("ix_host_rates_updated_at", "host_rates", ["updated_at"])
