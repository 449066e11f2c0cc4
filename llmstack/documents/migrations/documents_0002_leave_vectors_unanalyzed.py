"""documents: keep vectors out of the planner's statistics, which nothing reads; ANALYZE then takes a third less"""

from __future__ import annotations

from alembic import op

from llmstack.db.revisions import scoped

revision = "documents_0002"
down_revision = "documents_0001"
branch_labels = None
# A search reads columns that these add.
depends_on = ("kernel_0002", "embeddings_0002")

COLUMNS = (("chunks", "lexical"), ("chunk_embeddings", "embedding"), ("chunk_embeddings", "embedding_full"))


@scoped
def upgrade() -> None:
    for table, column in COLUMNS:
        op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS 0")


@scoped
def downgrade() -> None:
    for table, column in COLUMNS:
        op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS -1")
