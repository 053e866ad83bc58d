"""Annotations without an index that nothing asks and without references that every acceptance locked."""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.drop_index("ix_annotations_annotation", "annotations")
    op.drop_constraint("fk_annotations_unit", "annotations", type_="foreignkey")
    op.drop_constraint("fk_annotations_from_user_id", "annotations", type_="foreignkey")
