"""Credit totals of users, hosts and teams, and who was in which team when."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "credit_totals",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("owner_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("results", sa.BigInteger(), nullable=False),
        sa.Column("credit", sa.Float(), nullable=False),
        sa.Column("week_credit", sa.Float(), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("owner IN ('user', 'host', 'team')", name=op.f("ck_credit_totals_owner")),
        sa.PrimaryKeyConstraint("owner", "owner_id", name=op.f("pk_credit_totals")),
    )
    op.drop_table("team_members")  # nothing ever wrote to it
    op.create_table(
        "team_members",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("joined_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("left_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("team_id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("left_at > joined_at", name=op.f("ck_team_members_left_at")),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_team_members_team_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_team_members_user_id")),
        sa.PrimaryKeyConstraint("user_id", "joined_at", name=op.f("pk_team_members")),
    )
    op.create_index(op.f("ix_team_members_team_id"), "team_members", ["team_id"])
    op.create_index(
        "uq_team_members_now",
        "team_members",
        ["user_id"],
        unique=True,
        postgresql_where=sa.text("left_at IS NULL"),
    )
    # What was folded before counts too.
    for owner in ("user", "host"):
        op.execute(f"""
            INSERT INTO credit_totals (owner, owner_id, results, credit, week_credit, as_of)
            SELECT '{owner}', {owner}_id, count(*), sum(credit), 0, now()
            FROM ledger WHERE folded AND judgement IN ('agreed', 'unchecked') GROUP BY {owner}_id
        """)  # noqa: S608 (two words of our own)
