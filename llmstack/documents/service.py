"""The documents of one schema: every verb in a transaction of its own."""

from __future__ import annotations

import datetime as dt
import time
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

from ..db.checks import check_limit
from ..db.database import Service
from ..db.paging import Page
from ..embeddings import EmbeddingService
from ..errors import ValidationError
from ..retrieval import Expander, Reranker
from ..search import StatisticsRefresh, Weighted
from ..search.fusion import Fusion
from ..search.reweigh import check_parameters
from ..settings import Settings
from .calibration import Calibration, Calibrator
from .chunking import ChunkingConfig
from .errors import DocumentChanged
from .feedback import Feedback, FeedbackRepository, JudgedQuery, Key, RecordedSearch
from .freshness import StatisticsKeeper
from .ingestion import Ingestion
from .models import Chunk, Document
from .queries import DocumentFilter, OrderBy
from .records import (
    AddProgress,
    AddResult,
    Chunking,
    DocumentInput,
    DocumentStatistics,
    Mode,
    SearchHits,
)
from .repository import DocumentRepository
from .results import GroupBy, Recency, ResultOptions
from .search_log import SearchLog
from .searching import Searcher, SearchRequest

Result = TypeVar("Result")


class DocumentService:
    """Adds, finds, searches and removes documents; `stack.documents`."""

    def __init__(self, service: Service, embeddings: EmbeddingService, settings: Settings) -> None:
        self._service = service
        self._embeddings = embeddings
        self._settings = settings
        self._searcher = Searcher(service=service, embeddings=embeddings, settings=settings)
        self._statistics = StatisticsKeeper(service)
        self._log = SearchLog(service, settings)
        self._calibrator = Calibrator(service, embeddings, settings, self._statistics)
        self._ingestion = Ingestion(
            service=service, embeddings=embeddings, settings=settings, on_written=self._statistics.changed
        )

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
    ) -> AddResult:
        """Store a document, or its new version under a known (owner_id, id_at_origin).

        Readers see the old or the new version. Chunks that did not change keep their row and vector. A
        failing embedder leaves the vectors pending and costs nothing else. `language` may be "auto".
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
        )
        return await self._ingestion.add(given)

    def add_many(
        self,
        inputs: Iterable[DocumentInput] | AsyncIterable[DocumentInput],
        *,
        progress: Callable[[AddProgress], None] | None = None,
    ) -> AsyncIterator[AddResult]:
        """Store many documents in bounded memory; results in the order of the inputs, each with its `error`.

        Each batch is one transaction. Stop iterating and what was yielded is stored.
        """
        return self._ingestion.add_many(inputs, progress=progress)

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
        )
        return await self._ingestion.add(given, base=document)

    async def search(
        self,
        *,
        owner_id: str,
        query: str,
        mode: Mode | None = None,
        limit: int = 10,
        id_at_origin: str | Sequence[str] | None = None,
        document_ids: Sequence[uuid.UUID] | None = None,
        document_type: str | Sequence[str] | None = None,
        language: str | Sequence[str] | None = None,
        date_from: dt.datetime | None = None,
        date_to: dt.datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        alpha: float | None = None,
        fusion: Fusion | None = None,
        operators: bool = True,
        candidates: int | None = None,
        expand: Expander | Sequence[str] | None = None,
        recency: Recency | None = None,
        min_score: float | None = None,
        group_by: GroupBy | None = None,
        neighbours: int = 0,
        reranker: Reranker | None = None,
        diversity: float = 0.0,
        explain: bool = False,
    ) -> SearchHits:
        """The best passages, best first; ties by id. `alpha` is the weight of the vector leg.

        Without a `mode` search is hybrid, or text where there is no working embedder. In the query `"..."` is
        required and `-word` is forbidden unless `operators` is off. Each leg hands on `candidates` rows, and what
        follows happens in this order, each only where it is asked for: `expand` adds wordings to the same statement;
        `recency` and `min_score`; `group_by` leaves one hit for each document or parent; `reranker` orders all
        `candidates` rows anew, unless it fails or takes too long; `diversity` (0.0 to 1.0) is the weight against hits
        like those before them.
        """
        if alpha is not None and fusion is not None:
            raise ValidationError("alpha", "give alpha or fusion, not both")
        request = SearchRequest(
            owner_id=owner_id,
            query=query,
            mode=mode,
            limit=limit,
            where=DocumentFilter(
                id_at_origin=id_at_origin,
                document_ids=document_ids,
                document_type=document_type,
                language=language,
                date_from=date_from,
                date_to=date_to,
                metadata=metadata,
            ),
            fusion=Weighted(alpha=alpha) if alpha is not None else fusion,
            operators=operators,
            candidates=candidates,
            expand=expand,
            reranker=reranker,
            diversity=diversity,
            results=ResultOptions(
                recency=recency,
                min_score=min_score,
                group_by=group_by,
                neighbours=neighbours,
                similarities=diversity > 0.0,
            ),
            explain=explain,
        )
        started = time.perf_counter()
        hits = await self._searcher.search(request)
        hits.search_id = self._log.note(
            owner_id=owner_id,
            query=query,
            mode=hits.mode or "text",
            limit=limit,
            where=request.where,
            hits=hits,
            vector_path=hits.vector_path,
            elapsed=time.perf_counter() - started,
        )
        return hits

    @property
    def vector_paths(self) -> Mapping[str, int]:
        """How often this process' searches were answered `exact`, by the `index`, or by the `guard` behind it."""
        return dict(self._searcher.vector_paths)

    async def get(self, *, owner_id: str, document_id: uuid.UUID | str) -> Document:
        """The document, or DocumentNotFound; another owner's is as good as absent."""
        return await self._read(lambda documents: documents.get(owner_id=owner_id, document_id=document_id))

    async def find(self, *, owner_id: str, id_at_origin: str) -> Document | None:
        """The document of this identity, if there is one."""
        return await self._read(lambda documents: documents.find(owner_id=owner_id, id_at_origin=id_at_origin))

    async def text(self, *, owner_id: str, document_id: uuid.UUID | str) -> str:
        """The stored text, which the offsets of the chunks point into; TextNotKept where it was not stored.

        Where the result of adding it says `cleaned`, it is the cleaned text.
        """
        return await self._read(lambda documents: documents.text(owner_id=owner_id, document_id=document_id))

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
        """A page of documents with the total; pass its `cursor` for the next one."""
        return await self._read(
            lambda documents: documents.list(
                owner_id=owner_id,
                where=where,
                order_by=order_by,
                descending=descending,
                limit=limit,
                cursor=cursor,
                deleted=deleted,
            )
        )

    async def chunks(self, *, owner_id: str, document_id: uuid.UUID | str, level: int | None = 0) -> Sequence[Chunk]:
        """The chunks in reading order: leaves, parents (`level=1`), or both (None)."""
        return await self._read(
            lambda documents: documents.chunks(owner_id=owner_id, document_id=document_id, level=level)
        )

    async def neighbours(
        self, *, owner_id: str, chunk_id: uuid.UUID | str, before: int = 1, after: int = 1
    ) -> Sequence[Chunk]:
        """A passage with those around it, in reading order."""
        return await self._read(
            lambda documents: documents.neighbours(owner_id=owner_id, chunk_id=chunk_id, before=before, after=after)
        )

    async def update_metadata(
        self,
        *,
        owner_id: str,
        document_id: uuid.UUID | str,
        metadata: Mapping[str, Any],
        replace: bool = False,
    ) -> Document:
        """Merge keys into the metadata, or replace it; nothing is embedded anew."""
        return await self._write(
            lambda documents: documents.update_metadata(
                owner_id=owner_id, document_id=document_id, metadata=metadata, replace=replace
            )
        )

    async def delete(self, *, owner_id: str, document_id: uuid.UUID | str) -> int:
        """Hide a document until it is restored or purged; 0 when there is none."""
        return await self._write(lambda documents: documents.delete(owner_id=owner_id, document_id=document_id))

    async def delete_many(
        self,
        *,
        owner_id: str,
        document_ids: Sequence[uuid.UUID] | None = None,
        where: DocumentFilter | None = None,
    ) -> int:
        """Hide the documents of these ids, or all that match the filter; returns how many."""
        if (document_ids is None) == (where is None):
            raise ValidationError("where", "give either document_ids or a filter")
        chosen = DocumentFilter(document_ids=document_ids) if where is None else where
        return await self._write(lambda documents: documents.delete_many(owner_id=owner_id, where=chosen))

    async def restore(self, *, owner_id: str, document_id: uuid.UUID | str) -> int:
        """Bring a deleted document back with its chunks and vectors; 0 when there is none."""
        return await self._write(lambda documents: documents.restore(owner_id=owner_id, document_id=document_id))

    async def purge(self, *, owner_id: str, older_than: dt.timedelta = dt.timedelta(0)) -> int:
        """Delete for good what was deleted at least this long ago."""
        return await self._write(lambda documents: documents.purge(owner_id=owner_id, older_than=older_than))

    async def statistics(self, *, owner_id: str) -> DocumentStatistics:
        """Documents, chunks, tokens, bytes, by type and language, and embedding coverage."""
        return await self._read(lambda documents: documents.statistics(owner_id=owner_id))

    async def refresh_statistics(self) -> StatisticsRefresh | None:
        """Read the term statistics that BM25 ranks by anew; None while another process does."""
        return await self._statistics.refresh()

    async def reweigh(
        self,
        *,
        k1: float | None = None,
        b: float | None = None,
        average_length: float | None = None,
        context_weight: float | None = None,
    ) -> int:
        """Give the corpus these BM25 parameters and weigh every chunk by them; return how many changed.

        Without an `average_length` it is the measured one, which is worth it when `refresh_statistics` measures one
        that is off by more than two from what rows are weighed by; small corpora see to it themselves. Chunks are
        rewritten a batch at a time. A run that was stopped goes on where it is called again.
        """
        given = {"k1": k1, "b": b, "average_length": average_length, "context_weight": context_weight}
        return await self._statistics.reweigh(check_parameters(given))

    async def calibrate(
        self,
        judged: Sequence[JudgedQuery] | None = None,
        *,
        owner_id: str | None = None,
        minimum: int = 20,
        standard_errors: float = 1.0,
        tune_text: bool = True,
        dry_run: bool = False,
    ) -> Calibration:
        """Choose alpha, k1, b and the weight of the context for all owners of this schema, and store the choice.

        By judged queries, or by recorded feedback (of one owner, or of all). What is in force stays unless the best
        setting gains more than `standard_errors` standard errors of the paired differences of nDCG@10; of settings
        that are as good as the best it is that nearest to the default. Chosen text settings rewrite the chunks'
        weights, a batch at a time. Conflict while another process calibrates.
        """
        await self._log.settle()
        return await self._calibrator.calibrate(
            judged,
            owner_id=owner_id,
            minimum=minimum,
            standard_errors=standard_errors,
            tune_text=tune_text,
            dry_run=dry_run,
        )

    async def calibrations(self, *, limit: int = 50) -> Sequence[Calibration]:
        """What was chosen and why, newest first."""
        return await self._calibrator.list(limit=check_limit(limit))

    async def undo_calibration(self) -> Calibration:
        """Put the settings back that were in force before the newest calibration that stands."""
        return await self._calibrator.undo()

    async def record_feedback(self, *, owner_id: str, search_id: uuid.UUID | str, grades: Mapping[Key, float]) -> int:
        """Grade hits of a logged search by chunk or by id at the origin, 0 for useless; a later grade replaces.

        SearchNotFound for another owner's search, or one that is not kept.
        """
        await self._log.settle()
        return await self._service.transaction(
            lambda session: FeedbackRepository(session).put(owner_id=owner_id, search_id=search_id, grades=grades)
        )

    async def feedback(
        self,
        *,
        owner_id: str,
        search_id: uuid.UUID | str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Feedback]:
        """A page of an owner's grades, the newest first."""
        await self._log.settle()

        async def work(session: AsyncSession) -> Page[Feedback]:
            return await FeedbackRepository(session).list(
                owner_id=owner_id, search_id=search_id, limit=limit, cursor=cursor
            )

        return await self._service.read(work)

    async def searches(self, *, owner_id: str, limit: int = 50, cursor: str | None = None) -> Page[RecordedSearch]:
        """A page of an owner's logged searches, newest first, with their hits and grades."""
        await self._log.settle()

        async def work(session: AsyncSession) -> Page[RecordedSearch]:
            return await FeedbackRepository(session).searches(owner_id=owner_id, limit=limit, cursor=cursor)

        return await self._service.read(work)

    async def purge_search_log(self, *, older_than: dt.timedelta = dt.timedelta(0)) -> int:
        """Delete logged searches of this age, with their feedback; return how many."""
        if older_than < dt.timedelta(0):
            raise ValidationError("older_than", "it lies in the future")
        await self._log.settle()
        return await self._log.purge(older_than=min(older_than, dt.timedelta(days=36_500)))

    async def settle(self) -> None:
        """Wait for background work."""
        await self._log.settle()
        await self._statistics.settle()

    async def _read(self, work: Callable[[DocumentRepository], Awaitable[Result]]) -> Result:
        return await self._service.read(lambda session: work(DocumentRepository(session, settings=self._settings)))

    async def _write(self, work: Callable[[DocumentRepository], Awaitable[Result]]) -> Result:
        async def run(session: AsyncSession) -> tuple[Result, int]:
            documents = DocumentRepository(session, settings=self._settings)
            return await work(documents), documents.changed_rows

        result, changed = await self._service.transaction(run)
        if changed:
            self._statistics.changed(changed)
        return result
