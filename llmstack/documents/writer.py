"""Write prepared documents: to readers a document's chunks are the old ones or the new ones, never both.

A chunk whose hash is unchanged keeps its row and its vectors. The rows of `documents` are locked in the order
of their identity, so that concurrent writers of one identity follow one another.
"""

from __future__ import annotations

import functools
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, bindparam, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from ..db.arrays import given_rows, row_values
from ..db.checks import any_of
from ..db.copy import STATEMENT_ROWS, copy_rows
from ..embeddings import Space
from ..embeddings.spaces import living
from ..embeddings.tables import core_table
from ..embeddings.writing import WrittenRow, owe_elsewhere, store_vectors
from .embedding import EMBEDDED
from .errors import DocumentChanged
from .models import Chunk, ChunkEmbedding, Document
from .records import PreparedDocument

Vectors = Mapping[bytes, Sequence[float]]
"""Vectors by the hash of their chunk."""

_UNSYNCHRONIZED = {"synchronize_session": False}
# The values are those of the statement's parameters, not columns of a row.
_PUT_OPTIONS = {"populate_existing": True, "dml_strategy": "orm"}

_DOCUMENT_COLUMNS = (
    "id", "owner_id", "id_at_origin", "name", "document_type", "document_date", "language", "content", "content_hash",
    "content_bytes", "chunking", "metadata",
)  # fmt: skip
_CHUNK_COLUMNS = {
    "id": "uuid", "owner_id": "text", "document_id": "uuid", "parent_id": "uuid", "position": "integer",
    "level": "integer", "content": "text", "context": "text", "token_count": "integer",
    "start_offset": "integer", "end_offset": "integer", "content_hash": "bytea", "language": "text",
    "further_words": "text",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Written:
    """What one document's write did; `owed` are the hashes of leaves whose vector is still pending."""

    document: Document
    created: int
    kept: int
    deleted: int
    embedded: int
    owed: Sequence[bytes]
    is_new: bool


@dataclass(slots=True)
class _Plan:
    """The difference between a document's stored chunks and its prepared ones, by index into the latter."""

    prepared: PreparedDocument
    document: Document
    ids: list[uuid.UUID] = field(default_factory=list)
    new: list[int] = field(default_factory=list)
    kept: dict[int, Row[Any]] = field(default_factory=dict)
    gone: list[uuid.UUID] = field(default_factory=list)
    is_new: bool = False

    def parent(self, index: int) -> uuid.UUID | None:
        above = self.prepared.chunks[index].piece.parent
        return None if above is None else self.ids[above]

    def leaves(self, vectors: Vectors) -> list[WrittenRow]:
        """What wants a vector."""
        return [
            WrittenRow(self.prepared.owner_id, chunk_id, vectors.get(chunk.content_hash), index not in self.kept)
            for index, (chunk_id, chunk) in enumerate(zip(self.ids, self.prepared.chunks, strict=True))
            if chunk.is_leaf
        ]

    def place(self, index: int) -> tuple[int, int, str, uuid.UUID | None]:
        piece = self.prepared.chunks[index].piece
        return piece.start, piece.end, self.prepared.language, self.parent(index)


async def require_unchanged(session: AsyncSession, document: Document) -> None:
    """Lock the document's row; DocumentChanged when it is not as it was read."""
    statement = select(Document.updated_at).where(Document.id == document.id, Document.deleted_at.is_(None))
    if await session.scalar(statement.with_for_update()) != document.updated_at:
        raise DocumentChanged(document.id)


async def write_documents(
    session: AsyncSession,
    documents: Sequence[PreparedDocument],
    *,
    vectors: Vectors,
    space: Space | None,
    keep_text: bool,
) -> list[Written]:
    """Store documents of distinct identities inside the caller's transaction; results in the given order.

    The vectors are those of `space`. In every other living space each leaf without a vector gets a job.
    """
    ordered = sorted(documents, key=lambda document: document.identity)
    ids = {document.identity: uuid7() for document in ordered}
    rows = await _put_documents(session, ordered, ids, keep_text=keep_text)
    # Whoever has the id made here has no chunks yet.
    before = await _stored_chunks(session, [row.id for identity, row in rows.items() if row.id != ids[identity]])
    plans = [
        _plan(document, row, dict(before.get(row.id, {}))) for document in ordered for row in (rows[document.identity],)
    ]
    spaces = set(await session.scalars(living()))
    if space is not None and space.id not in spaces:
        # It was retired while the vectors were made.
        space = None
    await _copy_new(session, plans)
    await _move_kept(session, plans)
    await _delete_gone(session, plans)
    leaves = [leaf for plan in plans for leaf in plan.leaves(vectors)]
    stored: set[uuid.UUID] = set()
    owed: set[uuid.UUID] = set()
    if space is not None:
        stored, owed = await store_vectors(session, EMBEDDED, leaves, space=space)
    if spaces - {space and space.id}:
        await owe_elsewhere(session, EMBEDDED, leaves, space=space)
    results = {plan.prepared.identity: _written(plan, stored, owed) for plan in plans}
    return [results[document.identity] for document in documents]


def _written(plan: _Plan, stored: set[uuid.UUID], owed: set[uuid.UUID]) -> Written:
    return Written(
        document=plan.document,
        created=len(plan.new),
        kept=len(plan.kept),
        deleted=len(plan.gone),
        embedded=len(stored.intersection(plan.ids)),
        owed=[
            chunk.content_hash
            for chunk_id, chunk in zip(plan.ids, plan.prepared.chunks, strict=True)
            if chunk_id in owed
        ],
        is_new=plan.is_new,
    )


async def _put_documents(
    session: AsyncSession, documents: Sequence[PreparedDocument], ids: Mapping[tuple[str, str], uuid.UUID], *,
    keep_text: bool,
) -> dict[tuple[str, str], Document]:  # fmt: skip
    """Insert the documents under these ids; one whose identity is known keeps its own."""
    rows = [
        (
            ids[document.identity], document.owner_id, document.id_at_origin, document.name,
            document.document_type, document.document_date, document.language,
            document.content if keep_text else None, document.content_hash, document.content_bytes,
            document.chunking, document.metadata,
        )
        for document in documents
    ]  # fmt: skip
    given = row_values(_DOCUMENT_COLUMNS, rows)
    found = await session.scalars(_put_statement(), given, execution_options=_PUT_OPTIONS)
    return {(row.owner_id, row.id_at_origin): row for row in found}


@functools.cache
def _put_statement() -> Any:
    rows = given_rows({name: Document.__table__.c[name].type for name in _DOCUMENT_COLUMNS})
    statement = insert(Document).from_select(_DOCUMENT_COLUMNS, select(*rows.c))
    fresh = statement.excluded
    replaced = {name: fresh[name] for name in _DOCUMENT_COLUMNS if name not in ("id", "owner_id", "id_at_origin")}
    return statement.on_conflict_do_update(
        index_elements=[Document.owner_id, Document.id_at_origin],
        set_={**replaced, "updated_at": func.now(), "deleted_at": None},
    ).returning(Document)


async def _stored_chunks(session: AsyncSession, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, dict[bytes, Row[Any]]]:
    if not ids:
        return {}
    statement: Any = select(
        Chunk.document_id, Chunk.content_hash, Chunk.id, Chunk.position, Chunk.start_offset, Chunk.end_offset,
        Chunk.language, Chunk.parent_id, Chunk.deleted_at,
    ).where(any_of(Chunk.document_id, ids))  # fmt: skip
    stored: dict[uuid.UUID, dict[bytes, Row[Any]]] = defaultdict(dict)
    for row in await session.execute(statement):
        stored[row.document_id][row.content_hash] = row
    return stored


def _plan(prepared: PreparedDocument, document: Document, before: dict[bytes, Row[Any]]) -> _Plan:
    # Every living document has a chunk, and a deleted one's are all deleted.
    is_new = all(row.deleted_at is not None for row in before.values())
    plan = _Plan(prepared=prepared, document=document, is_new=is_new)
    for index, chunk in enumerate(prepared.chunks):
        known = before.pop(chunk.content_hash, None)
        plan.ids.append(uuid7() if known is None else known.id)
        if known is None:
            plan.new.append(index)
        else:
            plan.kept[index] = known
    plan.gone = [row.id for row in before.values()]
    return plan


async def _copy_new(session: AsyncSession, plans: Sequence[_Plan]) -> None:
    if not any(plan.new for plan in plans):
        return
    rows = (
        (
            plan.ids[index], plan.prepared.owner_id, plan.document.id, plan.parent(index), index,
            chunk.piece.level, chunk.piece.content, chunk.context, chunk.piece.token_count, chunk.piece.start,
            chunk.piece.end, chunk.content_hash, plan.prepared.language, chunk.further_words,
        )
        for plan in plans
        for index, chunk in ((index, plan.prepared.chunks[index]) for index in plan.new)
    )  # fmt: skip
    await copy_rows(session, core_table(Chunk), _CHUNK_COLUMNS, rows)


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
        shown = update(ChunkEmbedding).where(_vectors_of(plans, returned)).values(searchable=True)
        await session.execute(shown, execution_options=_UNSYNCHRONIZED)


async def _delete_gone(session: AsyncSession, plans: Sequence[_Plan]) -> None:
    gone = [chunk_id for plan in plans for chunk_id in plan.gone]
    for start in range(0, len(gone), STATEMENT_ROWS):
        part = gone[start : start + STATEMENT_ROWS]
        await session.execute(delete(Chunk).where(any_of(Chunk.id, part)), execution_options=_UNSYNCHRONIZED)


def _vectors_of(plans: Sequence[_Plan], ids: Sequence[uuid.UUID]) -> ColumnElement[bool]:
    # The owners spare the other partitions.
    owners = list({plan.prepared.owner_id for plan in plans})
    return and_(any_of(ChunkEmbedding.owner_id, owners), any_of(ChunkEmbedding.row_id, ids))
