"""kernel: read a query by functions, so that its planning is done once for a connection"""

from __future__ import annotations

from alembic import op

from llmstack.db.revisions import schema, scoped
from llmstack.db.schemas import quote

revision = "kernel_0003"
down_revision = "kernel_0002"
branch_labels = None
depends_on = None

ARGUMENTS = (
    "of_corpus text, of_owner text, words text, languages text[], budget double precision, least_rows double precision"
)


def literal(body: str) -> str:
    """A body as a string constant, whatever the schema that it names is called.

    Functions that PostgreSQL had parsed would keep the tables from being dropped, and before version 18 would be
    planned in every call.
    """
    return "'" + body.replace("'", "''") + "'"


def create_terms() -> None:
    own = quote(schema())
    # Lexemes that occur once are not stored. An owner that the statistics do not know is new or too small for their
    # sample: any term may enter.
    body = literal(f"""
  WITH known AS MATERIALIZED (
    SELECT counted.lexeme, counted.frequency,
           coalesce((SELECT t.document_count FROM {own}.term_statistics t
                     WHERE t.corpus = of_corpus AND t.lexeme = counted.lexeme), 1)::double precision AS df
    FROM (
      SELECT read.lexeme, max(cardinality(read.positions)) AS frequency
      FROM unnest(languages) AS spoken (language)
      CROSS JOIN unnest(to_tsvector({own}.text_search_config(spoken.language), words)) AS read
      GROUP BY read.lexeme
    ) AS counted
  ), corpus AS MATERIALIZED (
    SELECT coalesce((SELECT c.row_count FROM {own}.corpus_statistics c
                     WHERE c.corpus = of_corpus), 1)::double precision AS row_count,
           coalesce((SELECT t.document_count FROM {own}.term_statistics t
                     WHERE t.corpus = of_corpus AND t.lexeme = {own}.owner_lexeme(of_owner)), 0)::double precision
             AS owned
  ), measured AS MATERIALIZED (
    SELECT known.lexeme, known.frequency, known.df,
           ln(1 + (greatest(corpus.row_count, known.df) - known.df + 0.5) / (known.df + 0.5)) AS idf,
           known.df * least(1, corpus.owned / greatest(corpus.row_count, 1)) AS cost
    FROM known CROSS JOIN corpus
  ), ranked AS (
    SELECT measured.*, sum(measured.cost) OVER rarest AS total, row_number() OVER rarest AS place
    FROM measured
    WINDOW rarest AS (ORDER BY measured.df, measured.lexeme)
  )
  SELECT r.lexeme, '''' || replace(replace(r.lexeme, '\\', '\\\\'), '''', '''''') || '''',
         {own}.lexeme_dimension(r.lexeme), r.frequency, r.df::bigint, r.idf, r.cost,
         r.place <= 256 AND (r.total <= budget OR r.total - r.cost < least_rows), r.place
  FROM ranked r
  ORDER BY r.place
""")
    op.execute(f"""
CREATE FUNCTION query_terms({ARGUMENTS}) RETURNS TABLE (
    lexeme text, quoted text, dimension integer, frequency integer, document_count bigint, idf double precision,
    estimated_rows double precision, is_candidate boolean, place bigint
)
LANGUAGE sql STABLE PARALLEL SAFE
AS {body}
""")
    op.execute(
        "COMMENT ON FUNCTION query_terms IS 'The lexemes of a query, rarest first. Terms are candidates until budget "
        "rows of the owner are estimated, and one more while fewer than least_rows are.'"
    )


def create_query() -> None:
    own = quote(schema())
    body = literal(f"""
#variable_conflict use_column
BEGIN
  RETURN QUERY
  WITH terms AS MATERIALIZED (
    SELECT * FROM {own}.query_terms(of_corpus, of_owner, words, languages, budget, least_rows)
  ), listed AS (
    SELECT string_agg(quoted, ' | ' ORDER BY place) FILTER (WHERE is_candidate) AS candidates,
           string_agg(quoted, ' | ' ORDER BY place) AS everything
    FROM terms WHERE place <= 256
  ), heaviest AS (
    SELECT dimension, sum(idf * frequency) AS weight
    FROM terms GROUP BY dimension ORDER BY weight DESC LIMIT 16000
  )
  SELECT (SELECT '{{' || string_agg(dimension || ':' || weight, ',' ORDER BY dimension) || '}}/268435456'
          FROM heaviest),
         ('''' || {own}.owner_lexeme(of_owner) || ''' & (' || candidates || ')')::tsquery,
         ('''' || {own}.owner_lexeme(of_owner) || ''' & (' || everything || ')')::tsquery
  FROM listed;
END
""")
    # Its plan is kept even where the session asks for new ones, and it may have been made of tables still empty.
    # The leader of a parallel plan calls it, once.
    op.execute(f"""
CREATE FUNCTION lexical_query({ARGUMENTS})
RETURNS TABLE (weights text, candidates tsquery, everything tsquery)
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED ROWS 1
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS {body}
""")
    op.execute(
        "COMMENT ON FUNCTION lexical_query IS 'The weight of each lexeme, as a sparsevec reads them; the rows that the "
        "budget admits, and those with any of the first 256 terms; null where no word of the query is indexable.'"
    )


@scoped
def upgrade() -> None:
    create_terms()
    create_query()


@scoped
def downgrade() -> None:
    op.execute("DROP FUNCTION lexical_query")
    op.execute("DROP FUNCTION query_terms")
