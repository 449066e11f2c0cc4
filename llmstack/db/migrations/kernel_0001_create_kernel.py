"""kernel: create search functions and statistics"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from llmstack.db.revisions import extension_schema, schema, scoped
from llmstack.db.schemas import quote

revision = "kernel_0001"
down_revision = None
branch_labels = ("kernel",)
depends_on = None

LANGUAGES = (
    "arabic", "armenian", "basque", "catalan", "danish", "dutch", "english", "finnish", "french", "german",
    "greek", "hindi", "hungarian", "indonesian", "irish", "italian", "lithuanian", "nepali", "norwegian",
    "portuguese", "romanian", "russian", "serbian", "spanish", "swedish", "tamil", "turkish", "yiddish",
)  # fmt: skip


def is_prepared() -> bool:
    """Whether somebody with more rights has made the schema and the extension already."""
    if op.get_context().as_sql:
        return False
    found = sa.text(
        "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = :schema) "
        "AND EXISTS (SELECT FROM pg_extension WHERE extname = 'vector')"
    )
    return bool(op.get_bind().scalar(found, {"schema": schema()}))


def create_extension() -> None:
    if is_prepared():
        return
    # CREATE EXTENSION IF NOT EXISTS races with itself when two schemas migrate at once.
    op.execute("SELECT pg_advisory_xact_lock(hashtextextended('llmstack:extension', 0))")
    op.execute(f"CREATE SCHEMA IF NOT EXISTS {quote(schema())}")
    op.execute(f"CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA {quote(extension_schema())}")


@scoped
def create_objects() -> None:
    vectors = quote(extension_schema())
    cases = " ".join(f"WHEN '{name}' THEN 'pg_catalog.{name}'::regconfig" for name in LANGUAGES)
    op.execute(f"""
CREATE FUNCTION text_search_config(language text) RETURNS regconfig
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE language {cases} ELSE 'pg_catalog.simple'::regconfig END
""")
    op.execute("""
CREATE FUNCTION owner_lexeme(owner_id text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN chr(1) || 'owner=' || md5(owner_id)
""")
    op.execute("""
CREATE FUNCTION lexeme_dimension(lexeme text) RETURNS integer
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN ('x' || substr(md5(lexeme), 1, 7))::bit(28)::integer + 1
""")
    # Lower case comes first: PostgreSQL measures a word before it lower-cases it, and one that then grows beyond
    # 2 kB would be cut inside a character.
    op.execute("""
CREATE FUNCTION search_document(owner_id text, language text, context text, content text) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN setweight(to_tsvector(text_search_config(language), lower(coalesce(context, ''))), 'A')
    || to_tsvector(text_search_config(language), lower(coalesce(content, '')))
    || array_to_tsvector(ARRAY[owner_lexeme(owner_id)])
""")
    op.execute(f"""
CREATE FUNCTION bm25_weights(document tsvector, k1 real, b real, average_length real, context_weight real)
RETURNS {vectors}.sparsevec
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
  SELECT ('{{' || coalesce(string_agg(dimension || ':' || weight, ',' ORDER BY dimension), '') || '}}/268435456')
         ::{vectors}.sparsevec
  FROM (
    SELECT dimension, round(sum(frequency * (k1 + 1)
             / (frequency + k1 * (1 - b + b * length / greatest(average_length, 1))))::numeric, 4) AS weight
    FROM (
      SELECT lexeme_dimension(lexeme) AS dimension, frequency, sum(frequency) OVER () AS length
      FROM (
        SELECT lexeme, cardinality(positions)
                 + (context_weight - 1) * cardinality(array_positions(weights, 'A')) AS frequency
        FROM unnest(document) WHERE positions IS NOT NULL
      ) AS counted
    ) AS measured
    WHERE frequency > 0
    GROUP BY dimension
    ORDER BY weight DESC
    LIMIT 16000
  ) AS heaviest;
END
""")
    op.create_table(
        "corpus_statistics",
        sa.Column("corpus", sa.Text(), nullable=False),
        sa.Column("row_count", sa.BigInteger(), nullable=False),
        sa.Column("average_length", sa.REAL(), nullable=False),
        sa.Column("sampled_share", sa.REAL(), nullable=False),
        sa.Column("changed_rows", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("bm25_k1", sa.REAL(), server_default=sa.text("1.2"), nullable=False),
        sa.Column("bm25_b", sa.REAL(), server_default=sa.text("0.75"), nullable=False),
        sa.Column("bm25_average_length", sa.REAL(), server_default=sa.text("100.0"), nullable=False),
        sa.Column("bm25_context_weight", sa.REAL(), server_default=sa.text("1.0"), nullable=False),
        sa.Column("refreshed_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("corpus", name="pk_corpus_statistics"),
    )
    op.create_table(
        "term_statistics",
        sa.Column("corpus", sa.Text(), nullable=False),
        sa.Column("lexeme", sa.Text(), nullable=False),
        sa.Column("document_count", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["corpus"],
            ["corpus_statistics.corpus"],
            name="fk_term_statistics_corpus_corpus_statistics",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("corpus", "lexeme", name="pk_term_statistics"),
    )


def upgrade() -> None:
    create_extension()
    create_objects()


@scoped
def downgrade() -> None:
    op.drop_table("term_statistics")
    op.drop_table("corpus_statistics")
    op.execute("DROP FUNCTION bm25_weights(tsvector, real, real, real, real)")
    op.execute("DROP FUNCTION search_document(text, text, text, text)")
    op.execute("DROP FUNCTION lexeme_dimension(text)")
    op.execute("DROP FUNCTION owner_lexeme(text)")
    op.execute("DROP FUNCTION text_search_config(text)")
