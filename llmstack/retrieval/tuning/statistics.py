"""Keep a corpus' term statistics fresh in the background, never while somebody waits."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from ...db.database import Service
from ...db.models import CorpusStatistics
from ...search import StatisticsRefresh, refresh_statistics
from ...search.reweigh import adopt_average_length, end_mixture, has_moved, reweigh_batch, set_parameters, writers_of
from ..corpus import Corpus

GROWTH = 0.2
"""The share of changed rows from which the statistics are read anew."""
NOTED = 0.02
"""The share of a corpus that a process changes before it tells the others."""
PAUSE = 20.0
"""Durations of a refresh for which the next one waits: reading takes a twentieth of the time at most."""
PAUSE_AFTER_FAILURE = 60.0
"""Seconds."""
REWEIGHED_AT_ONCE = 1_000
"""Rows in one transaction, which holds their locks for a fraction of a second."""
REWEIGHED_UNASKED = 20_000
"""Larger corpora follow their average length when somebody asks: it rewrites every row."""

WRITERS_AWAITED = 30.0
"""Seconds; while somebody writes for longer, searches go on weighing what differs by themselves."""
WRITERS_LOOKED_AT = 0.05

logger = logging.getLogger("llmstack.retrieval")


@dataclasses.dataclass(slots=True)
class _Taken:
    """Changed rows that are being told to the database."""

    rows: int
    is_told: bool = False


class StatisticsKeeper:
    """Counts changed rows together with other processes, and refreshes when they are a fifth of the corpus.

    While rows keep coming, a refresh is followed by a pause of twenty times its duration.
    """

    def __init__(self, service: Service, corpus: Corpus[Any, Any]) -> None:
        self._service = service
        self._rows, self._corpus = corpus.rows, corpus.name
        self._changed = 0
        self._known: int | None = None
        self._task: asyncio.Task[None] | None = None
        self._rewriting: asyncio.Task[None] | None = None
        self._rest_until = 0.0

    async def refresh(self) -> StatisticsRefresh | None:
        """Read the term statistics anew; None while another process does."""

        async def work(session: AsyncSession) -> StatisticsRefresh | None:
            return await refresh_statistics(session, model=self._rows, corpus=self._corpus)

        started = time.monotonic()
        with self._taken() as taken:
            refreshed = await self._service.transaction(work)
            taken.is_told = refreshed is not None
        ended = time.monotonic()
        self._rest_until = ended + PAUSE * (ended - started)
        if refreshed is not None:
            self._known = refreshed.row_count
        return refreshed

    @contextlib.contextmanager
    def _taken(self) -> Iterator[_Taken]:
        """Take what was changed until now, so that nobody else tells it; unless it was told it is put back."""
        taken = _Taken(self._changed)
        self._changed = 0
        try:
            yield taken
        finally:
            if not taken.is_told:
                self._changed += taken.rows

    async def reweigh(self, parameters: Mapping[str, float] | None = None) -> int:
        """Give the corpus these parameters and weigh all rows by them; return how many were rewritten. Resumable.

        Without an `average_length` among them it is the measured one.
        """
        given = dict(parameters or {})
        if "average_length" not in given and await self._adopt_measured() is None:
            await self.refresh()
            await self._adopt_measured()
        if given:
            await self._service.transaction(
                lambda session: set_parameters(session, corpus=self._corpus, parameters=given)
            )
        return await self.rewrite()

    async def _adopt_measured(self) -> float | None:
        return await self._service.transaction(lambda session: adopt_average_length(session, corpus=self._corpus))

    async def rewrite(self) -> int:
        """Weigh the rows anew that differ from their corpus, a batch at a time; return how many did."""
        all_ended = await self._let_writers_end()
        rewritten, last = 0, None
        while True:

            async def work(session: AsyncSession, after: uuid.UUID | None = last) -> tuple[uuid.UUID | None, int]:
                return await reweigh_batch(
                    session, model=self._rows, corpus=self._corpus, after=after, rows=REWEIGHED_AT_ONCE
                )

            last, changed = await self._service.transaction(work)
            rewritten += changed
            if last is None:
                break
        if all_ended:
            await self._service.transaction(lambda session: end_mixture(session, model=self._rows, corpus=self._corpus))
        return rewritten

    async def _let_writers_end(self) -> bool:
        """Wait for whoever is writing rows by the parameters from before: what is not there yet cannot be rewritten."""
        until = time.monotonic() + WRITERS_AWAITED
        begun = await self._writers()
        while begun and time.monotonic() < until:
            await asyncio.sleep(WRITERS_LOOKED_AT)
            begun &= await self._writers()
        return not begun

    async def _writers(self) -> set[str]:
        async with self._service.single_statements() as session:
            return await writers_of(session, self._rows)

    def changed(self, rows: int) -> None:
        """Note a change; may start a refresh in the background."""
        self._changed += rows
        if (self._task is None or self._task.done()) and time.monotonic() >= self._rest_until:
            self._task = asyncio.create_task(self._keep(NOTED))

    async def catch_up(self) -> None:
        """Let searches rank by what was written until now: make a refresh that is due, though a pause delays it."""
        if self._task is not None:
            await self._task
        await self._keep(0.0)

    async def settle(self) -> None:
        """Catch up, and wait for all that goes on in the background."""
        await self.catch_up()
        if self._rewriting is not None:
            await self._rewriting

    async def _keep(self, share: float) -> None:
        with self._forgiving():
            if self._changed and self._known is None:
                self._known = await self._recorded()
            if self._changed > share * (self._known or 0) and await self._is_stale():
                refreshed = await self.refresh()
                if refreshed is not None and await self._follow(refreshed) and not self._is_rewriting():
                    self._rewriting = asyncio.create_task(self._rewrite_all())

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        """Statistics are an improvement; a failed refresh must not fail the write that caused it."""
        try:
            yield
        except Exception:
            self._rest_until = time.monotonic() + PAUSE_AFTER_FAILURE
            logger.warning("the term statistics could not be refreshed", exc_info=True)

    def _is_rewriting(self) -> bool:
        return self._rewriting is not None and not self._rewriting.done()

    async def _rewrite_all(self) -> None:
        with self._forgiving():
            # The parameters may change again on the way.
            while await self.rewrite() and await self._is_mixed():
                pass

    async def _is_stale(self) -> bool:
        """Add this process' changes to those of all; whether they are too many, or nothing was ever measured."""
        with self._taken() as taken:
            statement = (
                update(CorpusStatistics)
                .where(CorpusStatistics.corpus == self._corpus)
                .values(changed_rows=CorpusStatistics.changed_rows + taken.rows)
                .returning(CorpusStatistics.changed_rows, CorpusStatistics.row_count)
                .execution_options(synchronize_session=False)
            )

            async def work(session: AsyncSession) -> tuple[int, int] | None:
                row = (await session.execute(statement)).one_or_none()
                return None if row is None else (row.changed_rows, row.row_count)

            found = await self._service.transaction(work)
            taken.is_told = found is not None
        if found is None:
            return True
        changed, self._known = found
        return changed > GROWTH * self._known

    async def _follow(self, refreshed: StatisticsRefresh) -> bool:
        """Adopt an average length that has moved, where the corpus is small; whether rows are to be weighed anew."""
        async with self._service.single_statements() as session:
            statement = select(CorpusStatistics.bm25_average_length).where(CorpusStatistics.corpus == self._corpus)
            assumed = (await session.scalars(statement)).one()
        if refreshed.row_count <= REWEIGHED_UNASKED and has_moved(refreshed.average_length, assumed):
            await self._adopt_measured()
        return await self._is_mixed()

    async def _is_mixed(self) -> bool:
        async with self._service.single_statements() as session:
            statement = select(CorpusStatistics.is_mixed).where(CorpusStatistics.corpus == self._corpus)
            return bool(await session.scalar(statement))

    async def _recorded(self) -> int:
        async with self._service.single_statements() as session:
            statement = select(CorpusStatistics.row_count).where(CorpusStatistics.corpus == self._corpus)
            return await session.scalar(statement) or 0
