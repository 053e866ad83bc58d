"""Storage of the hot tables: room for verdicts on the page, and vacuum in shorter turns."""

from alembic import op

revision = "0010"
down_revision = "0009"

QUEUE = "autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0"
GROWING = (
    "autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.05, "
    "autovacuum_analyze_scale_factor = 0.05"
)


def upgrade() -> None:
    op.execute(f"ALTER TABLE settled SET ({QUEUE})")
    for table in ("results", "returns", "ledger", "past_leases"):
        op.execute(f"ALTER TABLE {table} SET ({GROWING})")
    op.execute(f"ALTER TABLE units SET ({GROWING}, fillfactor = 40)")
