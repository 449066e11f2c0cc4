"""The conversations of one schema: every verb in a transaction of its own."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from ..db.checks import check_owner, each
from ..db.database import Service
from ..db.verbs import reading, writing
from ..embeddings import EmbeddingService
from ..embeddings.background import BackgroundEmbedding
from ..errors import EmbeddingError, ValidationError
from ..retrieval import CorpusService, Expander, Recency, Reranker, Search, SearchHits
from ..retrieval.hits import Mode
from ..retrieval.together import merged
from ..retrieval.tuning.search_log import SearchLog
from ..search import Weighted
from ..search.fusion import Fusion
from ..settings import Settings
from .corpus import MESSAGE_CORPUS, SUMMARY_CORPUS, ConversationHit, MessageFilter, SummaryFilter, ThreadFilter
from .embedding import EMBEDDED_MESSAGES, EMBEDDED_SUMMARIES
from .history import in_parts
from .loading import append_many
from .models import ThreadSummary
from .preparation import check_thread
from .records import AppendProgress, AppendResult, ImportResult, ThreadInput, ThreadRef
from .repository import ConversationRepository
from .summaries import Unsummarised, characters, read_unsummarised, store_summary
from .summarisers import Summariser, SummaryRequest, first_and_last, summary_of
from .transfer import Format, export_threads, import_threads

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
        self._embedding = BackgroundEmbedding(embeddings, EMBEDDED_MESSAGES.name)
        self._summary_embedding = BackgroundEmbedding(embeddings, EMBEDDED_SUMMARIES.name)

    append = writing(ConversationRepository.append)
    append_window = writing(ConversationRepository.append_window)
    find = reading(ConversationRepository.find)
    get = reading(ConversationRepository.get)
    list_threads = reading(ConversationRepository.list_threads)
    message = reading(ConversationRepository.message)
    history = reading(ConversationRepository.history)
    context = reading(ConversationRepository.context)
    versions = reading(ConversationRepository.versions)
    due_summaries = reading(ConversationRepository.due_summaries)
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

    async def export(
        self,
        *,
        owner_id: str,
        threads: Iterable[ThreadRef] | None = None,
        where: ThreadFilter | None = None,
        format: Format = "jsonl",
    ) -> AsyncIterator[str]:
        """Lines of JSON of all living threads, or of those that are named and match, ordered by their id_at_origin.

        "jsonl" is everything: a line for each thread, then for its messages and the versions of its summary. "openai"
        is a line for each thread, `{"messages": [...]}`, as its fine-tuning takes it, with the thread's name under
        "metadata". ThreadNotFound before the first line. Each thread is as it was at one moment, in bounded memory,
        but for a line of "openai".
        """
        lines = export_threads(self._service, owner_id=owner_id, threads=threads, where=where, format=format)
        async with contextlib.aclosing(lines):
            async for line in lines:
                yield line

    async def import_(
        self,
        *,
        owner_id: str,
        lines: Iterable[str] | AsyncIterable[str],
        format: Format = "jsonl",
        language: str | None = None,
    ) -> AsyncIterator[ImportResult]:
        """Store what `export` gave, in bounded memory; what is refused is told with its line and stops nothing else.

        A thread is known by its id_at_origin, a message by its seq: what is there is not stored again, and what a
        refused line left open is filled in where it belongs. A thread with another message at a seq is refused from
        there on. A chat of "openai" without a name is known by its messages; it may be a line, or an element of an
        array. `language` is for threads that name none, and may be "auto". Moments need their offset. Stop iterating
        and what was yielded is stored.
        """
        await self._have_space()
        results = import_threads(
            self._service, self._settings, lines, owner_id=owner_id, format=format, language=language
        )
        async with contextlib.aclosing(results):
            async for done in results:
                self._changed(done.messages)
                self._summaries_changed(done.summaries)
                yield done

    async def search(
        self,
        *,
        owner_id: str,
        query: str,
        thread: ThreadRef | Sequence[ThreadRef] | None = None,
        user_id: str | Sequence[str] | None = None,
        agent_id: str | Sequence[str] | None = None,
        roles: str | Sequence[str] | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        important: bool | None = None,
        metadata: Mapping[str, Any] | None = None,
        summaries: bool = True,
        mode: Mode | None = None,
        limit: int = 10,
        alpha: float | None = None,
        fusion: Fusion | None = None,
        operators: bool = True,
        candidates: int | None = None,
        expand: Expander | Sequence[str] | None = None,
        recency: Recency | None = None,
        min_score: float | None = None,
        group_by: Literal["thread"] | None = None,
        neighbours: int = 0,
        reranker: Reranker | None = None,
        diversity: float = 0.0,
        explain: bool = False,
    ) -> SearchHits[ConversationHit]:
        """The best messages and current summaries, best first; ties by id.

        `user_id`, `agent_id` and `metadata` are those of the threads; `since` and `until` when a message was said, or a
        summary made. Where `roles` or `important` are asked for, and without `summaries`, it is messages alone. The
        other parts are those of `Search`; what they say of scores holds within messages, and within summaries.
        """
        if alpha is not None and fusion is not None:
            raise ValidationError("alpha", "give alpha or fusion, not both")
        about: dict[str, Any] = {"user_id": user_id, "agent_id": agent_id, "metadata": metadata}
        about |= {"since": since, "until": until, **_named(thread)}
        search = Search(
            owner_id=owner_id,
            query=query,
            mode=mode,
            limit=limit,
            where=MessageFilter(**about, roles=roles, important=important),
            fusion=Weighted(alpha=alpha) if alpha is not None else fusion,
            operators=operators,
            candidates=candidates,
            expand=expand,
            recency=recency,
            min_score=min_score,
            group_by=group_by,
            neighbours=neighbours,
            reranker=reranker,
            diversity=diversity,
            explain=explain,
        )
        if not summaries or roles is not None or important is not None:
            return await self.messages.answer(search)
        return await self._of_both(search, SummaryFilter(**about))

    async def _of_both(self, search: Search[MessageFilter], where: SummaryFilter) -> SearchHits[ConversationHit]:
        read = await self.messages.read(search)
        # What follows one another, and how it was found, is told of messages.
        anew: Any = replace
        other: Search[SummaryFilter] = anew(search, where=where, neighbours=0, explain=False)
        first, second = await asyncio.gather(self.messages.answer(search, read), self.summaries.answer(other, read))
        fusion = search.fusion or (await self.messages.fusion() if second else None)
        return merged(first, second, anew(search, fusion=fusion), group=None if search.group_by is None else _thread_of)

    async def summarise(
        self, *, owner_id: str, thread: ThreadRef, summariser: Summariser = first_and_last
    ) -> ThreadSummary | None:
        """Make the summary of a thread anew from the last one and what was said since; None where nothing was said.

        The summariser works outside of any transaction, part by part where there is much, and has `summary_timeout`
        seconds for each; SummaryError where it fails. If somebody else summarised the thread meanwhile, that summary
        stands and is given. HistoryChanged where the thread lost messages meanwhile. Without a summariser it is what
        was first and last said.
        """
        owner, named_so = check_owner(owner_id), check_thread(thread)

        async def read(session: AsyncSession) -> Unsummarised:
            return await read_unsummarised(session, owner_id=owner, thread=named_so)

        seen = await self._service.read(read)
        if not seen.messages:
            return seen.current
        text = await self._summarised(seen, summariser)
        model = getattr(summariser, "model", None)
        await self._have_space()
        summary = await self._service.transaction(lambda session: store_summary(session, seen, text, model=model))
        self._summaries_changed(1)
        return summary

    async def _summarised(self, seen: Unsummarised, summariser: Summariser) -> str:
        text = None if seen.current is None else seen.current.content
        length = characters(seen.importance, self._settings)
        parts = await asyncio.to_thread(in_parts, seen.messages, self._settings.summary_input_tokens)
        for messages in parts:
            request = SummaryRequest(messages=messages, previous=text, characters=length)
            text = await summary_of(summariser, request, seconds=self._settings.summary_timeout)
        return text or ""

    async def settle(self) -> None:
        """Wait for background work: vectors, and the statistics of both corpora."""
        await self._embedding.settle()
        await self._summary_embedding.settle()
        await self.messages.settle()
        await self.summaries.settle()

    def _changed(self, rows: int) -> None:
        if rows:
            self.messages.changed(rows)
            self._embedding.ask()

    def _summaries_changed(self, rows: int) -> None:
        if rows:
            self.summaries.changed(rows)
            self._summary_embedding.ask()

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


def _named(thread: ThreadRef | Sequence[ThreadRef] | None) -> dict[str, Any]:
    """The parts of a filter that name one thread, or several in the same way."""
    if thread is None:
        return {}
    refs = [check_thread(one) for one in ([thread] if isinstance(thread, uuid.UUID | str) else each("thread", thread))]
    are_ids = {isinstance(one, uuid.UUID) for one in refs}
    if len(are_ids) == 2:
        raise ValidationError("thread", "name them all by id, or all by id_at_origin")
    return {"thread_ids": refs} if are_ids == {True} else {"id_at_origin": refs}


def _thread_of(hit: ConversationHit) -> uuid.UUID:
    return hit.thread_id
