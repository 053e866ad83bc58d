"""Evidence that fades, and leases whose answer may settle a unit alone."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

JUDGEMENTS = "judgement IN ('agreed', 'disagreed', 'failed', 'unchecked')"


def upgrade() -> None:
    op.add_column("leases", sa.Column("alone", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.drop_constraint(op.f("ck_ledger_judgement"), "ledger")
    op.create_check_constraint(op.f("ck_ledger_judgement"), "ledger", JUDGEMENTS)
    for name in ("month_agreed", "month_disagreed", "month_failed", "hour_agreed", "hour_disagreed"):
        _add(name, sa.Float(), "0")
    _add("unchecked", sa.BigInteger(), "0")
    _add("as_of", sa.DateTime(timezone=True), "now()")
    _add("folded_at", sa.DateTime(timezone=True), "now()")
    op.create_index("ix_standings_folded_at", "standings", ["folded_at"])


def _add(name: str, kind: sa.types.TypeEngine[Any], value: str) -> None:
    """A column that those who are there already have `value` in, and new ones must say."""
    op.add_column("standings", sa.Column(name, kind, server_default=sa.text(value), nullable=False))
    op.alter_column("standings", name, server_default=None)
