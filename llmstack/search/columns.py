"""Columns that make a table searchable by words."""

from __future__ import annotations

from typing import Any

from pgvector.sqlalchemy import SPARSEVEC
from sqlalchemy import (
    ColumnClause,
    ColumnElement,
    Connection,
    FetchedValue,
    Index,
    Table,
    Text,
    case,
    cast,
    event,
    inspect,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import REAL, TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.sql import visitors

from ..db.base import after_create
from ..db.models import CorpusStatistics
from ..db.schemas import SCHEMA_TOKEN, quote, schema_function
from ..db.triggers import searchable_triggers
from .analysis import stored_words

LEXICAL_DIMENSIONS = 2**28
"""Dimensions of the `lexical` column: 28 bits of a lexeme's md5."""

K1, B, AVERAGE_LENGTH, CONTEXT_WEIGHT = 1.2, 0.75, 100.0, 1.0
PARAMETERS = (
    CorpusStatistics.bm25_k1,
    CorpusStatistics.bm25_b,
    CorpusStatistics.bm25_average_length,
    CorpusStatistics.bm25_context_weight,
)
"""What the rows of a corpus are weighed by, in the order of the defaults."""


def current_weights(rows: Any, corpus: str, *, is_mixed: ColumnElement[bool]) -> ColumnElement[Any]:
    """The BM25 weights of a row by the parameters of its corpus: those that are stored, unless some have others."""
    made = schema_function(
        "current_weights", cast(corpus, Text), rows.search_vector, rows.lexical,
        *(getattr(rows, parameter.key) for parameter in PARAMETERS),
        type_=SPARSEVEC(LEXICAL_DIMENSIONS),
    )  # fmt: skip
    return case((is_mixed, made), else_=rows.lexical)


def mixed(corpus: str) -> ColumnElement[bool]:
    """Whether some rows of the corpus are stored with weights by other parameters than its own."""
    return select(CorpusStatistics.is_mixed).where(CorpusStatistics.corpus == corpus).scalar_subquery()


def _inserted_words(context: Any) -> str:
    given = context.get_current_parameters()
    return _words_of(given.get("context") or "", given.get("content"))


def _words_of(above: Any, content: Any) -> str:
    """What an expression or a wrong value in place of a text has is nothing."""
    return stored_words(above, content) if isinstance(above, str) and isinstance(content, str) else ""


class SearchableMixin:
    """Adds what `llmstack.search.hybrid` needs to a model with `owner_id`, `context` and `content`.

    `language` names a text search configuration (`english`, `german`, ..., else `simple`). Rows for which
    `__searchable__` is false stay out of the index. `__corpus__` is the name under which they are searched: new rows
    are then weighed by the parameters of that corpus, and without it by the defaults.

    Triggers make `search_vector` and `lexical`, whoever writes. `further_words` are what `stored_words` finds in the
    text; the ORM and `insert()` fill them in, and a row without them is found by the words that PostgreSQL reads.
    """

    __searchable__: ColumnElement[bool] | None = None
    __corpus__: str | None = None

    owner_id: Mapped[str] = mapped_column(Text)
    language: Mapped[str] = mapped_column(Text, server_default="english")
    context: Mapped[str] = mapped_column(Text, server_default="")
    content: Mapped[str] = mapped_column(Text)

    further_words: Mapped[str] = mapped_column(Text, default=_inserted_words, server_default="", deferred=True)
    bm25_k1: Mapped[float] = mapped_column(REAL, server_default=literal_column(str(K1)))
    bm25_b: Mapped[float] = mapped_column(REAL, server_default=literal_column(str(B)))
    bm25_average_length: Mapped[float] = mapped_column(REAL, server_default=literal_column(str(AVERAGE_LENGTH)))
    bm25_context_weight: Mapped[float] = mapped_column(REAL, server_default=literal_column(str(CONTEXT_WEIGHT)))
    search_vector: Mapped[str | None] = mapped_column(
        TSVECTOR, FetchedValue(), FetchedValue(for_update=True), deferred=True, deferred_raiseload=True
    )
    lexical: Mapped[Any | None] = mapped_column(
        SPARSEVEC(LEXICAL_DIMENSIONS),
        FetchedValue(),
        FetchedValue(for_update=True),
        deferred=True,
        deferred_raiseload=True,
    )


@event.listens_for(SearchableMixin, "before_update", propagate=True)
def _read_anew(mapper: Any, _connection: Any, row: Any) -> None:
    attributes = inspect(row).attrs
    if attributes.context.history.has_changes() or attributes.content.history.has_changes():
        row.further_words = _words_of(row.context, row.content)


@event.listens_for(SearchableMixin, "instrument_class", propagate=True)
def _make_searchable(mapper: Any, class_: type[Any]) -> None:
    # Ranking reads this column of every candidate row, so it stays in the row; nothing reads its statistics.
    for setting in ("STORAGE MAIN", "STATISTICS 0"):
        after_create(mapper.local_table, f"ALTER TABLE %(fullname)s ALTER COLUMN lexical SET {setting}")

    def create_triggers(table: Table, connection: Connection, **_: Any) -> None:
        for statement in _triggers(table, connection, class_):
            connection.exec_driver_sql(statement)

    event.listen(mapper.local_table, "after_create", create_triggers)


def _triggers(table: Table, connection: Connection, model: type[SearchableMixin]) -> list[str]:
    ours = (connection.get_execution_options().get("schema_translate_map") or {}).get(SCHEMA_TOKEN, SCHEMA_TOKEN)
    is_searched = None
    if model.__searchable__ is not None:
        new = visitors.replacement_traverse(model.__searchable__, {}, _of_new_row)
        is_searched = str(new.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True}))
    schema = connection.schema_for_object(table)
    return searchable_triggers(
        table.name, schema=schema, corpus=model.__corpus__, searchable=is_searched, llmstack_schema=ours
    )


def _of_new_row(element: Any, **_: Any) -> Any:
    return (
        literal_column(f"NEW.{quote(element.name)}")
        if isinstance(element, ColumnClause) and not element.is_literal
        else None
    )


def constant(value: str) -> ColumnElement[str]:
    """A text that stands in the statement itself."""
    return literal_column("'" + value.replace("'", "''") + "'", Text())


def search_index(table: str) -> Index:
    """The GIN index of the text leg; no pending list, so that a search right after a load is as fast."""
    return Index(f"ix_{table}_search_vector", "search_vector", postgresql_using="gin",
                 postgresql_with={"fastupdate": "off"})  # fmt: skip
