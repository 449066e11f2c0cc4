"""Embed what a process has just written while it goes on."""

from __future__ import annotations

import asyncio
import logging

from ..errors import LLMStackError
from .service import EmbeddingService

logger = logging.getLogger("llmstack.embeddings")


class BackgroundEmbedding:
    """Works through the queue of one table as long as rows are added to it; what it does not get to stays queued."""

    def __init__(self, embeddings: EmbeddingService, table: str) -> None:
        self._embeddings = embeddings
        self._table = table
        self._task: asyncio.Task[None] | None = None
        self._asked = False

    def ask(self) -> None:
        """Say that rows were written; without an embedder their jobs wait for a process that has one."""
        if self._embeddings.embedder is None:
            return
        self._asked = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while self._asked:
            self._asked = False
            try:
                await self._embeddings.process_pending(table=self._table)
            except LLMStackError as error:
                logger.warning("vectors of %s stay pending: %s", self._table, error)

    async def settle(self) -> None:
        """Wait until what was asked for is done."""
        if self._task is not None:
            await self._task
