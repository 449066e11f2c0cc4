"""embeddings: create embedding spaces"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from llmstack.db.revisions import scoped

revision = "embeddings_0001"
down_revision = None
branch_labels = ("embeddings",)
depends_on = "kernel_0001"


@scoped
def upgrade() -> None:
    op.create_table(
        "embedding_spaces",
        sa.Column("id", sa.SmallInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("dimensions", sa.Integer(), nullable=False),
        sa.Column("distance", sa.Text(), server_default="cosine", nullable=False),
        sa.Column("storage", sa.Text(), server_default="halfvec", nullable=False),
        sa.Column("index_method", sa.Text(), server_default="hnsw", nullable=False),
        sa.Column("index_parameters", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("state", sa.Text(), server_default="active", nullable=False),
        sa.Column("is_default", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_embedding_spaces"),
        sa.UniqueConstraint("name", name="uq_embedding_spaces_name"),
        sa.CheckConstraint("distance IN ('cosine', 'inner_product', 'l2')", name="ck_embedding_spaces_distance"),
        sa.CheckConstraint("storage IN ('halfvec', 'vector')", name="ck_embedding_spaces_storage"),
        sa.CheckConstraint("index_method IN ('hnsw', 'ivfflat', 'none')", name="ck_embedding_spaces_index_method"),
        sa.CheckConstraint("state IN ('active', 'shadow', 'retired')", name="ck_embedding_spaces_state"),
        sa.CheckConstraint("dimensions BETWEEN 1 AND 16000", name="ck_embedding_spaces_dimensions"),
        sa.CheckConstraint("NOT is_default OR state = 'active'", name="ck_embedding_spaces_default_is_active"),
    )
    op.create_index(
        "uq_embedding_spaces_default",
        "embedding_spaces",
        ["is_default"],
        unique=True,
        postgresql_where=sa.text("is_default"),
    )


@scoped
def downgrade() -> None:
    op.drop_table("embedding_spaces")
