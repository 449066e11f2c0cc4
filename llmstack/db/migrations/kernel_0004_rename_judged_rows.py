"""kernel: judge a row of any corpus, by what people name: row_id and unit instead of chunk_id and id_at_origin"""

from __future__ import annotations

from alembic import op

from llmstack.db.revisions import name_not_nulls, scoped

revision = "kernel_0004"
down_revision = "kernel_0003"
branch_labels = None
depends_on = None

COLUMNS = (("chunk_id", "row_id"), ("id_at_origin", "unit"))


@scoped
def upgrade() -> None:
    for old, new in COLUMNS:
        op.alter_column("search_feedback", old, new_column_name=new)
    name_not_nulls("search_feedback")


@scoped
def downgrade() -> None:
    for old, new in COLUMNS:
        op.alter_column("search_feedback", new, new_column_name=old)
    name_not_nulls("search_feedback")
