"""Messages to volunteers."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

CODES = "code IN ('operator', 'copied', 'over_quota', 'parked')"


def upgrade() -> None:
    op.create_table(
        "messages",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("user_id", sa.BigInteger()),
        sa.Column("host_id", sa.BigInteger()),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(CODES, name=op.f("ck_messages_code")),
        sa.CheckConstraint("user_id IS NULL OR host_id IS NULL", name=op.f("ck_messages_one_addressee")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_messages_user_id")),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name=op.f("fk_messages_host_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_messages")),
    )
    for column in ("user_id", "host_id", "until"):
        op.create_index(op.f(f"ix_messages_{column}"), "messages", [column])
