"""The foundation: campaigns, images, units, shelves, leases, results, ledger and annotations."""

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import Vector
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("CREATE EXTENSION IF NOT EXISTS vector")
    op.execute("CREATE SEQUENCE unit_ids")
    op.execute("CREATE SEQUENCE return_ids")
    op.create_table(
        "annotation_sources",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("annotation_schema", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("license", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_annotation_sources")),
        sa.UniqueConstraint("name", name=op.f("uq_annotation_sources_name")),
    )
    op.create_table(
        "campaigns",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="running", nullable=False),
        sa.Column("policy", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("state IN ('running', 'paused')", name=op.f("ck_campaigns_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_campaigns")),
        sa.UniqueConstraint("name", name=op.f("uq_campaigns_name")),
    )
    op.create_table(
        "contents",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("derivative_hash", sa.LargeBinary(), nullable=False),
        sa.Column("phash", sa.BigInteger(), nullable=False),
        sa.Column("near_duplicate_of", sa.BigInteger(), nullable=True),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), server_default="available", nullable=False),
        sa.Column("license", sa.Text(), nullable=True),
        sa.Column("attribution", sa.Text(), nullable=True),
        sa.Column("flags", sa.Integer(), server_default="0", nullable=False),
        sa.Column("meta", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "status IN ('pending', 'available', 'unavailable', 'delisted')", name=op.f("ck_contents_status")
        ),
        sa.CheckConstraint(
            "octet_length(hash) = 32 AND octet_length(derivative_hash) = 32", name=op.f("ck_contents_hashes")
        ),
        sa.CheckConstraint("width > 0 AND height > 0 AND size > 0", name=op.f("ck_contents_positive")),
        sa.ForeignKeyConstraint(
            ["near_duplicate_of"], ["contents.id"], name=op.f("fk_contents_near_duplicate_of")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_contents")),
        sa.UniqueConstraint("hash", name=op.f("uq_contents_hash")),
    )
    op.create_index(op.f("ix_contents_derivative_hash"), "contents", ["derivative_hash"], unique=False)
    op.create_index(
        "ix_contents_phash_band_0", "contents", [sa.literal_column("((phash >> 0) & 65535)")], unique=False
    )
    op.create_index(
        "ix_contents_phash_band_1", "contents", [sa.literal_column("((phash >> 16) & 65535)")], unique=False
    )
    op.create_index(
        "ix_contents_phash_band_2", "contents", [sa.literal_column("((phash >> 32) & 65535)")], unique=False
    )
    op.create_index(
        "ix_contents_phash_band_3", "contents", [sa.literal_column("((phash >> 48) & 65535)")], unique=False
    )
    op.create_table(
        "leases",
        sa.Column("campaign_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("unit_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("lane", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("host_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("leased_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("campaign_id", "unit_id", "lane", name=op.f("pk_leases")),
        sa.UniqueConstraint("campaign_id", "unit_id", "user_id", name="uq_leases_one_per_user"),
        postgresql_with={"autovacuum_vacuum_scale_factor": "0.02", "autovacuum_vacuum_cost_delay": "0"},
    )
    op.create_index("ix_leases_deadline", "leases", ["campaign_id", "deadline"], unique=False)
    op.create_table(
        "ledger",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("unit_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("host_id", sa.BigInteger(), nullable=False),
        sa.Column("perspective_id", sa.SmallInteger(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("judgement", sa.Text(), nullable=False),
        sa.Column("credit", sa.Float(), nullable=False),
        sa.Column("folded", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "judgement IN ('agreed', 'disagreed', 'failed')", name=op.f("ck_ledger_judgement")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger")),
    )
    op.create_index(
        "ix_ledger_unfolded", "ledger", ["id"], unique=False, postgresql_where=sa.text("NOT folded")
    )
    op.create_index(
        "uq_ledger_once",
        "ledger",
        ["campaign_id", "unit_id", "user_id"],
        unique=True,
        postgresql_where=sa.text("judgement <> 'failed'"),
    )
    op.create_table(
        "past_leases",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("unit_id", sa.BigInteger(), nullable=False),
        sa.Column("lane", sa.SmallInteger(), nullable=False),
        sa.Column("host_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("leased_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ending", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "ending IN ('expired', 'released', 'failed', 'stopped')", name=op.f("ck_past_leases_ending")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_past_leases")),
    )
    op.create_index("ix_past_leases_unit", "past_leases", ["campaign_id", "unit_id"], unique=False)
    op.create_table(
        "ready",
        sa.Column("campaign_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("perspective_id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("tier", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("lane", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("block", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("shuffle", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("unit_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("fresh", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.CheckConstraint("lane BETWEEN 0 AND 31", name=op.f("ck_ready_lane")),
        sa.CheckConstraint("shuffle >= 0 AND shuffle < 1073741824", name=op.f("ck_ready_shuffle")),
        sa.PrimaryKeyConstraint(
            "campaign_id",
            "perspective_id",
            "tier",
            "lane",
            "block",
            "shuffle",
            "unit_id",
            name=op.f("pk_ready"),
        ),
        postgresql_with={"autovacuum_vacuum_scale_factor": "0.02", "autovacuum_vacuum_cost_delay": "0"},
    )
    op.create_table(
        "results",
        sa.Column("campaign_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("unit_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("user_id", sa.BigInteger(), autoincrement=False, nullable=False),
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
        sa.CheckConstraint("octet_length(hash) = 32", name=op.f("ck_results_hash")),
        sa.PrimaryKeyConstraint("campaign_id", "unit_id", "user_id", name=op.f("pk_results")),
    )
    op.create_table(
        "returns",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("host_id", sa.BigInteger(), nullable=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("octet_length(signature) = 64", name=op.f("ck_returns_signature")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_returns")),
    )
    op.create_table(
        "settled",
        sa.Column("campaign_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("unit_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("campaign_id", "unit_id", name=op.f("pk_settled")),
    )
    op.create_table(
        "standings",
        sa.Column("host_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("campaign_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("perspective_id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("agreed", sa.BigInteger(), nullable=False),
        sa.Column("disagreed", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("credit", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint(
            "host_id", "campaign_id", "perspective_id", "model", name=op.f("pk_standings")
        ),
    )
    op.create_table(
        "teams",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_teams")),
        sa.UniqueConstraint("name", name=op.f("uq_teams_name")),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "role IN ('volunteer', 'contributor', 'moderator', 'admin', 'synthesizer')",
            name=op.f("ck_users_role"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("name", name=op.f("uq_users_name")),
    )
    op.create_table(
        "content_embeddings",
        sa.Column("content_id", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("embedding", Vector(), nullable=False),
        sa.ForeignKeyConstraint(
            ["content_id"], ["contents.id"], name=op.f("fk_content_embeddings_content_id")
        ),
        sa.PrimaryKeyConstraint("content_id", "model", name=op.f("pk_content_embeddings")),
    )
    op.create_table(
        "content_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("content_id", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("set_by", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "status IN ('pending', 'available', 'unavailable', 'delisted')",
            name=op.f("ck_content_events_status"),
        ),
        sa.ForeignKeyConstraint(["content_id"], ["contents.id"], name=op.f("fk_content_events_content_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_content_events")),
    )
    op.create_index(op.f("ix_content_events_content_id"), "content_events", ["content_id"], unique=False)
    op.create_table(
        "content_sets",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_content_sets_campaign_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_content_sets")),
        sa.UniqueConstraint("campaign_id", "name", name=op.f("uq_content_sets_campaign_id_name")),
    )
    op.create_index(op.f("ix_content_sets_campaign_id"), "content_sets", ["campaign_id"], unique=False)
    op.create_table(
        "content_sources",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("content_id", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("type IN ('file', 'url')", name=op.f("ck_content_sources_type")),
        sa.ForeignKeyConstraint(["content_id"], ["contents.id"], name=op.f("fk_content_sources_content_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_content_sources")),
        sa.UniqueConstraint("value", name=op.f("uq_content_sources_value")),
    )
    op.create_index(op.f("ix_content_sources_content_id"), "content_sources", ["content_id"], unique=False)
    op.create_table(
        "hosts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("tier_cap", sa.SmallInteger(), nullable=False),
        sa.Column("state", sa.Text(), server_default="active", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("state IN ('active', 'revoked')", name=op.f("ck_hosts_state")),
        sa.CheckConstraint("octet_length(public_key) = 32", name=op.f("ck_hosts_public_key")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_hosts_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hosts")),
        sa.UniqueConstraint("public_key", name=op.f("uq_hosts_public_key")),
    )
    op.create_index(op.f("ix_hosts_user_id"), "hosts", ["user_id"], unique=False)
    op.create_table(
        "invites",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=True),
        sa.Column("tier_cap", sa.SmallInteger(), nullable=False),
        sa.Column("uses_left", sa.Integer(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("uses_left >= 0", name=op.f("ck_invites_uses_left")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_invites_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invites")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_invites_token_hash")),
    )
    op.create_table(
        "tasks",
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("perspective_id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("tier", sa.SmallInteger(), nullable=False),
        sa.Column("credit", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_tasks_campaign_id")),
        sa.PrimaryKeyConstraint("campaign_id", "perspective_id", name=op.f("pk_tasks")),
        sa.UniqueConstraint("campaign_id", "name", name=op.f("uq_tasks_campaign_id_name")),
    )
    op.create_table(
        "team_members",
        sa.Column("team_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_team_members_team_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_team_members_user_id")),
        sa.PrimaryKeyConstraint("team_id", "user_id", name=op.f("pk_team_members")),
    )
    op.create_index(op.f("ix_team_members_user_id"), "team_members", ["user_id"], unique=False)
    op.create_table(
        "content_set_members",
        sa.Column("set_id", sa.BigInteger(), nullable=False),
        sa.Column("content_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["content_id"], ["contents.id"], name=op.f("fk_content_set_members_content_id")
        ),
        sa.ForeignKeyConstraint(["set_id"], ["content_sets.id"], name=op.f("fk_content_set_members_set_id")),
        sa.PrimaryKeyConstraint("set_id", "content_id", name=op.f("pk_content_set_members")),
    )
    op.create_index(
        op.f("ix_content_set_members_content_id"), "content_set_members", ["content_id"], unique=False
    )
    op.create_table(
        "units",
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("perspective_id", sa.SmallInteger(), nullable=False),
        sa.Column("content_id", sa.BigInteger(), nullable=False),
        sa.Column("task_version", sa.SmallInteger(), nullable=False),
        sa.Column("ordinal", sa.SmallInteger(), nullable=False),
        sa.Column("tier", sa.SmallInteger(), nullable=False),
        sa.Column("block", sa.Integer(), nullable=False),
        sa.Column("shuffle", sa.Integer(), nullable=False),
        sa.Column("image_hash", sa.LargeBinary(), nullable=False),
        sa.Column("params", sa.Text(), server_default="", nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), server_default="open", nullable=False),
        sa.Column("canonical_user_id", sa.BigInteger(), nullable=True),
        sa.Column("verdict", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state = 'accepted') = (canonical_user_id IS NOT NULL)", name=op.f("ck_units_canonical")
        ),
        sa.CheckConstraint("(state = 'open') = (settled_at IS NULL)", name=op.f("ck_units_settled_at")),
        sa.CheckConstraint(
            "kind IN ('caption', 'synthesis', 'revision', 'validate', 'embed')", name=op.f("ck_units_kind")
        ),
        sa.CheckConstraint("state IN ('open', 'accepted', 'exhausted')", name=op.f("ck_units_state")),
        sa.ForeignKeyConstraint(
            ["campaign_id", "perspective_id"],
            ["tasks.campaign_id", "tasks.perspective_id"],
            name="fk_units_task",
        ),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_units_campaign_id")),
        sa.ForeignKeyConstraint(["content_id"], ["contents.id"], name=op.f("fk_units_content_id")),
        sa.PrimaryKeyConstraint("campaign_id", "id", name=op.f("pk_units")),
        sa.UniqueConstraint(
            "campaign_id",
            "content_id",
            "kind",
            "perspective_id",
            "task_version",
            "ordinal",
            name="uq_units_key",
        ),
        postgresql_with={"fillfactor": "85"},
    )
    op.create_table(
        "annotations",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("content_id", sa.BigInteger(), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("unit_id", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("annotation", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("confidence", sa.Float(), nullable=False),
        sa.Column("manually_adjusted", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("overall_rating", sa.Float(), nullable=True),
        sa.Column("from_user_id", sa.BigInteger(), nullable=True),
        sa.Column("from_team_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "status IN ('published', 'held', 'withdrawn')", name=op.f("ck_annotations_status")
        ),
        sa.ForeignKeyConstraint(
            ["campaign_id", "unit_id"], ["units.campaign_id", "units.id"], name="fk_annotations_unit"
        ),
        sa.ForeignKeyConstraint(["content_id"], ["contents.id"], name=op.f("fk_annotations_content_id")),
        sa.ForeignKeyConstraint(["from_team_id"], ["teams.id"], name=op.f("fk_annotations_from_team_id")),
        sa.ForeignKeyConstraint(["from_user_id"], ["users.id"], name=op.f("fk_annotations_from_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_annotations")),
        sa.UniqueConstraint(
            "campaign_id", "unit_id", "version", name=op.f("uq_annotations_campaign_id_unit_id_version")
        ),
    )
    op.create_index(
        "ix_annotations_annotation",
        "annotations",
        ["annotation"],
        unique=False,
        postgresql_using="gin",
        postgresql_ops={"annotation": "jsonb_path_ops"},
    )
    op.create_index(op.f("ix_annotations_content_id"), "annotations", ["content_id"], unique=False)
    op.create_table(
        "annotation_embeddings",
        sa.Column("annotation_id", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("embedding", Vector(), nullable=False),
        sa.ForeignKeyConstraint(
            ["annotation_id"], ["annotations.id"], name=op.f("fk_annotation_embeddings_annotation_id")
        ),
        sa.PrimaryKeyConstraint("annotation_id", "model", name=op.f("pk_annotation_embeddings")),
    )
    op.create_table(
        "annotation_ratings",
        sa.Column("annotation_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("rating", sa.SmallInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("rating BETWEEN 0 AND 10", name=op.f("ck_annotation_ratings_rating")),
        sa.ForeignKeyConstraint(
            ["annotation_id"], ["annotations.id"], name=op.f("fk_annotation_ratings_annotation_id")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_annotation_ratings_user_id")),
        sa.PrimaryKeyConstraint("annotation_id", "user_id", name=op.f("pk_annotation_ratings")),
    )
    op.create_index(op.f("ix_annotation_ratings_user_id"), "annotation_ratings", ["user_id"], unique=False)
    op.create_table(
        "annotation_reports",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("annotation_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["annotation_id"], ["annotations.id"], name=op.f("fk_annotation_reports_annotation_id")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_annotation_reports_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_annotation_reports")),
    )
    op.create_index(
        op.f("ix_annotation_reports_annotation_id"), "annotation_reports", ["annotation_id"], unique=False
    )
    op.create_index(op.f("ix_annotation_reports_user_id"), "annotation_reports", ["user_id"], unique=False)
    op.create_table(
        "annotation_source_links",
        sa.Column("annotation_id", sa.BigInteger(), nullable=False),
        sa.Column("source_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["annotation_id"], ["annotations.id"], name=op.f("fk_annotation_source_links_annotation_id")
        ),
        sa.ForeignKeyConstraint(
            ["source_id"], ["annotation_sources.id"], name=op.f("fk_annotation_source_links_source_id")
        ),
        sa.PrimaryKeyConstraint("annotation_id", "source_id", name=op.f("pk_annotation_source_links")),
    )
    op.create_index(
        op.f("ix_annotation_source_links_source_id"), "annotation_source_links", ["source_id"], unique=False
    )
    # ### end Alembic commands ###
