"""Keep a corpus' term statistics fresh in the background, never while somebody waits."""

from __future__ import annotations

import asyncio
import logging

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.database import Service
from ..db.models import CorpusStatistics
from ..search import StatisticsRefresh, refresh_statistics
from .models import Chunk
from .queries import CORPUS

GROWTH = 0.2

logger = logging.getLogger("llmstack.documents")


class StatisticsKeeper:
    """Counts the chunks that this process changes, and refreshes when a fifth of the corpus has."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._changed = 0
        self._known: int | None = None
        self._task: asyncio.Task[None] | None = None

    async def refresh(self) -> StatisticsRefresh | None:
        """Read the term statistics anew; None while another process does."""

        async def work(session: AsyncSession) -> StatisticsRefresh | None:
            return await refresh_statistics(session, model=Chunk, corpus=CORPUS)

        self._changed = 0
        refreshed = await self._service.transaction(work)
        if refreshed is not None:
            self._known = refreshed.row_count
        return refreshed

    def changed(self, chunks: int) -> None:
        """Note a change; may start a refresh in the background."""
        self._changed += chunks
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._refresh_if_stale())

    async def settle(self) -> None:
        """Wait for a refresh that is under way, and make one that is due."""
        if self._task is not None:
            await self._task
            await self._refresh_if_stale()

    async def _refresh_if_stale(self) -> None:
        try:
            if self._known is None:
                self._known = await self._recorded()
            while self._changed > GROWTH * self._known:
                if await self.refresh() is None:
                    return
        except Exception:
            # Statistics are an improvement; a failed refresh must not fail the write that caused it.
            logger.warning("the term statistics could not be refreshed", exc_info=True)

    async def _recorded(self) -> int:
        async with self._service.single_statements() as session:
            statement = select(CorpusStatistics.row_count).where(CorpusStatistics.corpus == CORPUS)
            return await session.scalar(statement) or 0
