"""Hosts count their sessions, so that copied and restored clients are seen."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("hosts", sa.Column("sequence", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("hosts", sa.Column("session_mark", sa.LargeBinary()))
