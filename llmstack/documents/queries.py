"""Statements of the documents domain, as values."""

from __future__ import annotations

import datetime as dt
import functools
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Select,
    Text,
    and_,
    bindparam,
    exists,
    func,
    literal_column,
    select,
    union_all,
)
from sqlalchemy.orm import InstrumentedAttribute, aliased

from ..db.checks import any_of, as_uuid, check_date, check_limit, check_owner, each, listed
from ..db.paging import Keyset
from ..embeddings import EmbeddingSpace, Space
from ..embeddings.vectors import source_of
from ..errors import ValidationError
from ..search import SearchOptions, Variant, VectorSource, hybrid, metadata_filter
from ..search.fusion import Fusion
from ..search.languages import normalize_language, spoken_in
from ..search.lexical import parse_query
from ..search.vectors import QUERY_VECTOR, check_vector
from .models import CORPUS, Chunk, ChunkEmbedding, Document
from .preparation import check_document_type
from .results import PLAIN, ResultOptions, top, with_passages

MAX_LEG_ROWS = 10_000
"""More than all legs together return, so that a stage which chooses among rows sees every one."""
OrderBy = Literal["created_at", "updated_at", "name"]
_ORDERS: dict[str, InstrumentedAttribute[Any]] = {
    "created_at": Document.created_at,
    "updated_at": Document.updated_at,
    "name": Document.name,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentFilter:
    """Which documents; every part that is given must hold. Dates are inclusive and need a time zone."""

    id_at_origin: str | Sequence[str] | None = None
    document_ids: Sequence[uuid.UUID] | None = None
    document_type: str | Sequence[str] | None = None
    language: str | Sequence[str] | None = None
    date_from: dt.datetime | None = None
    date_to: dt.datetime | None = None
    metadata: Mapping[str, Any] | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """The filter on `Document`; raises ValidationError on bad values."""
        found: list[ColumnElement[bool]] = []
        if self.id_at_origin is not None:
            found.append(any_of(Document.id_at_origin, listed("id_at_origin", self.id_at_origin)))
        if self.document_ids is not None:
            ids = [as_uuid("document_ids", value) for value in each("document_ids", self.document_ids)]
            found.append(any_of(Document.id, ids))
        if self.document_type is not None:
            types = [check_document_type(item) for item in listed("document_type", self.document_type)]
            found.append(any_of(Document.document_type, types))
        if self.language is not None:
            languages = [normalize_language(item) for item in listed("language", self.language)]
            found.append(any_of(Document.language, languages))
        if (earliest := check_date("date_from", self.date_from)) is not None:
            found.append(Document.document_date >= earliest)
        if (latest := check_date("date_to", self.date_to)) is not None:
            found.append(Document.document_date <= latest)
        if self.metadata is not None and self.metadata != {}:
            found.append(metadata_filter(Document.metadata_, self.metadata))
        return found


def check_search(*, owner_id: str, mode: str | None, limit: int, where: DocumentFilter) -> None:
    """Raise what is wrong before anything is embedded for it."""
    check_owner(owner_id)
    check_limit(limit)
    if mode not in (None, "hybrid", "vector", "text"):
        raise ValidationError("mode", f"{mode!r:.60} is unknown; use hybrid, vector or text")
    where.conditions()


def owned(owner_id: str, *, deleted: bool = False) -> ColumnElement[bool]:
    """The owner's documents: the living, or the deleted."""
    state = Document.deleted_at.is_not(None) if deleted else Document.deleted_at.is_(None)
    return and_(Document.owner_id == owner_id, state)


def search_conditions(owner_id: str, wanted: DocumentFilter) -> list[ColumnElement[bool]]:
    """The filter as a condition on `Chunk`; none when nothing is asked."""
    conditions = wanted.conditions()
    if not conditions:
        return []
    return [Chunk.document_id.in_(select(Document.id).where(Document.owner_id == owner_id, *conditions))]


def spoken_languages(owner_id: str | BindParameter[str]) -> Select[Any]:
    """The distinct languages of the owner's documents."""
    return spoken_in(Document.language, owned=Document.owner_id == owner_id)


@functools.lru_cache(maxsize=256)
def vector_source(space: Space) -> VectorSource:
    """The chunks' vectors in one space, by the expression that its index is made with."""
    return source_of(space, ChunkEmbedding)


@functools.lru_cache(maxsize=256)
def plain_search(
    space: Space | None,
    *,
    with_text: bool,
    limit: int,
    fusion: Fusion | None,
    options: SearchOptions,
    results: ResultOptions = PLAIN,
    returned: int | None = None,
) -> Select[Any]:
    """A search without filters, kept for its parameters `owner_id`, `words` and `vector`: building one is dear."""
    return search(
        owner_id=bindparam("owner_id", type_=Text),
        query=bindparam("words", type_=Text) if with_text else None,
        vector=None if space is None else bindparam("vector", type_=QUERY_VECTOR),
        space=space,
        limit=limit,
        fusion=fusion,
        options=options,
        results=results,
        returned=returned,
    )


def search(
    *,
    owner_id: str | BindParameter[str],
    query: str | BindParameter[str] | None,
    vector: Sequence[float] | BindParameter[Any] | None,
    space: Space | None,
    variants: Sequence[Variant] = (),
    where: Sequence[ColumnElement[bool]] = (),
    limit: int,
    fusion: Fusion | None,
    options: SearchOptions,
    results: ResultOptions,
    returned: int | None = None,
) -> Select[Any]:
    """The whole search with the passages of its hits; `returned` rows where a later stage chooses among them."""
    source = None if space is None else vector_source(space)
    returned = limit if returned is None else returned
    ranked = hybrid(
        Chunk,
        corpus=CORPUS,
        owner_id=owner_id,
        query=query,
        vector=vector,
        source=source,
        variants=variants,
        languages=spoken_languages(owner_id),
        where=where,
        limit=limit,
        rows=MAX_LEG_ROWS if results.chooses else returned,
        fusion=fusion,
        options=options,
    )
    return with_passages(top(ranked, results, limit=returned), results, source)


def prepared_search(
    *,
    owner_id: str,
    query: str | None,
    vector: Sequence[float] | None,
    space: Space | None,
    variants: Sequence[Variant],
    where: Sequence[ColumnElement[bool]],
    limit: int,
    fusion: Fusion | None,
    options: SearchOptions,
    results: ResultOptions,
    returned: int | None,
) -> tuple[Select[Any], dict[str, Any]]:
    """The statement of a search with its values: a kept one where only values differ from search to search."""
    parsed = None if query is None else parse_query(query, operators=options.operators)
    if where or variants or not (parsed is None or parsed.plain):
        statement = search(
            owner_id=owner_id,
            query=query,
            vector=vector,
            space=space,
            variants=variants,
            where=where,
            limit=limit,
            fusion=fusion,
            options=options,
            results=results,
            returned=returned,
        )
        return statement, {}
    values: dict[str, Any] = {"owner_id": owner_id}
    if parsed is not None:
        values["words"] = parsed.words
    if space is not None and vector is not None:
        values["vector"] = check_vector(vector_source(space), vector)
    statement = plain_search(
        space,
        with_text=parsed is not None,
        limit=limit,
        fusion=fusion,
        options=options,
        results=results,
        returned=returned,
    )
    return statement, values


def around(owner_id: str, chunk_id: uuid.UUID, *, before: int, after: int) -> Select[Any]:
    """A living chunk with the leaves around it, in reading order; no row when it is absent."""
    living = and_(Chunk.owner_id == owner_id, Chunk.deleted_at.is_(None))
    centre = select(Chunk.id, Chunk.document_id, Chunk.position).where(Chunk.id == chunk_id, living).cte("centre")
    leaves = select(Chunk.id).where(Chunk.document_id == centre.c.document_id, Chunk.level == 0, living)
    earlier = leaves.where(Chunk.position < centre.c.position).order_by(Chunk.position.desc()).limit(before)
    later = leaves.where(Chunk.position > centre.c.position).order_by(Chunk.position).limit(after)
    wanted = union_all(earlier, select(centre.c.id), later).subquery()
    return select(Chunk).where(Chunk.id.in_(select(wanted.c[0]))).order_by(Chunk.position)


def document_order(order_by: OrderBy, *, descending: bool = True) -> Keyset:
    """The order of a list; documents of the same moment or name are told apart by their id."""
    if order_by not in _ORDERS:
        raise ValidationError("order_by", f"{order_by!r} is unknown; use one of {', '.join(_ORDERS)}")
    return Keyset(order_by, (_ORDERS[order_by], Document.id), descending)


def page_of_documents(
    owner_id: str,
    wanted: DocumentFilter,
    *,
    order_by: OrderBy,
    descending: bool,
    limit: int,
    cursor: str | None,
    deleted: bool,
) -> Select[Any]:
    """(total, Document) rows, one more than the limit; a page without rows still has its total."""
    order = document_order(order_by, descending=descending)
    conditions = [owned(owner_id, deleted=deleted), *wanted.conditions()]
    total = select(func.count().label("total")).select_from(Document).where(*conditions).subquery()
    behind = order.after(cursor)
    rows = select(Document).where(*conditions, *behind).order_by(*order.order()).limit(limit + 1).subquery()
    page = aliased(Document, rows)
    return (
        select(total.c.total, page)
        .select_from(total)
        .outerjoin(page, literal_column("true"))
        .order_by(*order.order((getattr(page, order_by), page.id)))
    )


def statistics_of(owner_id: str) -> Select[Any]:
    """(kind, name, number) rows: totals, and counts by type, language and embedding space."""
    living = select(Document).where(owned(owner_id)).subquery()
    leaves = and_(Chunk.owner_id == owner_id, Chunk.level == 0, Chunk.deleted_at.is_(None))

    def row(kind: str, name: Any, number: Any) -> Select[Any]:
        return select(
            literal_column(f"'{kind}'").label("kind"),
            name.label("name"),
            func.coalesce(number, 0).label("number"),
        )

    nameless: ColumnElement[str] = literal_column("''")
    vectors = and_(ChunkEmbedding.owner_id == owner_id, ChunkEmbedding.searchable)
    return select(literal_column("*")).select_from(
        union_all(
            row("documents", nameless, func.count(living.c.id)),
            row("bytes", nameless, func.sum(living.c.content_bytes)),
            row("chunks", nameless, func.count()).select_from(Chunk).where(leaves),
            row("tokens", nameless, func.sum(Chunk.token_count)).where(leaves),
            row("type", living.c.document_type, func.count()).group_by(living.c.document_type),
            row("language", living.c.language, func.count()).group_by(living.c.language),
            row("embedded", EmbeddingSpace.name, func.count())
            .join_from(ChunkEmbedding, EmbeddingSpace, ChunkEmbedding.space_id == EmbeddingSpace.id)
            .where(vectors)
            .group_by(EmbeddingSpace.name),
        ).subquery()
    )


def has_vector(space_id: int) -> ColumnElement[bool]:
    """Whether a chunk has its vector in the space."""
    return exists().where(
        ChunkEmbedding.owner_id == Chunk.owner_id,
        ChunkEmbedding.row_id == Chunk.id,
        ChunkEmbedding.space_id == space_id,
    )
