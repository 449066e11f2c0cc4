"""Columns that make a table searchable by words."""

from __future__ import annotations

from typing import Any

from pgvector.sqlalchemy import SPARSEVEC
from sqlalchemy import ColumnElement, Computed, Index, Text, case, column, event, literal_column, select
from sqlalchemy.dialects.postgresql import REAL, TSVECTOR
from sqlalchemy.orm import Mapped, declared_attr, mapped_column

from ..db.base import after_create
from ..db.models import CorpusStatistics
from ..db.schemas import schema_function

LEXICAL_DIMENSIONS = 2**28
"""Dimensions of the `lexical` column: 28 bits of a lexeme's md5."""

K1, B, AVERAGE_LENGTH, CONTEXT_WEIGHT = 1.2, 0.75, 100.0, 1.0
DEFAULTS = (K1, B, AVERAGE_LENGTH, CONTEXT_WEIGHT)
PARAMETERS = (
    CorpusStatistics.bm25_k1,
    CorpusStatistics.bm25_b,
    CorpusStatistics.bm25_average_length,
    CorpusStatistics.bm25_context_weight,
)
"""What the rows of a corpus are weighed by, in the order of the defaults."""


def search_document(*, searchable: ColumnElement[bool] | None = None) -> ColumnElement[Any]:
    """The tsvector of a row: context (label A), content, and the owner as a lexeme without position."""
    document = schema_function(
        "search_document", column("owner_id"), column("language"), column("context"), column("content"),
        type_=TSVECTOR,
    )  # fmt: skip
    return document if searchable is None else case((searchable, document))


def bm25_weights(document: ColumnElement[Any]) -> ColumnElement[Any]:
    """The BM25 weight of each lexeme of a document, by the row's own k1, b and average length."""
    return schema_function(
        "bm25_weights", document, column("bm25_k1"), column("bm25_b"), column("bm25_average_length"),
        column("bm25_context_weight"), type_=SPARSEVEC(LEXICAL_DIMENSIONS),
    )  # fmt: skip


class SearchableMixin:
    """Adds what `llmstack.search.hybrid` needs to a model with `owner_id`, `context` and `content`.

    `language` names a text search configuration (`english`, `german`, ..., else `simple`). Rows for which
    `__searchable__` is false stay out of the index. `__corpus__` is the name under which they are searched: new rows
    are then weighed by the parameters of that corpus, and without it by the defaults.
    """

    __searchable__: ColumnElement[bool] | None = None
    __corpus__: str | None = None

    owner_id: Mapped[str] = mapped_column(Text)
    language: Mapped[str] = mapped_column(Text, server_default="english")
    context: Mapped[str] = mapped_column(Text, server_default="")
    content: Mapped[str] = mapped_column(Text)

    @declared_attr
    def bm25_k1(cls) -> Mapped[float]:
        return _parameter(cls.__corpus__, 0)

    @declared_attr
    def bm25_b(cls) -> Mapped[float]:
        return _parameter(cls.__corpus__, 1)

    @declared_attr
    def bm25_average_length(cls) -> Mapped[float]:
        return _parameter(cls.__corpus__, 2)

    @declared_attr
    def bm25_context_weight(cls) -> Mapped[float]:
        return _parameter(cls.__corpus__, 3)

    @declared_attr
    def search_vector(cls) -> Mapped[str | None]:
        return mapped_column(
            TSVECTOR,
            Computed(search_document(searchable=cls.__searchable__), persisted=True),
            deferred=True,
            deferred_raiseload=True,
        )

    @declared_attr
    def lexical(cls) -> Mapped[Any | None]:
        return mapped_column(
            SPARSEVEC(LEXICAL_DIMENSIONS),
            Computed(bm25_weights(search_document(searchable=cls.__searchable__)), persisted=True),
            deferred=True,
            deferred_raiseload=True,
        )


@event.listens_for(SearchableMixin, "instrument_class", propagate=True)
def _store_for_ranking(mapper: Any, _class: type[Any]) -> None:
    # Ranking reads this column of every candidate row, so it stays in the row; nothing reads its statistics.
    for setting in ("STORAGE MAIN", "STATISTICS 0"):
        after_create(mapper.local_table, f"ALTER TABLE %(fullname)s ALTER COLUMN lexical SET {setting}")


def constant(value: str) -> ColumnElement[str]:
    """A text that stands in the statement itself."""
    return literal_column("'" + value.replace("'", "''") + "'", Text())


def _parameter(corpus: str | None, place: int) -> Mapped[float]:
    """What a new row is weighed by: that of its corpus as it is written, the usual value before it has one."""
    usual: ColumnElement[float] = literal_column(str(DEFAULTS[place]))
    if corpus is None:
        return mapped_column(REAL, server_default=usual)
    read = select(*PARAMETERS).where(CorpusStatistics.corpus == corpus)

    def current(context: Any) -> float:
        # Read once a statement: as a subquery of each row it cost a flush of 2,000 rows 2.5 times as much.
        kept = context.__dict__
        if "llmstack_bm25" not in kept:
            kept["llmstack_bm25"] = context.root_connection.execute(read).one_or_none() or DEFAULTS
        value: float = kept["llmstack_bm25"][place]
        return value

    return mapped_column(REAL, default=current, server_default=usual)


def search_index(table: str) -> Index:
    """The GIN index of the text leg; no pending list, so that a search right after a load is as fast."""
    return Index(f"ix_{table}_search_vector", "search_vector", postgresql_using="gin",
                 postgresql_with={"fastupdate": "off"})  # fmt: skip
