"""Take documents in: prepare and embed outside the transaction, write in one, keep the bad from the good."""

from __future__ import annotations

import asyncio
import contextlib
import time
from array import array
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import select, tuple_
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.checks import any_of
from ..db.database import Service
from ..db.streams import each_of
from ..embeddings import EmbeddingService, Space
from ..errors import DatabaseUnavailable, EmbeddingError, LLMStackError
from ..settings import Settings
from .items import Batch, Item, Prepared, distinct
from .models import Chunk, Document
from .prefetch import prefetched
from .preparation import check, cut
from .queries import has_vector
from .records import AddProgress, AddResult, DocumentInput, PreparedDocument
from .writer import Written, require_unchanged, write_documents

BATCH_DOCUMENTS = 500
BATCH_CHARACTERS = 1_000_000
SINGLE_FAILURES = 3
WRITERS = 2
"""Transactions that write a batch at once, on a connection each: the server's work on a row is the most of it."""
WRITER_CHUNKS = 100
"""What is smaller for each is written by one."""
ROUNDS_AT_ONCE = 2
"""Batches that each slot of `embedding_concurrency` embeds before their vectors are packed."""


class _Outrun(Exception):
    """Another writer removed chunks whose vectors we meant to keep."""

    def __init__(self, hashes: set[bytes]) -> None:
        self.hashes = hashes


@dataclass(slots=True)
class Ingestion:
    """Adds documents to one schema; holds nothing between calls."""

    service: Service
    embeddings: EmbeddingService
    settings: Settings
    on_written: Callable[[int], None] = field(default=lambda changed: None)

    async def add(self, given: DocumentInput, *, base: Document | None = None) -> AddResult:
        """Add one document, or raise what stopped it; with a `base`, only while that is as it was read."""
        (item,) = await self._run([given], base=base)
        if item.error is not None:
            raise item.error
        return item.result()

    async def add_many(
        self,
        inputs: Iterable[DocumentInput] | AsyncIterable[DocumentInput],
        *,
        progress: Callable[[AddProgress], None] | None = None,
    ) -> AsyncGenerator[AddResult, None]:
        """Results in the order of the inputs; each batch is written before its first result is given.

        While a batch is written and its results are in use, the next one is checked, compared, cut and embedded, with
        a connection of its own. Identities that come again are compared when their last version is stored.
        """
        documents = chunks = failed = 0
        async with contextlib.aclosing(prefetched(self._prepared(inputs))) as batches:
            async for batch in batches:
                await self._finish(batch)
                for item in batch.items:
                    result = item.result()
                    documents += 1
                    chunks += result.chunks_created + result.chunks_kept
                    failed += result.error is not None
                    yield result
                if progress is not None:
                    progress(AddProgress(documents, chunks, failed))

    async def _prepared(
        self, inputs: Iterable[DocumentInput] | AsyncIterable[DocumentInput]
    ) -> AsyncGenerator[Batch, None]:
        previous: Batch | None = None
        async with contextlib.aclosing(_batches(inputs)) as batches:
            async for given in batches:
                batch = await self._check(given)
                batch.first = await self._prepare_after(previous, batch)
                yield batch
                previous = batch

    async def _prepare_after(self, previous: Batch | None, batch: Batch) -> Prepared | None:
        if not batch.groups:
            return None
        if previous is not None:
            if batch.may_follow(previous):
                # Where there is no second connection, its turn comes with the first one's release.
                with contextlib.suppress(DatabaseUnavailable):
                    return await self._prepare(batch.groups[0])
            await previous.stored.wait()
        return await self._prepare(batch.groups[0])

    async def _run(self, given: Sequence[DocumentInput], *, base: Document | None = None) -> list[Item]:
        batch = await self._check(given)
        await self._finish(batch, base=base)
        return batch.items

    async def _check(self, given: Sequence[DocumentInput]) -> Batch:
        items = [Item(given=one, started=time.monotonic()) for one in given]
        await asyncio.to_thread(_check_all, items, self.settings)
        return Batch(items, distinct(items))

    async def _prepare(self, group: Sequence[Item], *, rechunked: bool = False) -> Prepared:
        space, trouble = await self._space()
        await self._compare(group, space, rechunked=rechunked)
        await asyncio.to_thread(_cut_all, [item for item in group if item.open])
        changed = [item for item in group if item.open]
        vectors = {} if space is None else await self._embed(changed, space)
        for item in changed:
            item.embedding_error = item.embedding_error or trouble
        return Prepared(changed, vectors, space)

    async def _finish(self, batch: Batch, *, base: Document | None = None) -> None:
        for group in batch.groups:
            prepared, batch.first = batch.first, None
            prepared = prepared or await self._prepare(group, rechunked=base is not None)
            await self._write_shares(prepared, base)
        batch.stored.set()

    async def _space(self) -> tuple[Space | None, str | None]:
        if self.embeddings.embedder is None:
            return None, None
        try:
            return await self.embeddings.space(), None
        except EmbeddingError as error:
            return None, str(error)

    async def _compare(self, items: Sequence[Item], space: Space | None, *, rechunked: bool) -> None:
        """Find the documents that are unchanged, and which chunks of the others have their vector already."""
        by_identity = {item.prepared.identity: item for item in items if item.prepared is not None}
        known = tuple_(Document.owner_id, Document.id_at_origin).in_(list(by_identity))

        async def compare(session: AsyncSession) -> None:
            found = {}
            statement = select(Document, Document.content.is_not(None)).where(known)
            for document, has_text in await session.execute(statement):
                item = by_identity[document.owner_id, document.id_at_origin]
                enough = has_text or not self.settings.keep_text
                if not rechunked and enough and _same(document, item.prepared):
                    item.unchanged = document
                else:
                    found[document.id] = item
            if space is None or not found:
                return
            embedded = select(Chunk.document_id, Chunk.content_hash).where(
                any_of(Chunk.document_id, list(found)), has_vector(space.id)
            )
            for document_id, content_hash in await session.execute(embedded):
                found[document_id].present.add(content_hash)

        await self.service.read(compare, single_statements=True)

    async def _embed(self, items: Sequence[Item], space: Space) -> dict[bytes, Sequence[float]]:
        together = {key: text for item in items for key, text in item.texts.items()}
        try:
            return await self._vectors(together, space)
        except EmbeddingError as error:
            said = str(error)
        if len(items) == 1:
            items[0].embedding_error = said
            return {}
        return await self._embed_singly(items, space)

    async def _embed_singly(self, items: Sequence[Item], space: Space) -> dict[bytes, Sequence[float]]:
        """Find the documents that spoilt a batch; when the first few all fail, the rest is not tried."""
        vectors: dict[bytes, Sequence[float]] = {}
        failures, said = 0, ""
        for item in items:
            if failures == SINGLE_FAILURES and not vectors:
                item.embedding_error = f"not tried alone, after {said}"
                continue
            try:
                vectors.update(await self._vectors(item.texts, space))
            except EmbeddingError as error:
                failures += 1
                item.embedding_error = said = str(error)
        return vectors

    async def _vectors(self, texts: dict[bytes, str], space: Space) -> dict[bytes, Sequence[float]]:
        """Vectors in 4-byte floats, an eighth of what lists of floats take: a large document has very many."""
        unique = list(dict.fromkeys(texts.values()))
        size = self.settings.embedding_batch_size * self.settings.embedding_concurrency * ROUNDS_AT_ONCE
        packed: dict[str, array[float]] = {}
        for start in range(0, len(unique), size):
            part = unique[start : start + size]
            vectors = await self.embeddings.embed(part, space=space)
            packed.update(zip(part, (array("f", vector) for vector in vectors), strict=True))
        return {key: packed[text] for key, text in texts.items()}

    async def _write_shares(self, prepared: Prepared, base: Document | None) -> None:
        """Write documents of distinct identities, by several transactions at once where they are many."""
        shares = prepared.shares(WRITERS, at_least=WRITER_CHUNKS)
        if len(shares) < 2:
            await self._write(prepared.changed, prepared.vectors, prepared.space, base)
            return
        writing = [self._write(share, prepared.vectors, prepared.space, None) for share in shares]
        for share, error in zip(shares, await asyncio.gather(*writing, return_exceptions=True), strict=True):
            if isinstance(error, DatabaseUnavailable):
                # Where there is no second connection, its turn comes with the first one's release.
                await self._write(share, prepared.vectors, prepared.space, None)
            elif error is not None:
                raise error

    async def _write(
        self,
        items: Sequence[Item],
        vectors: dict[bytes, Sequence[float]],
        space: Space | None,
        base: Document | None,
    ) -> None:
        if not items:
            return
        try:
            written = await self._store(items, vectors, space, base)
        except DatabaseUnavailable:
            raise
        except (LLMStackError, DBAPIError) as error:
            if len(items) == 1:
                items[0].error = error
                return
            for item in items:
                await self._write([item], vectors, space, base)
            return
        for item, done in zip(items, written, strict=True):
            item.written = done
        self.on_written(sum(done.created + done.deleted for done in written))

    async def _store(
        self,
        items: Sequence[Item],
        vectors: dict[bytes, Sequence[float]],
        space: Space | None,
        base: Document | None,
    ) -> list[Written]:
        documents = [item.prepared for item in items if item.prepared is not None]

        async def work(session: AsyncSession) -> list[Written]:
            if base is not None:
                await require_unchanged(session, base)
            written = await write_documents(
                session, documents, vectors=vectors, space=space, keep_text=self.settings.keep_text
            )
            if lost := _lost(items, written):
                raise _Outrun(lost)
            return written

        while True:
            try:
                return await self.service.transaction(work)
            except _Outrun as race:
                lost = race.hashes
            # Each turn adds vectors that are never asked for again, so this ends.
            for item in items:
                item.present -= lost
            outrun = [item for item in items if not lost.isdisjoint(item.texts)]
            vectors.update({} if space is None else await self._embed(outrun, space))


def _lost(items: Sequence[Item], written: Sequence[Written]) -> set[bytes]:
    pairs = zip(items, written, strict=True)
    return {key for item, done in pairs if item.embedding_error is None for key in done.owed}


def _check_all(items: Sequence[Item], settings: Settings) -> None:
    for item in items:
        try:
            item.prepared = check(item.given, settings)
        except Exception as error:
            # A value of another type than promised; the neighbours have nothing to do with it.
            item.error = error


def _cut_all(items: Sequence[Item]) -> None:
    for item in items:
        assert item.prepared is not None
        try:
            item.prepared = cut(item.given, item.prepared)
        except Exception as error:
            # A caller's own chunker may raise anything.
            item.error = error


def _same(document: Document, prepared: PreparedDocument | None) -> bool:
    return (
        prepared is not None
        and document.deleted_at is None
        and document.content_hash == prepared.content_hash
        and document.name == prepared.name
        and document.document_type == prepared.document_type
        and document.document_date == prepared.document_date
        and document.language == prepared.language
        and document.chunking == dict(prepared.chunking)
        and document.metadata_ == dict(prepared.metadata)
    )


async def _batches(
    inputs: Iterable[DocumentInput] | AsyncIterable[DocumentInput],
) -> AsyncGenerator[list[DocumentInput], None]:
    """Batches bounded in documents and characters; a larger document makes one by itself."""
    batch: list[DocumentInput] = []
    characters = 0
    async for given in each_of(inputs):
        size = len(given.content) if isinstance(given.content, str) else 0
        if batch and characters + size > BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
        batch.append(given)
        characters += size
        # At once: the source may be slow to give another one.
        if len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
