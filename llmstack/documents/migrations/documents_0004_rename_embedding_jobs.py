"""documents: call the jobs those of chunks, and what they and the vectors belong to a row, as in every table"""

from __future__ import annotations

from alembic import op

from llmstack.db.revisions import name_not_nulls, scoped

revision = "documents_0004"
down_revision = "documents_0003"
branch_labels = None
# A search is logged and judged under the names that these give.
depends_on = "kernel_0005"

JOBS = ("embedding_jobs", "chunk_embedding_jobs")
COLUMN = ("chunk_id", "row_id")
CONSTRAINTS = (
    ("chunk_embeddings", "fk_chunk_embeddings_owner_id_{column}_chunks"),
    ("{jobs}", "pk_{jobs}"),
    ("{jobs}", "fk_{jobs}_owner_id_{column}_chunks"),
    ("{jobs}", "fk_{jobs}_space_id_embedding_spaces"),
)
INDEX = "ix_{jobs}_space_id_attempts_leased_until"


def rename(old: int, new: int) -> None:
    before, after = ({"jobs": JOBS[place], "column": COLUMN[place]} for place in (old, new))
    op.rename_table(JOBS[old], JOBS[new])
    for table in ("chunk_embeddings", JOBS[new]):
        op.alter_column(table, COLUMN[old], new_column_name=COLUMN[new])
        name_not_nulls(table)
    for table, name in CONSTRAINTS:
        op.execute(
            f"ALTER TABLE {table.format(**after)} RENAME CONSTRAINT {name.format(**before)} TO {name.format(**after)}"
        )
    op.execute(f"ALTER INDEX {INDEX.format(**before)} RENAME TO {INDEX.format(**after)}")


@scoped
def upgrade() -> None:
    rename(0, 1)


@scoped
def downgrade() -> None:
    rename(1, 0)
