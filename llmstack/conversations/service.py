"""The conversations of one schema: every verb in a transaction of its own."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from ..db.database import Service
from ..db.verbs import reading, writing
from ..embeddings import EmbeddingService
from ..embeddings.background import BackgroundEmbedding
from ..errors import EmbeddingError
from ..retrieval import CorpusService
from ..retrieval.tuning.search_log import SearchLog
from ..settings import Settings
from .corpus import MESSAGE_CORPUS, SUMMARY_CORPUS, ConversationHit, MessageFilter, SummaryFilter
from .loading import append_many
from .records import AppendProgress, AppendResult, ThreadInput
from .repository import ConversationRepository

Result = TypeVar("Result")
logger = logging.getLogger("llmstack.conversations")


class ConversationService:
    """Keeps, reads and searches conversations; `stack.conversations`.

    `messages` and `summaries` are the two corpora, each with its search, its feedback and its calibration. Vectors are
    made in the background right after a write; `settle` waits for them.
    """

    def __init__(self, service: Service, embeddings: EmbeddingService, settings: Settings, log: SearchLog) -> None:
        self.messages: CorpusService[ConversationHit, MessageFilter] = CorpusService(
            MESSAGE_CORPUS, service=service, embeddings=embeddings, settings=settings, log=log
        )
        self.summaries: CorpusService[ConversationHit, SummaryFilter] = CorpusService(
            SUMMARY_CORPUS, service=service, embeddings=embeddings, settings=settings, log=log
        )
        self._service = service
        self._embeddings = embeddings
        self._settings = settings
        self._embedding = BackgroundEmbedding(embeddings, MESSAGE_CORPUS.name)

    append = writing(ConversationRepository.append)
    append_window = writing(ConversationRepository.append_window)
    find = reading(ConversationRepository.find)
    get = reading(ConversationRepository.get)
    list_threads = reading(ConversationRepository.list_threads)
    message = reading(ConversationRepository.message)
    history = reading(ConversationRepository.history)
    statistics = reading(ConversationRepository.statistics)
    update = writing(ConversationRepository.update)
    important = writing(ConversationRepository.important)
    fork = writing(ConversationRepository.fork)
    pop = writing(ConversationRepository.pop)
    clear = writing(ConversationRepository.clear)
    delete = writing(ConversationRepository.delete)
    delete_many = writing(ConversationRepository.delete_many)
    restore = writing(ConversationRepository.restore)
    purge = writing(ConversationRepository.purge)

    async def append_many(
        self,
        inputs: Iterable[ThreadInput] | AsyncIterable[ThreadInput],
        *,
        progress: Callable[[AppendProgress], None] | None = None,
    ) -> AsyncIterator[AppendResult]:
        """Append to many threads in bounded memory; results in the order of the inputs, each with its `error`.

        Each batch is one transaction; an input's messages are stored all or none. Stop iterating and what was yielded
        is stored.
        """
        await self._have_space()
        async with contextlib.aclosing(append_many(self._service, self._settings, inputs)) as results:
            done: AppendResult
            threads = messages = failed = 0
            async for done in results:
                threads, messages, failed = threads + 1, messages + done.appended, failed + (done.error is not None)
                self._changed(done.appended)
                yield done
                if progress is not None:
                    progress(AppendProgress(threads, messages, failed))

    async def settle(self) -> None:
        """Wait for background work: vectors, and the statistics of both corpora."""
        await self._embedding.settle()
        await self.messages.settle()
        await self.summaries.settle()

    def _changed(self, rows: int) -> None:
        if rows:
            self.messages.changed(rows)
            self._embedding.ask()

    async def _have_space(self) -> None:
        """Jobs are made for the spaces that there are; the first one comes into being now."""
        if self._embeddings.embedder is None:
            return
        try:
            await self._embeddings.space()
        except EmbeddingError as error:
            logger.warning("vectors of messages cannot be owed yet: %s", error)

    def _repository(self, session: AsyncSession) -> ConversationRepository:
        return ConversationRepository(session, settings=self._settings)

    async def _read(self, work: Callable[[ConversationRepository], Awaitable[Result]]) -> Result:
        return await self._service.read(lambda session: work(self._repository(session)))

    async def _write(self, work: Callable[[ConversationRepository], Awaitable[Result]]) -> Result:
        async def run(session: AsyncSession) -> tuple[Result, int]:
            conversations = self._repository(session)
            return await work(conversations), conversations.changed_rows

        await self._have_space()
        result, changed = await self._service.transaction(run)
        self._changed(changed)
        return result

    def __repr__(self) -> str:
        return f"ConversationService({self._service!r})"
