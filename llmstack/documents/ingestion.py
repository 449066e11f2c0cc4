"""Take documents in: prepare and embed outside the transaction, write in one, keep the bad from the good."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import select, tuple_
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.database import Service
from ..embeddings import EmbeddingService, Space
from ..errors import DatabaseUnavailable, EmbeddingError, LLMStackError
from ..settings import Settings
from .models import Chunk, Document
from .preparation import prepare
from .queries import has_vector
from .records import AddProgress, AddResult, DocumentInput, PreparedDocument
from .writer import Written, write_documents

BATCH_DOCUMENTS = 200
BATCH_CHARACTERS = 1_000_000


@dataclass(slots=True)
class _Item:
    """One document on its way; `error` ends it."""

    given: DocumentInput
    started: float
    prepared: PreparedDocument | None = None
    unchanged: Document | None = None
    written: Written | None = None
    embedding_error: str | None = None
    error: Exception | None = None

    @property
    def open(self) -> bool:
        return self.error is None and self.unchanged is None and self.written is None

    def result(self) -> AddResult:
        result = AddResult(
            owner_id=self.given.owner_id,
            id_at_origin=self.given.id_at_origin,
            document=self.unchanged,
            unchanged=self.unchanged is not None,
            cleaned=self.prepared is not None and self.prepared.cleaned,
            elapsed=dt.timedelta(seconds=time.monotonic() - self.started),
            embedding_error=self.embedding_error,
            error=None if self.error is None else str(self.error),
        )
        if (done := self.written) is None:
            return result
        return replace(
            result,
            document=done.document,
            chunks_created=done.created,
            chunks_kept=done.kept,
            chunks_deleted=done.deleted,
            embeddings_created=done.embedded,
            embeddings_pending=done.owed,
        )


@dataclass(slots=True)
class Ingestion:
    """Adds documents to one schema; holds nothing between calls."""

    service: Service
    embeddings: EmbeddingService
    settings: Settings
    on_written: Callable[[int], None] = field(default=lambda changed: None)

    async def add(self, given: DocumentInput, *, rechunked: bool = False) -> AddResult:
        """Add one document, or raise what stopped it."""
        (item,) = await self._run([given], rechunked=rechunked)
        if item.error is not None:
            raise item.error
        return item.result()

    async def add_many(
        self,
        inputs: Iterable[DocumentInput] | AsyncIterable[DocumentInput],
        *,
        progress: Callable[[AddProgress], None] | None = None,
    ) -> AsyncIterator[AddResult]:
        """Results in the order of the inputs, a batch at a time; a batch is written while the next one is made."""
        documents = chunks = failed = 0
        async for batch in _batches(inputs):
            for item in await self._run(batch):
                result = item.result()
                documents += 1
                chunks += result.chunks_created + result.chunks_kept
                failed += result.error is not None
                yield result
            if progress is not None:
                progress(AddProgress(documents, chunks, failed))

    async def _run(self, batch: Sequence[DocumentInput], *, rechunked: bool = False) -> list[_Item]:
        items = [_Item(given=given, started=time.monotonic()) for given in batch]
        await asyncio.to_thread(_prepare_all, items, self.settings)
        for group in _distinct(items):
            space, trouble = await self._space()
            missing = await self._compare(group, space, rechunked=rechunked)
            vectors = await self._embed([item for item in group if item.open], missing, space)
            for item in group:
                item.embedding_error = item.embedding_error or (trouble if item.open else None)
            await self._write([item for item in group if item.open], vectors, space)
        return items

    async def _space(self) -> tuple[Space | None, str | None]:
        if self.embeddings.embedder is None:
            return None, None
        try:
            return await self.embeddings.space(), None
        except EmbeddingError as error:
            return None, str(error)

    async def _compare(self, items: Sequence[_Item], space: Space | None, *, rechunked: bool) -> set[bytes]:
        """Find the documents that are unchanged; return the hashes of chunks that have their vector already."""
        prepared = {item.prepared.identity: item for item in items if item.prepared is not None}
        if not prepared:
            return set()
        known = tuple_(Document.owner_id, Document.id_at_origin).in_(list(prepared))
        async with self.service.single_statements() as session:
            found = list(await session.scalars(select(Document).where(known, Document.deleted_at.is_(None))))
            for document in found:
                item = prepared[document.owner_id, document.id_at_origin]
                assert item.prepared is not None
                if not rechunked and _same(document, item.prepared):
                    item.unchanged = document
            changed = [document.id for document in found if prepared[document.owner_id, document.id_at_origin].open]
            if not changed or space is None:
                return set()
            embedded = select(Chunk.content_hash).where(Chunk.document_id.in_(changed), has_vector(space.id))
            return set(await session.scalars(embedded))

    async def _embed(
        self, items: Sequence[_Item], present: set[bytes], space: Space | None
    ) -> dict[bytes, Sequence[float]]:
        if space is None:
            return {}
        texts = [_texts(item, present) for item in items]
        together = {key: text for part in texts for key, text in part.items()}
        try:
            return await self._vectors(together)
        except EmbeddingError as error:
            if len(items) == 1:
                items[0].embedding_error = str(error)
                return {}
        # One text may have spoilt the batch: each document for itself.
        vectors: dict[bytes, Sequence[float]] = {}
        for item, part in zip(items, texts, strict=True):
            try:
                vectors.update(await self._vectors(part))
            except EmbeddingError as error:
                item.embedding_error = str(error)
        return vectors

    async def _vectors(self, texts: dict[bytes, str]) -> dict[bytes, Sequence[float]]:
        if not texts:
            return {}
        vectors = await self.embeddings.embed(list(texts.values()))
        return dict(zip(texts, vectors, strict=True))

    async def _write(
        self, items: Sequence[_Item], vectors: dict[bytes, Sequence[float]], space: Space | None
    ) -> None:
        documents = [item.prepared for item in items if item.prepared is not None]
        if not documents:
            return

        async def work(session: AsyncSession) -> list[Written]:
            return await write_documents(
                session, documents, vectors=vectors, space=space, keep_text=self.settings.keep_text
            )

        try:
            written = await self.service.transaction(work)
        except DatabaseUnavailable:
            raise
        except (LLMStackError, DBAPIError) as error:
            if len(items) == 1:
                items[0].error = error
                return
            for item in items:
                await self._write([item], vectors, space)
            return
        for item, done in zip(items, written, strict=True):
            item.written = done
        self.on_written(sum(done.created + done.deleted for done in written))
        await self._pay_what_a_race_left(items)

    async def _pay_what_a_race_left(self, items: Sequence[_Item]) -> None:
        """Chunks that another writer removed after we looked were written without a vector: make it now."""
        for item in items:
            if item.written is not None and item.written.owed and item.embedding_error is None:
                paid = await self.embeddings.process_pending(owner_id=item.given.owner_id)
                done = item.written
                settled = min(done.owed, paid.embedded)
                item.written = replace(done, embedded=done.embedded + settled, owed=done.owed - settled)


def _prepare_all(items: Sequence[_Item], settings: Settings) -> None:
    for item in items:
        try:
            item.prepared = prepare(item.given, settings)
        except LLMStackError as error:
            item.error = error


def _distinct(items: Sequence[_Item]) -> list[list[_Item]]:
    """Groups in which no identity comes twice, in order: the last of a repeated identity wins."""
    groups: list[list[_Item]] = []
    turns: dict[tuple[str, str], int] = {}
    for item in items:
        if item.prepared is None:
            continue
        turn = turns.get(item.prepared.identity, 0)
        turns[item.prepared.identity] = turn + 1
        if turn == len(groups):
            groups.append([])
        groups[turn].append(item)
    return groups


def _same(document: Document, prepared: PreparedDocument) -> bool:
    return (
        document.content_hash == prepared.content_hash
        and document.name == prepared.name
        and document.document_type == prepared.document_type
        and document.document_date == prepared.document_date
        and document.language == prepared.language
        and document.chunking == dict(prepared.chunking)
        and document.metadata_ == dict(prepared.metadata)
    )


def _texts(item: _Item, present: set[bytes]) -> dict[bytes, str]:
    assert item.prepared is not None
    return {
        chunk.content_hash: chunk.embedded_text
        for chunk in item.prepared.chunks
        if chunk.is_leaf and chunk.content_hash not in present
    }


async def _batches(
    inputs: Iterable[DocumentInput] | AsyncIterable[DocumentInput],
) -> AsyncIterator[list[DocumentInput]]:
    """Batches bounded in documents and characters; a larger document makes one by itself."""
    batch: list[DocumentInput] = []
    characters = 0
    async for given in _each(inputs):
        size = len(given.content) if isinstance(given.content, str) else 0
        if batch and (len(batch) >= BATCH_DOCUMENTS or characters + size > BATCH_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(given)
        characters += size
    if batch:
        yield batch


async def _each(inputs: Iterable[DocumentInput] | AsyncIterable[DocumentInput]) -> AsyncIterator[DocumentInput]:
    if isinstance(inputs, AsyncIterable):
        async for given in inputs:
            yield given
    else:
        for given in inputs:
            yield given
