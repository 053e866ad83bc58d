"""Vectors of images and of annotations, per model."""

import sqlalchemy as sa
from pgvector.sqlalchemy import Vector

from store.schema import metadata

content_embeddings = sa.Table(
    "content_embeddings",
    metadata,
    sa.Column("content_id", sa.ForeignKey("contents.id"), primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("embedding", Vector(), nullable=False),
)

annotation_embeddings = sa.Table(
    "annotation_embeddings",
    metadata,
    sa.Column("annotation_id", sa.ForeignKey("annotations.id"), primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("embedding", Vector(), nullable=False),
)
