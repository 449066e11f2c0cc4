"""Statements of the documents domain beside its search, as values."""

from __future__ import annotations

import uuid
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, and_, exists, func, literal_column, select, union_all
from sqlalchemy.orm import InstrumentedAttribute, aliased

from ..db.paging import Keyset
from ..embeddings import EmbeddingSpace
from ..errors import ValidationError
from .corpus import DocumentFilter
from .models import Chunk, ChunkEmbedding, Document

OrderBy = Literal["created_at", "updated_at", "name"]
_ORDERS: dict[str, InstrumentedAttribute[Any]] = {
    "created_at": Document.created_at,
    "updated_at": Document.updated_at,
    "name": Document.name,
}


def owned(owner_id: str, *, deleted: bool = False) -> ColumnElement[bool]:
    """The owner's documents: the living, or the deleted."""
    state = Document.deleted_at.is_not(None) if deleted else Document.deleted_at.is_(None)
    return and_(Document.owner_id == owner_id, state)


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
    conditions = [owned(owner_id, deleted=deleted), *wanted.on_documents()]
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
