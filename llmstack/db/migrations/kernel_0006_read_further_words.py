"""kernel: read further words of texts and queries, and make what is searched of a row by a trigger"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from llmstack.db.revisions import extension_schema, schema, scoped
from llmstack.db.schemas import quote

revision = "kernel_0006"
down_revision = "kernel_0005"
branch_labels = None
depends_on = None

WEIGHTS = "bm25_weights(document tsvector, k1 real, b real, average_length real, context_weight real)"
ARGUMENTS = (
    "of_corpus text, of_owner text, words text, further_words text, languages text[], budget double precision, "
    "least_rows double precision"
)
TYPES = "text, text, text, text, text[], double precision, double precision"


def literal(body: str) -> str:
    """A body as a string constant, whatever the schema that it names is called."""
    return "'" + body.replace("'", "''") + "'"


def create_document() -> None:
    # Further words count for the text that they were read from alone: whoever writes another one says nothing of them.
    op.execute("""
CREATE FUNCTION words_of(further_words text, context text, content text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN further_words <> '' AND left(further_words, 8) = left(md5(context || chr(10) || content), 8)
            THEN substr(further_words, 9) ELSE '' END
""")
    # A for the context and C for its further words, D for the content and B for its further words.
    op.execute("""
CREATE FUNCTION search_document(owner_id text, language text, context text, content text, further_words text)
RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN further_words = '' THEN search_document(owner_id, language, context, content)
    ELSE setweight(to_tsvector(text_search_config(language), lower(coalesce(context, ''))), 'A')
    || to_tsvector(text_search_config(language), lower(coalesce(content, '')))
    || setweight(to_tsvector(text_search_config(language), split_part(further_words, chr(10), 1)), 'B')
    || setweight(to_tsvector(text_search_config(language), split_part(further_words, chr(10), 2)), 'C')
    || array_to_tsvector(ARRAY[owner_lexeme(owner_id)]) END
""")


def replace_weights() -> None:
    vectors = quote(extension_schema())
    # What a text holds as a word of its own counts, and makes it longer; what it holds inside of other words alone
    # counts a quarter, and does not.
    op.execute(f"""
CREATE OR REPLACE FUNCTION {WEIGHTS}
RETURNS {vectors}.sparsevec
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
  WITH counted AS MATERIALIZED (
    SELECT ('0x' || left(md5(lexeme), 7))::integer + 1 AS dimension,
           CASE WHEN weights[1] IN ('A', 'D') THEN 1 ELSE 0 END AS is_own,
           CASE WHEN weights[1] = 'D' AND weights[cardinality(positions)] = 'D'
                    OR context_weight = 1 AND weights[cardinality(positions)] IN ('A', 'D')
                THEN cardinality(positions)::double precision
                WHEN weights[1] IN ('A', 'D')
                THEN cardinality(array_positions(weights, 'D'))
                     + context_weight * cardinality(array_positions(weights, 'A'))
                ELSE 0.25 * (cardinality(array_positions(weights, 'B'))
                     + context_weight * cardinality(array_positions(weights, 'C')))
           END AS frequency
    FROM unnest(document) WHERE positions IS NOT NULL
  )
  SELECT ('{{' || coalesce(string_agg(dimension || ':' || weight, ','), '') || '}}/268435456')::{vectors}.sparsevec
  FROM (
    SELECT dimension, (round(sum(frequency * (k1 + 1) / (frequency + flattening)) * 10000) / 10000)::real AS weight
    FROM counted CROSS JOIN (
      SELECT k1 * (1 - b + b * sum(is_own * frequency) / greatest(average_length, 1)) AS flattening FROM counted
    ) AS measured
    WHERE frequency > 0
    GROUP BY dimension
    ORDER BY weight DESC
    LIMIT 16000
  ) AS heaviest;
END
""")


def create_current_weights() -> None:
    own, vectors = quote(schema()), quote(extension_schema())
    body = literal(f"""
DECLARE
    wanted record;
BEGIN
    SELECT c.bm25_k1, c.bm25_b, c.bm25_average_length, c.bm25_context_weight INTO wanted
    FROM {own}.corpus_statistics c WHERE c.corpus = of_corpus;
    IF wanted = (k1, b, average_length, context_weight) THEN
        RETURN stored;
    END IF;
    RETURN {own}.bm25_weights(
        document, wanted.bm25_k1, wanted.bm25_b, wanted.bm25_average_length, wanted.bm25_context_weight);
END
""")
    # The planner shall not think of it: it is called while rows are being rewritten.
    op.execute(f"""
CREATE FUNCTION current_weights(
    of_corpus text, document tsvector, stored {vectors}.sparsevec,
    k1 real, b real, average_length real, context_weight real
)
RETURNS {vectors}.sparsevec
LANGUAGE plpgsql STABLE PARALLEL SAFE COST 1
AS {body}
""")
    op.execute(
        "COMMENT ON FUNCTION current_weights IS 'The weights of a row by the parameters of its corpus: as they are "
        "stored, if by those, else made anew.'"
    )


def restore_weights() -> None:
    vectors = quote(extension_schema())
    op.execute(f"""
CREATE OR REPLACE FUNCTION {WEIGHTS}
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


def create_triggers() -> None:
    own = quote(schema())
    # A text is read once for both columns, and not again when a row is weighed by other parameters.
    body = literal(f"""
DECLARE
    parameters record;
    further text;
BEGIN
    IF TG_OP = 'INSERT' AND TG_NARGS > 0 THEN
        SELECT c.bm25_k1, c.bm25_b, c.bm25_average_length, c.bm25_context_weight INTO parameters
        FROM {own}.corpus_statistics c WHERE c.corpus = TG_ARGV[0];
        IF FOUND THEN
            NEW.bm25_k1 := parameters.bm25_k1;
            NEW.bm25_b := parameters.bm25_b;
            NEW.bm25_average_length := parameters.bm25_average_length;
            NEW.bm25_context_weight := parameters.bm25_context_weight;
        END IF;
    END IF;
    IF TG_OP = 'UPDATE' AND OLD.search_vector IS NOT NULL
        AND (NEW.owner_id, NEW.language, NEW.context, NEW.content, NEW.further_words)
            IS NOT DISTINCT FROM (OLD.owner_id, OLD.language, OLD.context, OLD.content, OLD.further_words)
    THEN
        NEW.search_vector := OLD.search_vector;
    ELSE
        further := {own}.words_of(NEW.further_words, NEW.context, NEW.content);
        NEW.search_vector := {own}.search_document(
            NEW.owner_id, NEW.language, NEW.context, NEW.content, further);
    END IF;
    NEW.lexical := {own}.bm25_weights(
        NEW.search_vector, NEW.bm25_k1, NEW.bm25_b, NEW.bm25_average_length, NEW.bm25_context_weight);
    RETURN NEW;
END
""")
    op.execute(f"CREATE FUNCTION make_searchable() RETURNS trigger LANGUAGE plpgsql AS {body}")
    op.execute("""
COMMENT ON FUNCTION make_searchable() IS
'Makes what is searched of a row; a new one is weighed by the parameters of the corpus that the trigger names'
""")
    op.execute("""
CREATE FUNCTION make_unsearchable() RETURNS trigger LANGUAGE plpgsql AS '
BEGIN
    NEW.search_vector := NULL;
    NEW.lexical := NULL;
    RETURN NEW;
END
'
""")


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
      SELECT read.lexeme, max(CASE read.weights[1] WHEN 'D' THEN cardinality(array_positions(read.weights, 'D'))
                              ELSE 1 END) AS frequency
      FROM unnest(languages) AS spoken (language)
      CROSS JOIN unnest(
        to_tsvector({own}.text_search_config(spoken.language), words)
        || setweight(to_tsvector({own}.text_search_config(spoken.language), further_words), 'B')
      ) AS read
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
        f"COMMENT ON FUNCTION query_terms({TYPES}) IS 'The lexemes of a query, rarest first. Terms are candidates "
        "until budget rows of the owner are estimated, and one more while fewer than least_rows are.'"
    )


def create_query() -> None:
    own = quote(schema())
    body = literal(f"""
#variable_conflict use_column
BEGIN
  RETURN QUERY
  WITH terms AS MATERIALIZED (
    SELECT * FROM {own}.query_terms(
      of_corpus, of_owner, words, further_words, languages, budget, least_rows)
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
         coalesce((SELECT c.is_mixed FROM {own}.corpus_statistics c WHERE c.corpus = of_corpus), false),
         ('''' || {own}.owner_lexeme(of_owner) || ''' & (' || candidates || ')')::tsquery,
         ('''' || {own}.owner_lexeme(of_owner) || ''' & (' || everything || ')')::tsquery
  FROM listed;
END
""")
    # Its plan is kept even where the session asks for new ones, and it may have been made of tables still empty.
    # The leader of a parallel plan calls it, once.
    op.execute(f"""
CREATE FUNCTION lexical_query({ARGUMENTS})
RETURNS TABLE (weights text, is_mixed boolean, candidates tsquery, everything tsquery)
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED ROWS 1
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS {body}
""")
    op.execute(
        f"COMMENT ON FUNCTION lexical_query({TYPES}) IS 'The weight of each lexeme, as a sparsevec reads them; "
        "whether rows are weighed by different parameters; the rows that the budget admits, and those with any of the "
        "first 256 terms; null where no word of the query is indexable.'"
    )


# The functions that read a query without further words stay, for processes that were started before.
@scoped
def upgrade() -> None:
    op.add_column("corpus_statistics", sa.Column("is_mixed", sa.Boolean(), server_default=sa.false(), nullable=False))
    create_document()
    replace_weights()
    create_current_weights()
    create_triggers()
    create_terms()
    create_query()


@scoped
def downgrade() -> None:
    op.execute(f"DROP FUNCTION lexical_query({TYPES})")
    op.execute(f"DROP FUNCTION query_terms({TYPES})")
    for function in ("make_unsearchable()", "make_searchable()", "search_document(text, text, text, text, text)",
                     "current_weights", "words_of(text, text, text)"):  # fmt: skip
        op.execute(f"DROP FUNCTION {function}")
    restore_weights()
    op.drop_column("corpus_statistics", "is_mixed")
