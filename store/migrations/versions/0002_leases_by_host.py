"""Leases by host: what a host holds, and what of it is due, is one short range."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.drop_index("ix_leases_deadline", table_name="leases")
    op.create_index("ix_leases_host", "leases", ["host_id", "deadline"])
