"""Operators cancel and reopen: states, past rounds, and judgements that are taken back."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    for table, states in (
        ("units", ("open", "accepted", "exhausted", "cancelled")),
        ("campaigns", ("running", "paused", "cancelled")),
    ):
        listed = ", ".join(f"'{state}'" for state in states)
        op.drop_constraint(op.f(f"ck_{table}_state"), table)
        op.create_check_constraint(op.f(f"ck_{table}_state"), table, f"state IN ({listed})")
    op.add_column("units", sa.Column("extra_voices", sa.SmallInteger(), server_default="0", nullable=False))
    op.add_column(
        "past_leases", sa.Column("forgiven", sa.Boolean(), server_default=sa.false(), nullable=False)
    )
    op.add_column("ledger", sa.Column("reversed", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("ledger", sa.Column("reversal_of", sa.BigInteger(), nullable=True))
    op.drop_index("uq_ledger_once", "ledger")
    op.create_index(
        "uq_ledger_once",
        "ledger",
        ["campaign_id", "unit_id", "user_id"],
        unique=True,
        postgresql_where=sa.text("judgement <> 'failed' AND NOT reversed"),
    )
    op.create_index(
        "uq_ledger_reversed_once",
        "ledger",
        ["campaign_id", "reversal_of"],
        unique=True,
        postgresql_where=sa.text("reversal_of IS NOT NULL"),
    )
    op.create_table(
        "past_rounds",
        sa.Column("campaign_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("unit_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("round", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("canonical_user_id", sa.BigInteger(), nullable=True),
        sa.Column("verdict", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reopened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "state IN ('accepted', 'exhausted', 'cancelled')", name=op.f("ck_past_rounds_state")
        ),
        sa.PrimaryKeyConstraint("campaign_id", "unit_id", "round", name=op.f("pk_past_rounds")),
    )
    op.create_table(
        "past_results",
        sa.Column("campaign_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("unit_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("user_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("round", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("lane", sa.SmallInteger(), nullable=False),
        sa.Column("host_id", sa.BigInteger(), nullable=False),
        sa.Column("return_id", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("answer", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("elapsed_ms", sa.Integer(), nullable=False),
        sa.Column("late", sa.Boolean(), nullable=False),
        sa.Column("leased_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("returned_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("octet_length(hash) = 32", name=op.f("ck_past_results_hash")),
        sa.PrimaryKeyConstraint("campaign_id", "unit_id", "user_id", "round", name=op.f("pk_past_results")),
    )
