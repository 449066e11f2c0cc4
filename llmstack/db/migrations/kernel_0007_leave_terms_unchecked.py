"""kernel: leave the terms of a corpus without a foreign key, whose check of each row took half of a refresh"""

from __future__ import annotations

from alembic import op

from llmstack.db.revisions import scoped

revision = "kernel_0007"
down_revision = "kernel_0006"
branch_labels = None
depends_on = None

NAME = "fk_term_statistics_corpus_corpus_statistics"


@scoped
def upgrade() -> None:
    op.drop_constraint(NAME, "term_statistics", type_="foreignkey")


@scoped
def downgrade() -> None:
    op.execute("DELETE FROM term_statistics WHERE corpus NOT IN (SELECT corpus FROM corpus_statistics)")
    op.create_foreign_key(NAME, "term_statistics", "corpus_statistics", ["corpus"], ["corpus"], ondelete="CASCADE")
