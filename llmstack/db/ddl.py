"""The DDL of searchable tables, and of their vectors and jobs, for revisions of hosts and of ours.

A revision is a frozen letter, so each function takes the `version` of the shape that it makes: a version never changes,
and another shape is a version of its own, with what leads to it. They run inside of a revision, on Alembic's `op`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import REAL, TSVECTOR

from ..errors import ValidationError
from .revisions import extension_schema
from .schemas import qualified, quote
from .triggers import searchable_triggers

_DIMENSIONS = 2**28


class _Sparsevec(sa.types.UserDefinedType[Any]):
    """The type by the name of its schema, which need not be on the search path."""

    cache_ok = True

    def __init__(self, place: str) -> None:
        self.place = place

    def get_col_spec(self, **_: Any) -> str:
        return f"{quote(self.place)}.sparsevec({_DIMENSIONS})"


def searchable_columns(
    *, searchable: str | None = None, llmstack_schema: str = "llmstack", version: int = 1
) -> list[sa.Column[Any]]:
    """The columns of `SearchableMixin`, for `op.create_table`; call `finish_searchable_table` right after it.

    Version 1 is that of generated columns, with the SQL of `__searchable__` as `searchable`. In version 2 triggers make
    them, and there are `further_words`.
    """
    _require(version, newest=2)
    lexical = _Sparsevec(extension_schema())
    defaults = {"bm25_k1": "1.2", "bm25_b": "0.75", "bm25_average_length": "100.0", "bm25_context_weight": "1.0"}
    columns = [
        sa.Column("owner_id", sa.Text(), nullable=False),
        sa.Column("language", sa.Text(), server_default="english", nullable=False),
        sa.Column("context", sa.Text(), server_default="", nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        *(sa.Column(name, REAL(), server_default=sa.text(value), nullable=False) for name, value in defaults.items()),
    ]
    if version > 1:
        if searchable is not None:
            raise ValidationError("searchable", "give it to finish_searchable_table, as SQL over the row NEW")
        return [
            *columns,
            sa.Column("further_words", sa.Text(), server_default="", nullable=False),
            sa.Column("search_vector", TSVECTOR()),
            sa.Column("lexical", lexical),
        ]
    document = f"{quote(llmstack_schema)}.search_document(owner_id, language, context, content)"
    if searchable is not None:
        document = f"CASE WHEN ({searchable}) THEN {document} END"
    parameters = "bm25_k1, bm25_b, bm25_average_length, bm25_context_weight"
    weights = f"{quote(llmstack_schema)}.bm25_weights({document}, {parameters})"
    return [
        *columns,
        sa.Column("search_vector", TSVECTOR(), sa.Computed(document, persisted=True)),
        sa.Column("lexical", lexical, sa.Computed(weights, persisted=True)),
    ]


def finish_searchable_table(
    table: str,
    *,
    schema: str | None = None,
    corpus: str | None = None,
    searchable: str | None = None,
    llmstack_schema: str = "llmstack",
    version: int = 1,
) -> None:
    """Make the index of the text leg, and store what ranking reads where it reads it.

    Since version 2 also the triggers: rows are weighed by the parameters of `corpus`, and those for which `searchable`,
    such as "NEW.deleted_at IS NULL", is not true stay out of the index.
    """
    _require(version, newest=2)
    whole = _name(table, schema)
    for setting in ("STORAGE MAIN", "STATISTICS 0"):
        op.execute(f"ALTER TABLE {whole} ALTER COLUMN lexical SET {setting}")
    op.create_index(
        f"ix_{table}_search_vector",
        table,
        ["search_vector"],
        schema=schema,
        postgresql_using="gin",
        postgresql_with={"fastupdate": "off"},
    )
    if version > 1:
        _create_triggers(table, schema, corpus, searchable, llmstack_schema)


def alter_searchable_table(
    table: str,
    *,
    schema: str | None = None,
    corpus: str | None = None,
    searchable: str | None = None,
    llmstack_schema: str = "llmstack",
    to: int = 2,
) -> None:
    """Lead a table of version 1 to version 2; nothing that is stored is written anew."""
    _require(to, newest=2, oldest=2)
    op.add_column(table, sa.Column("further_words", sa.Text(), server_default="", nullable=False), schema=schema)
    for column in ("search_vector", "lexical"):
        op.execute(f"ALTER TABLE {_name(table, schema)} ALTER COLUMN {column} DROP EXPRESSION")
    _create_triggers(table, schema, corpus, searchable, llmstack_schema)


def _create_triggers(
    table: str, schema: str | None, corpus: str | None, searchable: str | None, llmstack_schema: str
) -> None:
    for statement in searchable_triggers(
        table, schema=schema, corpus=corpus, searchable=searchable, llmstack_schema=llmstack_schema
    ):
        op.execute(statement)


def create_embedding_tables(
    rows: str,
    *,
    vectors: str,
    jobs: str,
    partitions: int = 1,
    schema: str | None = None,
    llmstack_schema: str = "llmstack",
    version: int = 1,
) -> None:
    """Make the tables of vectors and of jobs that belong to `rows`, which has a unique (owner_id, id)."""
    _require(version)
    types, spaces = quote(extension_schema()), qualified(llmstack_schema, "embedding_spaces")
    rest = f"""
    CONSTRAINT fk_{{table}}_owner_id_row_id_{rows} FOREIGN KEY (owner_id, row_id)
        REFERENCES {_name(rows, schema)} (owner_id, id) ON DELETE CASCADE,
    CONSTRAINT fk_{{table}}_space_id_embedding_spaces FOREIGN KEY (space_id) REFERENCES {spaces} (id)"""
    op.execute(f"""
CREATE TABLE {_name(vectors, schema)} (
    owner_id text NOT NULL,
    row_id uuid NOT NULL,
    space_id smallint NOT NULL,
    embedding {types}.halfvec,
    embedding_full {types}.vector,
    searchable boolean DEFAULT true NOT NULL,
    CONSTRAINT pk_{vectors} PRIMARY KEY (owner_id, row_id, space_id),{rest.format(table=vectors)},
    CONSTRAINT ck_{vectors}_one_storage CHECK (num_nonnulls(embedding, embedding_full) = 1)
){" PARTITION BY HASH (owner_id)" if partitions > 1 else ""}
""")
    for column in ("embedding", "embedding_full"):
        op.execute(f"ALTER TABLE {_name(vectors, schema)} ALTER COLUMN {column} SET STATISTICS 0")
    for number in range(partitions if partitions > 1 else 0):
        op.execute(
            f"CREATE TABLE {_name(f'{vectors}_p{number:02d}', schema)} PARTITION OF {_name(vectors, schema)} "
            f"FOR VALUES WITH (MODULUS {partitions}, REMAINDER {number})"
        )
    op.execute(f"""
CREATE TABLE {_name(jobs, schema)} (
    owner_id text NOT NULL,
    row_id uuid NOT NULL,
    space_id smallint NOT NULL,
    attempts smallint DEFAULT 0 NOT NULL,
    leased_until timestamp with time zone,
    last_error text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT pk_{jobs} PRIMARY KEY (owner_id, row_id, space_id),{rest.format(table=jobs)}
)
""")
    columns = ["space_id", "attempts", "leased_until"]
    op.create_index(f"ix_{jobs}_space_id_attempts_leased_until", jobs, columns, schema=schema)


def keep_in_step(
    rows: str,
    *,
    vectors: str,
    jobs: str,
    text: Sequence[str] = ("context", "content"),
    schema: str | None = None,
    llmstack_schema: str = "llmstack",
    version: int = 1,
) -> None:
    """Let triggers owe vectors to rows that any tool writes, forget those of an edited text, and hide and show.

    `text` are the columns that are embedded. A statement fires them once, however many rows it writes; what goes
    takes its vectors along by its key.
    """
    _require(version)
    table, function = _name(rows, schema), _name(f"{rows}_in_step", schema)
    before, after = (", ".join(f"{side}.{quote(name)}" for name in text) for side in ("stale", "fresh"))
    edited = f"(({before}) IS DISTINCT FROM ({after}))"
    owing = f"""
        INSERT INTO {_name(jobs, schema)} AS job (owner_id, row_id, space_id)
        SELECT fresh.owner_id, fresh.id, space.id FROM {{source}}
        CROSS JOIN {qualified(llmstack_schema, "embedding_spaces")} space
        WHERE space.state <> 'retired' AND fresh.search_vector IS NOT NULL {{only}}
        ORDER BY fresh.id, space.id
        ON CONFLICT (owner_id, row_id, space_id) DO UPDATE SET attempts = 0, leased_until = NULL, last_error = NULL;"""
    shown = f"""AND ({edited} OR stale.search_vector IS NULL AND NOT EXISTS (
            SELECT FROM {_name(vectors, schema)} kept
            WHERE kept.owner_id = fresh.owner_id AND kept.row_id = fresh.id AND kept.space_id = space.id
        ))"""
    op.execute(f"""
CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF TG_OP = 'INSERT' THEN{owing.format(source="fresh", only="")}
    ELSE
        DELETE FROM {_name(vectors, schema)} kept USING fresh JOIN stale USING (id)
        WHERE kept.owner_id = fresh.owner_id AND kept.row_id = fresh.id AND {edited};
        UPDATE {_name(vectors, schema)} kept SET searchable = fresh.search_vector IS NOT NULL
        FROM fresh JOIN stale USING (id)
        WHERE kept.owner_id = fresh.owner_id AND kept.row_id = fresh.id
            AND (fresh.search_vector IS NULL) <> (stale.search_vector IS NULL);{
        owing.format(source="fresh JOIN stale USING (id)", only=shown)
    }
    END IF;
    RETURN NULL;
END
$body$
""")
    for verb, tables in (("INSERT", "NEW TABLE AS fresh"), ("UPDATE", "OLD TABLE AS stale NEW TABLE AS fresh")):
        op.execute(
            f"CREATE TRIGGER {quote(f'{rows}_in_step_{verb.lower()}')} AFTER {verb} ON {table} "
            f"REFERENCING {tables} FOR EACH STATEMENT EXECUTE FUNCTION {function}()"
        )


def stop_keeping_in_step(rows: str, *, schema: str | None = None) -> None:
    """Undo `keep_in_step`."""
    for verb in ("insert", "update"):
        op.execute(f"DROP TRIGGER {quote(f'{rows}_in_step_{verb}')} ON {_name(rows, schema)}")
    op.execute(f"DROP FUNCTION {_name(f'{rows}_in_step', schema)}()")


def drop_embedding_tables(*, vectors: str, jobs: str, schema: str | None = None) -> None:
    """Undo `create_embedding_tables`; vectors and jobs go."""
    op.drop_table(jobs, schema=schema)
    op.drop_table(vectors, schema=schema)


def _name(table: str, schema: str | None) -> str:
    return quote(table) if schema is None else qualified(schema, table)


def _require(version: int, *, newest: int = 1, oldest: int = 1) -> None:
    if not oldest <= version <= newest:
        raise ValidationError("version", f"there is no version {version!r:.60} of these tables; {newest} is the newest")
