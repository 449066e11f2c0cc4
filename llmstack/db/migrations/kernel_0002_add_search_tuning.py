"""kernel: add what a corpus is tuned by: calibrations, and the search log with its feedback"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from llmstack.db.revisions import scoped

revision = "kernel_0002"
down_revision = "kernel_0001"
branch_labels = None
depends_on = None


def create_log() -> None:
    op.create_table(
        "search_log",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("corpus", sa.Text(), nullable=False),
        sa.Column("owner_id", sa.Text(), nullable=False),
        sa.Column("query", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("hit_limit", sa.Integer(), nullable=False),
        sa.Column("filters", JSONB()),
        sa.Column("hits", JSONB(), nullable=False),
        sa.Column("vector_path", sa.Text()),
        sa.Column("elapsed_ms", sa.REAL(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_search_log"),
        sa.UniqueConstraint("owner_id", "id", name="uq_search_log_owner_id_id"),
        sa.CheckConstraint("mode IN ('hybrid', 'vector', 'text')", name="ck_search_log_mode"),
    )
    op.create_index("ix_search_log_created_at", "search_log", ["created_at"])
    op.create_index("ix_search_log_owner_id_created_at_id", "search_log", ["owner_id", "created_at", "id"])


def create_feedback() -> None:
    op.create_table(
        "search_feedback",
        sa.Column("search_id", sa.Uuid(), nullable=False),
        sa.Column("chunk_id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Text(), nullable=False),
        sa.Column("id_at_origin", sa.Text(), nullable=False),
        sa.Column("grade", sa.REAL(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("search_id", "chunk_id", name="pk_search_feedback"),
        sa.ForeignKeyConstraint(
            ["owner_id", "search_id"],
            ["search_log.owner_id", "search_log.id"],
            name="fk_search_feedback_owner_id_search_id_search_log",
            ondelete="CASCADE",
        ),
        sa.CheckConstraint("grade >= 0 AND grade <= 1000000", name="ck_search_feedback_grade"),
    )
    op.create_index("ix_search_feedback_owner_id_updated_at", "search_feedback", ["owner_id", "updated_at"])


def create_calibrations() -> None:
    op.create_table(
        "calibrations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("corpus", sa.Text(), nullable=False),
        sa.Column("before", JSONB(), nullable=False),
        sa.Column("after", JSONB(), nullable=False),
        sa.Column("evidence", JSONB(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("undone_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_calibrations"),
    )
    op.create_index("ix_calibrations_corpus_created_at_id", "calibrations", ["corpus", "created_at", "id"])


@scoped
def upgrade() -> None:
    op.add_column("corpus_statistics", sa.Column("fusion_alpha", sa.REAL()))
    # Marked as whole, for a host's naming convention would lengthen it.
    name = op.f("ck_corpus_statistics_fusion_alpha")
    op.create_check_constraint(name, "corpus_statistics", "fusion_alpha >= 0 AND fusion_alpha <= 1")
    create_log()
    create_feedback()
    create_calibrations()


@scoped
def downgrade() -> None:
    op.drop_table("calibrations")
    op.drop_table("search_feedback")
    op.drop_table("search_log")
    # Its constraint goes with it.
    op.drop_column("corpus_statistics", "fusion_alpha")
