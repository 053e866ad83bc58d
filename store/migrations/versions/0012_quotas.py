"""Quotas of faulty hosts, and how far work was read for them; revoked hosts at hand."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.create_table(
        "host_quotas",
        sa.Column("host_id", sa.BigInteger(), nullable=False),
        sa.Column("allowed", sa.Integer(), nullable=False),
        sa.Column("strikes", sa.Integer(), nullable=False),
        sa.Column("parkings", sa.Integer(), nullable=False),
        sa.Column("parked_until", sa.DateTime(timezone=True)),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.CheckConstraint("allowed >= 1", name=op.f("ck_host_quotas_allowed")),
        sa.CheckConstraint("strikes >= 0 AND parkings >= 0", name=op.f("ck_host_quotas_counts")),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name=op.f("fk_host_quotas_host_id")),
        sa.PrimaryKeyConstraint("host_id", name=op.f("pk_host_quotas")),
    )
    op.create_table(
        "quota_progress",
        sa.Column("single", sa.Boolean(), nullable=False),
        sa.Column("ledger_id", sa.BigInteger(), nullable=False),
        sa.Column("past_lease_id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("single", name=op.f("ck_quota_progress_single")),
        sa.PrimaryKeyConstraint("single", name=op.f("pk_quota_progress")),
    )
    # What was before is not held against anybody.
    op.execute("""
        INSERT INTO quota_progress
        SELECT true, (SELECT COALESCE(max(id), 0) FROM ledger), (SELECT COALESCE(max(id), 0) FROM past_leases)
    """)
    op.create_index("ix_hosts_revoked", "hosts", ["id"], postgresql_where=sa.text("state = 'revoked'"))
