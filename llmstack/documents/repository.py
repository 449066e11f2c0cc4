"""Documents and chunks inside the caller's session."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.checks import any_of, as_uuid, check_id, check_limit, check_metadata, check_owner
from ..db.copy import STATEMENT_ROWS
from ..db.paging import Page
from ..embeddings.writing import hide, show
from ..errors import ValidationError
from ..settings import Settings
from . import queries
from .corpus import DocumentFilter, check_filter
from .embedding import EMBEDDED
from .errors import ChunkNotFound, DocumentNotFound, TextNotKept
from .models import Chunk, Document
from .preparation import MAX_ORIGIN_BYTES
from .queries import OrderBy, owned
from .records import DocumentStatistics

_UNSYNCHRONIZED = {"synchronize_session": False}
DOCUMENTS_AT_ONCE = 1_000
"""Documents whose ids and whose chunks' ids are held at a time, however many are deleted."""
_AGES_AGO = dt.timedelta(days=365_000)


class DocumentRepository:
    """Reads and changes documents inside the caller's transaction; another owner's are as good as absent.

    `changed_rows` counts the chunks that were hidden or shown through it: term statistics do not know them yet.
    """

    def __init__(self, session: AsyncSession, *, settings: Settings | None = None) -> None:
        self._session = session
        self._settings = settings
        self.changed_rows = 0

    async def find(self, *, owner_id: str, id_at_origin: str) -> Document | None:
        """The living document of this identity, if there is one."""
        origin = check_id("id_at_origin", id_at_origin, limit=MAX_ORIGIN_BYTES)
        statement = select(Document).where(owned(check_owner(owner_id)), Document.id_at_origin == origin)
        return (await self._session.scalars(statement)).one_or_none()

    async def get(self, *, owner_id: str, document_id: uuid.UUID | str) -> Document:
        """The living document, or DocumentNotFound."""
        key = as_uuid("document_id", document_id)
        statement = select(Document).where(owned(check_owner(owner_id)), Document.id == key)
        document = (await self._session.scalars(statement)).one_or_none()
        if document is None:
            raise DocumentNotFound(document_id)
        return document

    async def text(self, *, owner_id: str, document_id: uuid.UUID | str) -> str:
        """The stored text, which the offsets of the chunks point into; TextNotKept where it was not stored.

        Where the result of adding it says `cleaned`, it is the cleaned text.
        """
        key = as_uuid("document_id", document_id)
        statement = select(Document.content).where(owned(check_owner(owner_id)), Document.id == key)
        found = (await self._session.execute(statement)).one_or_none()
        if found is None:
            raise DocumentNotFound(document_id)
        text: str | None = found.content
        if text is None:
            raise TextNotKept(key)
        return text

    async def list(
        self,
        *,
        owner_id: str,
        where: DocumentFilter | None = None,
        order_by: OrderBy = "created_at",
        descending: bool = True,
        limit: int = 50,
        cursor: str | None = None,
        deleted: bool = False,
    ) -> Page[Document]:
        """One page and the total, in one statement; a row that is added meanwhile shifts no page."""
        statement = queries.page_of_documents(
            check_owner(owner_id),
            DocumentFilter() if where is None else check_filter(where),
            order_by=order_by,
            descending=descending,
            limit=check_limit(limit),
            cursor=cursor,
            deleted=deleted,
        )
        rows = (await self._session.execute(statement)).all()
        found = [document for _, document in rows if document is not None]
        items = found[:limit]
        order = queries.document_order(order_by)
        more = order.cursor(getattr(items[-1], order_by), items[-1].id) if len(found) > limit else None
        return Page(items=items, total=rows[0].total, cursor=more)

    async def chunks(self, *, owner_id: str, document_id: uuid.UUID | str, level: int | None = 0) -> Sequence[Chunk]:
        """The chunks in reading order: leaves, parents (`level=1`), or both (None), parents first."""
        document = await self.get(owner_id=owner_id, document_id=document_id)
        statement = select(Chunk).where(Chunk.owner_id == owner_id, Chunk.document_id == document.id)
        if level is not None:
            statement = statement.where(Chunk.level == level)
        return (await self._session.scalars(statement.order_by(Chunk.position))).all()

    async def neighbours(
        self, *, owner_id: str, chunk_id: uuid.UUID | str, before: int = 1, after: int = 1
    ) -> Sequence[Chunk]:
        """A leaf with the leaves around it, in reading order."""
        key = as_uuid("chunk_id", chunk_id)
        statement = queries.around(
            check_owner(owner_id),
            key,
            before=check_limit(before, field="before", least=0),
            after=check_limit(after, field="after", least=0),
        )
        found = (await self._session.scalars(statement)).all()
        if not found:
            raise ChunkNotFound(key)
        return found

    async def update_metadata(
        self,
        *,
        owner_id: str,
        document_id: uuid.UUID | str,
        metadata: Mapping[str, Any],
        replace: bool = False,
    ) -> Document:
        """Merge keys into the metadata, or replace it; filters see it at once, nothing is embedded anew."""
        limit = (self._settings or Settings()).max_metadata_bytes
        checked = check_metadata(metadata, limit=limit)
        statement = (
            update(Document)
            .where(owned(check_owner(owner_id)), Document.id == as_uuid("document_id", document_id))
            .values(metadata_=checked if replace else Document.metadata_.concat(checked))
            .returning(Document)
            .execution_options(populate_existing=True, **_UNSYNCHRONIZED)
        )
        document = (await self._session.scalars(statement)).one_or_none()
        if document is None:
            raise DocumentNotFound(document_id)
        check_metadata(document.metadata_, limit=limit)
        return document

    async def delete(self, *, owner_id: str, document_id: uuid.UUID | str) -> int:
        """Hide a document until it is restored or purged; 0 when there is none."""
        wanted = DocumentFilter(document_ids=[as_uuid("document_id", document_id)])
        return await self.delete_many(owner_id=owner_id, where=wanted)

    async def delete_many(self, *, owner_id: str, where: DocumentFilter) -> int:
        """Hide every document that matches; refuses a filter that asks for nothing."""
        conditions = check_filter(where).on_documents()
        if not conditions:
            raise ValidationError("where", "an empty filter would delete every document; name a condition")
        return await self._hide(owner_id, owned(check_owner(owner_id)), *conditions, moment=func.now())

    async def restore(self, *, owner_id: str, document_id: uuid.UUID | str) -> int:
        """Bring a deleted document back with its chunks and vectors; 0 when there is none."""
        condition = Document.id == as_uuid("document_id", document_id)
        return await self._hide(owner_id, owned(check_owner(owner_id), deleted=True), condition, moment=None)

    async def _hide(self, owner_id: str, *conditions: Any, moment: Any) -> int:
        number = 0
        async for ids in self._locked(*conditions):
            changed = update(Document).where(any_of(Document.id, ids)).values(deleted_at=moment)
            await self._session.execute(changed, execution_options=_UNSYNCHRONIZED)
            for part in await self._chunks_of(ids):
                chunks = update(Chunk).where(any_of(Chunk.id, part)).values(deleted_at=moment)
                await self._session.execute(chunks, execution_options=_UNSYNCHRONIZED)
                await (show if moment is None else hide)(self._session, EMBEDDED, owner_id=owner_id, row_ids=part)
                self.changed_rows += len(part)
            number += len(ids)
        if number:
            self._session.expire_all()
        return number

    async def _locked(self, *conditions: Any) -> AsyncIterator[Sequence[uuid.UUID]]:
        """The documents that match, a page at a time, with their rows locked."""
        statement = select(Document.id).where(*conditions).order_by(Document.id)
        page = statement.limit(DOCUMENTS_AT_ONCE).with_for_update()
        while ids := (await self._session.scalars(page)).all():
            yield ids
            page = statement.where(Document.id > ids[-1]).limit(DOCUMENTS_AT_ONCE).with_for_update()

    async def _chunks_of(self, ids: Sequence[uuid.UUID]) -> Sequence[Sequence[uuid.UUID]]:
        """The chunks of documents whose rows are locked, in parts that one statement can change in time."""
        statement = select(Chunk.id).where(any_of(Chunk.document_id, ids)).order_by(Chunk.id)
        found = (await self._session.scalars(statement)).all()
        return [found[start : start + STATEMENT_ROWS] for start in range(0, len(found), STATEMENT_ROWS)]

    async def purge(self, *, owner_id: str, older_than: dt.timedelta = dt.timedelta(0)) -> int:
        """Delete for good what was deleted at least this long ago, with chunks, vectors and jobs."""
        if older_than < dt.timedelta(0):
            raise ValidationError("older_than", "it lies in the future")
        condition = Document.deleted_at <= func.now() - min(older_than, _AGES_AGO)
        deleted = owned(check_owner(owner_id), deleted=True)
        number = 0
        async for ids in self._locked(deleted, condition):
            for part in await self._chunks_of(ids):
                chunks = delete(Chunk).where(any_of(Chunk.id, part))
                await self._session.execute(chunks, execution_options=_UNSYNCHRONIZED)
            gone = delete(Document).where(any_of(Document.id, ids))
            await self._session.execute(gone, execution_options=_UNSYNCHRONIZED)
            number += len(ids)
        return number

    async def statistics(self, *, owner_id: str) -> DocumentStatistics:
        """What the owner has, in one statement."""
        counted: dict[str, dict[str, int]] = {}
        for kind, name, number in await self._session.execute(queries.statistics_of(check_owner(owner_id))):
            counted.setdefault(kind, {})[name] = int(number)
        return DocumentStatistics(
            documents=counted["documents"][""],
            chunks=counted["chunks"][""],
            tokens=counted["tokens"][""],
            bytes=counted["bytes"][""],
            by_type=counted.get("type", {}),
            by_language=counted.get("language", {}),
            embedded=counted.get("embedded", {}),
        )
