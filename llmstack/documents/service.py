"""The documents of one schema: every verb in a transaction of its own."""

from __future__ import annotations

import contextlib
import datetime as dt
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

from ..db.database import Service
from ..db.verbs import reading, writing
from ..embeddings import EmbeddingService
from ..retrieval import CorpusService
from ..retrieval.tuning.search_log import SearchLog
from ..settings import Settings
from .chunking import ChunkingConfig
from .corpus import DOCUMENTS, DocumentFilter, DocumentHit
from .errors import DocumentChanged
from .ingestion import Ingestion
from .records import AddProgress, AddResult, Chunking, ContextMode, DocumentInput
from .repository import DocumentRepository

Result = TypeVar("Result")


class DocumentService(CorpusService[DocumentHit, DocumentFilter]):
    """Adds, finds, searches and removes documents; `stack.documents`."""

    def __init__(self, service: Service, embeddings: EmbeddingService, settings: Settings, log: SearchLog) -> None:
        super().__init__(DOCUMENTS, service=service, embeddings=embeddings, settings=settings, log=log)
        self._ingestion = Ingestion(service=service, embeddings=embeddings, settings=settings, on_written=self.changed)

    async def add(
        self,
        *,
        owner_id: str,
        id_at_origin: str,
        content: str,
        document_name: str | None = None,
        document_type: str = "unknown",
        document_date: dt.datetime | None = None,
        language: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        chunking: Chunking = "hierarchical",
        chunking_config: ChunkingConfig | None = None,
        context: ContextMode | None = None,
    ) -> AddResult:
        """Store a document, or its new version under a known (owner_id, id_at_origin).

        Readers see the old or the new version. Chunks that did not change keep their row and vector. A
        failing embedder leaves the vectors pending and costs nothing else. `language` may be "auto". The name is
        searched and embedded with each passage, with its section, unless `context` is "none"; without a name, what
        the id says if it is a path.
        """
        given = DocumentInput(
            owner_id=owner_id,
            id_at_origin=id_at_origin,
            content=content,
            document_name=document_name,
            document_type=document_type,
            document_date=document_date,
            language=language,
            metadata={} if metadata is None else metadata,
            chunking=chunking,
            chunking_config=chunking_config,
            context=context,
        )
        return await self._ingestion.add(given)

    async def add_many(
        self,
        inputs: Iterable[DocumentInput] | AsyncIterable[DocumentInput],
        *,
        progress: Callable[[AddProgress], None] | None = None,
    ) -> AsyncIterator[AddResult]:
        """Store many documents in bounded memory; results in the order of the inputs, each with its `error`.

        Each batch is one transaction. Stop iterating and what was yielded is stored. At the end the term statistics
        are read anew where they are due, so that what was loaded is ranked as it is later on.
        """
        async with contextlib.aclosing(self._ingestion.add_many(inputs, progress=progress)) as results:
            async for result in results:
                yield result
        await self._statistics.catch_up()

    async def rechunk(
        self,
        *,
        owner_id: str,
        document_id: uuid.UUID | str,
        chunking: Chunking = "hierarchical",
        chunking_config: ChunkingConfig | None = None,
    ) -> AddResult:
        """Cut the kept text anew; TextNotKept where it was not stored. A change meanwhile is not undone."""
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(DocumentChanged),
            stop=stop_after_attempt(self._settings.transaction_attempts),
            reraise=True,
        ):
            with attempt:
                return await self._rechunk(owner_id, document_id, chunking, chunking_config)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _rechunk(
        self,
        owner_id: str,
        document_id: uuid.UUID | str,
        chunking: Chunking,
        chunking_config: ChunkingConfig | None,
    ) -> AddResult:
        async with self._service.session() as session:
            documents = DocumentRepository(session, settings=self._settings)
            # In this order a change between the two is seen as one when the result is written.
            document = await documents.get(owner_id=owner_id, document_id=document_id)
            text = await documents.text(owner_id=owner_id, document_id=document_id)
        given = DocumentInput(
            owner_id=owner_id,
            id_at_origin=document.id_at_origin,
            content=text,
            document_name=document.name,
            document_type=document.document_type,
            document_date=document.document_date,
            language=document.language,
            metadata=document.metadata_,
            chunking=chunking,
            chunking_config=chunking_config,
            context=document.chunking.get("context", "full"),
        )
        return await self._ingestion.add(given, base=document)

    find = reading(DocumentRepository.find)
    get = reading(DocumentRepository.get)
    text = reading(DocumentRepository.text)
    list = reading(DocumentRepository.list)
    chunks = reading(DocumentRepository.chunks)
    neighbours = reading(DocumentRepository.neighbours)
    statistics = reading(DocumentRepository.statistics)
    update_metadata = writing(DocumentRepository.update_metadata)
    delete = writing(DocumentRepository.delete)
    delete_many = writing(DocumentRepository.delete_many)
    restore = writing(DocumentRepository.restore)
    purge = writing(DocumentRepository.purge)

    def _repository(self, session: AsyncSession) -> DocumentRepository:
        return DocumentRepository(session, settings=self._settings)

    async def _read(self, work: Callable[[DocumentRepository], Awaitable[Result]]) -> Result:
        return await self._service.read(lambda session: work(self._repository(session)))

    async def _write(self, work: Callable[[DocumentRepository], Awaitable[Result]]) -> Result:
        async def run(session: AsyncSession) -> tuple[Result, int]:
            documents = self._repository(session)
            return await work(documents), documents.changed_rows

        result, changed = await self._service.transaction(run)
        if changed:
            self.changed(changed)
        return result
