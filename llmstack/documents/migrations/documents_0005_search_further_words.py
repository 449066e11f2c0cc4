"""documents: search chunks by further words, and read a text once for both columns"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from llmstack.db.revisions import extension_schema, scoped
from llmstack.db.schemas import quote

revision = "documents_0005"
down_revision = "documents_0004"
branch_labels = None
depends_on = "kernel_0006"

IS_SEARCHED = "NEW.level = 0 AND NEW.deleted_at IS NULL"


# Of what is stored nothing is written anew: the columns keep their values, and new values come from the triggers.
@scoped
def upgrade() -> None:
    # What a rewrite that was stopped has left.
    op.execute("""
UPDATE corpus_statistics SET is_mixed = true
WHERE corpus = 'documents' AND EXISTS (
    SELECT FROM chunks
    WHERE (chunks.bm25_k1, chunks.bm25_b, chunks.bm25_average_length, chunks.bm25_context_weight)
        <> (corpus_statistics.bm25_k1, corpus_statistics.bm25_b, corpus_statistics.bm25_average_length,
            corpus_statistics.bm25_context_weight)
)
""")
    op.add_column("chunks", sa.Column("further_words", sa.Text(), server_default="", nullable=False))
    for column in ("search_vector", "lexical"):
        op.execute(f"ALTER TABLE chunks ALTER COLUMN {column} DROP EXPRESSION")
    op.execute(
        f"CREATE TRIGGER chunks_searchable BEFORE INSERT OR UPDATE ON chunks FOR EACH ROW WHEN ({IS_SEARCHED}) "
        "EXECUTE FUNCTION make_searchable('documents')"
    )
    op.execute(
        "CREATE TRIGGER chunks_unsearchable BEFORE INSERT OR UPDATE ON chunks FOR EACH ROW "
        f"WHEN (({IS_SEARCHED}) IS NOT TRUE) EXECUTE FUNCTION make_unsearchable()"
    )


# A column cannot become a generated one: both are made anew, and the table is written anew with them.
@scoped
def downgrade() -> None:
    vectors = quote(extension_schema())
    document = (
        "CASE WHEN level = 0 AND deleted_at IS NULL THEN search_document(owner_id, language, context, content) END"
    )
    weights = f"bm25_weights({document}, bm25_k1, bm25_b, bm25_average_length, bm25_context_weight)"
    op.execute("DROP TRIGGER chunks_searchable ON chunks")
    op.execute("DROP TRIGGER chunks_unsearchable ON chunks")
    op.execute(f"""
ALTER TABLE chunks
    DROP COLUMN further_words, DROP COLUMN search_vector, DROP COLUMN lexical,
    ADD COLUMN search_vector tsvector GENERATED ALWAYS AS ({document}) STORED,
    ADD COLUMN lexical {vectors}.sparsevec(268435456) GENERATED ALWAYS AS ({weights}) STORED
""")
    for setting in ("STORAGE MAIN", "STATISTICS 0"):
        op.execute(f"ALTER TABLE chunks ALTER COLUMN lexical SET {setting}")
    op.create_index(
        "ix_chunks_search_vector",
        "chunks",
        ["search_vector"],
        postgresql_using="gin",
        postgresql_with={"fastupdate": "off"},
    )
