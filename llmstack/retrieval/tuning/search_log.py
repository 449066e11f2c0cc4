"""The search log: what was asked and which rows were found, never their text; written behind the searches."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import time
import uuid
from collections import deque
from typing import Any

from sqlalchemy import cast, delete, func, literal, select
from sqlalchemy.dialects.postgresql import INTERVAL, insert
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from ...db.checks import UNSTORABLE
from ...db.database import Service
from ...db.models import LoggedSearch
from ...settings import Settings
from ..corpus import Corpus
from ..hits import SearchHit, SearchHits
from ..request import Search

QUEUED_AT_MOST = 10_000
"""Records in memory; one more is dropped, so that a database that is away costs no memory without end."""
WRITTEN_AT_ONCE = 500
"""Records in one statement."""
DELETED_AT_ONCE = 1_000
"""Searches in one transaction."""
QUERY_CHARACTERS = 10_000
"""What is kept of a longer query."""
LINGER = 0.2
"""Seconds for which records are collected before they are written."""
ATTEMPTS = 3
"""Times that a batch is tried before it is dropped."""
PAUSE_AFTER_FAILURE = 5.0
"""Seconds between them."""
RETENTION_PAUSE = 3600.0
"""Seconds between two looks for searches that are too old."""

logger = logging.getLogger("llmstack.retrieval")


class SearchLog:
    """Takes records of all corpora in memory, writes them in the background; no search notices what becomes of them."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self._service = service
        self._enabled = settings.search_log
        self._retention = dt.timedelta(days=min(settings.search_log_retention, 36_500.0))
        self._queue: deque[dict[str, Any]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._urgent = asyncio.Event()
        self._turn = asyncio.Lock()
        self._failures = 0
        self._expire_at = 0.0
        self.dropped = 0

    @property
    def waiting(self) -> int:
        """Records that are not written yet."""
        return len(self._queue)

    def note(
        self, corpus: Corpus[Any, Any], search: Search[Any], hits: SearchHits[Any], *, elapsed: float
    ) -> uuid.UUID | None:
        """Take a record of a search that took `elapsed` seconds; its id, or None where it is not kept."""
        if not self._enabled:
            return None
        if len(self._queue) >= QUEUED_AT_MOST:
            self._drop(1, "the queue is full")
            return None
        search_id: uuid.UUID = uuid7()
        try:
            record = {
                "id": search_id,
                "corpus": corpus.name,
                "owner_id": search.owner_id,
                "query": UNSTORABLE.sub(" ", search.query)[:QUERY_CHARACTERS],
                "mode": hits.mode or "text",
                "hit_limit": search.limit,
                "filters": None if search.where is None else search.where.as_json(),
                "hits": [_hit(corpus, hit) for hit in hits],
                "vector_path": hits.vector_path,
                "elapsed_ms": elapsed * 1000.0,
                "created_at": dt.datetime.now(dt.UTC),
            }
            self._queue.append(record)
            self._start()
        except Exception:
            logger.warning("a search could not be logged", exc_info=True)
            return None
        return search_id

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write_behind())

    async def _write_behind(self) -> None:
        while self._queue:
            await self._linger(PAUSE_AFTER_FAILURE if self._failures else LINGER)
            await self._write_all()

    async def _linger(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._urgent.wait()

    async def settle(self) -> None:
        """Write what is waiting now; what the database refuses again and again is dropped and counted."""
        self._urgent.set()
        try:
            if self._task is not None:
                # Not its result: where it was cancelled, what it had is still in the queue.
                await asyncio.wait([self._task])
            while self._queue:
                await self._write_all()
        finally:
            self._urgent.clear()

    async def _write_all(self) -> None:
        async with self._turn:
            while self._queue and await self._write(min(len(self._queue), WRITTEN_AT_ONCE)):
                pass
            if not self._failures and time.monotonic() >= self._expire_at:
                await self._expire()

    async def _write(self, number: int) -> bool:
        """Write the oldest records; they leave the queue when the database has them."""
        batch = [self._queue[place] for place in range(number)]
        statement = insert(LoggedSearch).on_conflict_do_nothing()

        async def work(session: AsyncSession) -> None:
            await session.execute(statement, batch)

        try:
            await self._service.transaction(work)
        except Exception as error:
            self._failures += 1
            if self._failures >= ATTEMPTS:
                self._forget(number)
                self._drop(number, f"they could not be written: {error}")
            return False
        self._forget(number)
        return True

    def _forget(self, number: int) -> None:
        self._failures = 0
        for _ in range(number):
            self._queue.popleft()

    def _drop(self, number: int, why: str) -> None:
        if self.dropped == 0:
            logger.warning("the search log loses records (this is said once): %s", why)
        self.dropped += number

    async def _expire(self) -> None:
        self._expire_at = time.monotonic() + RETENTION_PAUSE
        try:
            await self.purge(older_than=self._retention)
        except Exception:
            logger.warning("old records of the search log could not be deleted", exc_info=True)

    async def purge(self, *, older_than: dt.timedelta, corpus: str | None = None) -> int:
        """Delete searches and their feedback, of one corpus or of all, a batch at a time; return how many went."""
        number = 0
        while True:
            gone = await self._service.transaction(lambda session: _delete_some(session, older_than, corpus))
            number += gone
            if gone < DELETED_AT_ONCE:
                return number


async def _delete_some(session: AsyncSession, older_than: dt.timedelta, corpus: str | None) -> int:
    moment = func.now() - cast(literal(older_than, INTERVAL), INTERVAL)
    old = select(LoggedSearch.id).where(LoggedSearch.created_at < moment)
    if corpus is not None:
        old = old.where(LoggedSearch.corpus == corpus)
    batch = old.order_by(LoggedSearch.created_at).limit(DELETED_AT_ONCE).with_for_update(skip_locked=True)
    statement = delete(LoggedSearch).where(LoggedSearch.id.in_(batch)).returning(LoggedSearch.id)
    return len((await session.scalars(statement.execution_options(synchronize_session=False))).all())


def _hit(corpus: Corpus[Any, Any], hit: SearchHit) -> dict[str, Any]:
    return {
        "row_id": str(hit.id),
        "unit": corpus.unit_of(hit),
        "score": hit.score,
        "ranks": {leg: place.rank for leg, place in hit.legs.items()},
    }
