"""Write prepared documents: in one transaction a document's chunks are the old ones or the new ones, never both.

A chunk whose hash is unchanged keeps its row and its vectors. The rows of `documents` are locked in the order of
their identity, so that concurrent writers of one identity follow one another.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, bindparam, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from ..db.copy import copy_rows
from ..db.models import CorpusStatistics
from ..embeddings import Space
from ..search.columns import AVERAGE_LENGTH, B, CONTEXT_WEIGHT, K1
from .models import Chunk, ChunkEmbedding, Document, EmbeddingJob
from .queries import CORPUS
from .records import PreparedDocument

Vectors = Mapping[bytes, Sequence[float]]
"""Vectors by the hash of their chunk."""

_CHUNK_COLUMNS = {
    "id": "uuid", "owner_id": "text", "document_id": "uuid", "parent_id": "uuid", "position": "integer",
    "level": "integer", "content": "text", "context": "text", "token_count": "integer", "start_offset": "integer",
    "end_offset": "integer", "content_hash": "bytea", "language": "text", "bm25_k1": "real", "bm25_b": "real",
    "bm25_average_length": "real", "bm25_context_weight": "real",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Written:
    """What one document's write did; `owed` counts leaves whose vector is still pending."""

    document: Document
    created: int
    kept: int
    deleted: int
    embedded: int
    owed: int


@dataclass(slots=True)
class _Plan:
    """The difference between a document's stored chunks and its prepared ones, by index into the latter."""

    prepared: PreparedDocument
    document: Document
    ids: list[uuid.UUID] = field(default_factory=list)
    new: list[int] = field(default_factory=list)
    kept: dict[int, Row[Any]] = field(default_factory=dict)
    gone: list[uuid.UUID] = field(default_factory=list)

    def parent(self, index: int) -> uuid.UUID | None:
        above = self.prepared.chunks[index].piece.parent
        return None if above is None else self.ids[above]

    def place(self, index: int) -> tuple[int, int, str, uuid.UUID | None]:
        piece = self.prepared.chunks[index].piece
        return piece.start, piece.end, self.prepared.language, self.parent(index)


async def write_documents(
    session: AsyncSession,
    documents: Sequence[PreparedDocument],
    *,
    vectors: Vectors,
    space: Space | None,
    keep_text: bool,
) -> list[Written]:
    """Store documents of distinct identities inside the caller's transaction; results come in the given order."""
    ordered = sorted(documents, key=lambda document: document.identity)
    rows = await _put_documents(session, ordered, keep_text=keep_text)
    stored = await _stored_chunks(session, [row.id for row in rows.values()])
    plans = [
        _plan(document, row, dict(stored.get(row.id, {})))
        for document in ordered
        for row in (rows[document.identity],)
    ]
    await _copy_new(session, plans)
    await _move_kept(session, plans)
    await _delete_gone(session, plans)
    counts: Mapping[uuid.UUID, tuple[int, int]] = {}
    if space is not None:
        counts = await _store_vectors(session, plans, vectors=vectors, space=space)
    results = {
        plan.prepared.identity: Written(
            plan.document, len(plan.new), len(plan.kept), len(plan.gone), *counts.get(plan.document.id, (0, 0))
        )
        for plan in plans
    }
    return [results[document.identity] for document in documents]


async def _put_documents(
    session: AsyncSession, documents: Sequence[PreparedDocument], *, keep_text: bool
) -> dict[tuple[str, str], Document]:
    values = [
        {
            "id": uuid7(),
            "owner_id": document.owner_id,
            "id_at_origin": document.id_at_origin,
            "name": document.name,
            "document_type": document.document_type,
            "document_date": document.document_date,
            "language": document.language,
            "content": document.content if keep_text else None,
            "content_hash": document.content_hash,
            "content_bytes": document.content_bytes,
            "chunking": document.chunking,
            "metadata_": document.metadata,
        }
        for document in documents
    ]
    statement = insert(Document).values(values)
    fresh = statement.excluded
    replaced = {
        name: fresh[name]
        for name in (
            "name", "document_type", "document_date", "language", "content", "content_hash", "content_bytes",
            "chunking", "metadata",
        )
    }  # fmt: skip
    returning = statement.on_conflict_do_update(
        index_elements=[Document.owner_id, Document.id_at_origin],
        set_={**replaced, "updated_at": func.now(), "deleted_at": None},
    ).returning(Document)
    found = await session.scalars(returning, execution_options={"populate_existing": True})
    return {(row.owner_id, row.id_at_origin): row for row in found}


async def _stored_chunks(session: AsyncSession, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, dict[bytes, Row[Any]]]:
    statement = select(
        Chunk.document_id, Chunk.content_hash, Chunk.id, Chunk.position, Chunk.start_offset, Chunk.end_offset,
        Chunk.language, Chunk.parent_id, Chunk.deleted_at,
    ).where(Chunk.document_id.in_(ids))  # fmt: skip
    stored: dict[uuid.UUID, dict[bytes, Row[Any]]] = defaultdict(dict)
    for row in await session.execute(statement):
        stored[row.document_id][row.content_hash] = row
    return stored


def _plan(prepared: PreparedDocument, document: Document, before: dict[bytes, Row[Any]]) -> _Plan:
    plan = _Plan(prepared=prepared, document=document)
    for index, chunk in enumerate(prepared.chunks):
        known = before.pop(chunk.content_hash, None)
        plan.ids.append(uuid7() if known is None else known.id)
        if known is None:
            plan.new.append(index)
        else:
            plan.kept[index] = known
    plan.gone = [row.id for row in before.values()]
    return plan


async def _bm25_parameters(session: AsyncSession) -> tuple[float, ...]:
    columns = (
        CorpusStatistics.bm25_k1,
        CorpusStatistics.bm25_b,
        CorpusStatistics.bm25_average_length,
        CorpusStatistics.bm25_context_weight,
    )
    row = (await session.execute(select(*columns).where(CorpusStatistics.corpus == CORPUS))).one_or_none()
    return (K1, B, AVERAGE_LENGTH, CONTEXT_WEIGHT) if row is None else tuple(row)


async def _copy_new(session: AsyncSession, plans: Sequence[_Plan]) -> None:
    if not any(plan.new for plan in plans):
        return
    bm25 = await _bm25_parameters(session)
    rows = (
        (
            plan.ids[index], plan.prepared.owner_id, plan.document.id, plan.parent(index), index, chunk.piece.level,
            chunk.piece.content, chunk.context, chunk.piece.token_count, chunk.piece.start, chunk.piece.end,
            chunk.content_hash, plan.prepared.language, *bm25,
        )
        for plan in plans
        for index, chunk in ((index, plan.prepared.chunks[index]) for index in plan.new)
    )  # fmt: skip
    await copy_rows(session, Chunk.__tablename__, _CHUNK_COLUMNS, rows)


async def _move_kept(session: AsyncSession, plans: Sequence[_Plan]) -> None:
    """Give kept chunks their new places, once their new parents exist."""
    places = [
        {"chunk": row.id, "at": index, "starts": start, "ends": end, "above": above, "spoken": language}
        for plan in plans
        for index, row in plan.kept.items()
        for (start, end, language, above) in (plan.place(index),)
        if (row.position, row.start_offset, row.end_offset, row.language, row.parent_id, row.deleted_at)
        != (index, start, end, language, above, None)
    ]
    if not places:
        return
    table: Any = Chunk.__table__
    statement = (
        update(table)
        .where(table.c.id == bindparam("chunk"))
        .values(
            position=bindparam("at"),
            start_offset=bindparam("starts"),
            end_offset=bindparam("ends"),
            parent_id=bindparam("above"),
            language=bindparam("spoken"),
            deleted_at=None,
        )
    )
    await (await session.connection()).execute(statement, places)
    returned = [row.id for plan in plans for row in plan.kept.values() if row.deleted_at is not None]
    if returned:
        shown = update(ChunkEmbedding).where(ChunkEmbedding.chunk_id.in_(returned)).values(searchable=True)
        await session.execute(shown, execution_options={"synchronize_session": False})


async def _delete_gone(session: AsyncSession, plans: Sequence[_Plan]) -> None:
    gone = [chunk_id for plan in plans for chunk_id in plan.gone]
    if gone:
        await session.execute(
            delete(Chunk).where(Chunk.id.in_(gone)), execution_options={"synchronize_session": False}
        )


async def _store_vectors(
    session: AsyncSession, plans: Sequence[_Plan], *, vectors: Vectors, space: Space
) -> dict[uuid.UUID, tuple[int, int]]:
    """Store the vectors at hand and note a job for each that is owed; (stored, owed) by document."""
    present = await _embedded(session, [row.id for plan in plans for row in plan.kept.values()], space)
    fresh: list[tuple[Any, ...]] = []
    late: list[dict[str, Any]] = []
    owed: list[dict[str, Any]] = []
    counts = {}
    column = "embedding" if space.storage == "halfvec" else "embedding_full"
    for plan in plans:
        before = len(fresh) + len(late), len(owed)
        for index, (chunk_id, chunk) in enumerate(zip(plan.ids, plan.prepared.chunks, strict=True)):
            if not chunk.is_leaf or chunk_id in present:
                continue
            key = {"owner_id": plan.prepared.owner_id, "chunk_id": chunk_id, "space_id": space.id}
            if (vector := vectors.get(chunk.content_hash)) is None:
                owed.append(key)
            elif index in plan.kept:
                late.append({**key, column: vector})
            else:
                fresh.append((*key.values(), vector))
        counts[plan.document.id] = len(fresh) + len(late) - before[0], len(owed) - before[1]
    if fresh:
        columns = {"owner_id": "text", "chunk_id": "uuid", "space_id": "smallint", column: space.storage}
        await copy_rows(session, ChunkEmbedding.__tablename__, columns, fresh)
    if late:
        # A worker may be storing the same vector at this moment.
        await session.execute(insert(ChunkEmbedding).on_conflict_do_nothing(), late)
        await _settle_jobs(session, [row["chunk_id"] for row in late], space)
    if owed:
        await session.execute(insert(EmbeddingJob).on_conflict_do_nothing(), owed)
    return counts


async def _embedded(session: AsyncSession, ids: Sequence[uuid.UUID], space: Space) -> set[uuid.UUID]:
    if not ids:
        return set()
    statement = select(ChunkEmbedding.chunk_id).where(
        ChunkEmbedding.chunk_id.in_(ids), ChunkEmbedding.space_id == space.id
    )
    return set(await session.scalars(statement))


async def _settle_jobs(session: AsyncSession, ids: Sequence[uuid.UUID], space: Space) -> None:
    settled = delete(EmbeddingJob).where(EmbeddingJob.chunk_id.in_(ids), EmbeddingJob.space_id == space.id)
    await session.execute(settled, execution_options={"synchronize_session": False})
