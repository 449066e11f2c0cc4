"""A run through the queue: claim, embed outside any transaction, store; no bad text stops the others."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import random
import time
from collections.abc import Callable, Sequence

from sqlalchemy import Executable
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.database import Service
from ..errors import EmbeddingError
from ..settings import Settings
from . import queue
from .batches import embed_all
from .protocol import Embedder
from .queue import Claim
from .spaces import Space
from .tables import EmbeddedTable
from .vectors import vector_text

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do."""

_SINGLE_FAILURES = 3
_DEAD_BATCHES = 3


@dataclasses.dataclass
class _Outcome:
    """What became of one claimed batch."""

    done: list[tuple[Claim, list[float]]] = dataclasses.field(default_factory=list)
    failed: list[tuple[Claim, str, bool]] = dataclasses.field(default_factory=list)
    untried: list[Claim] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Run:
    """One call of `process_pending`, through one space after another."""

    service: Service
    tables: Sequence[EmbeddedTable]
    settings: Settings
    owner_id: str | None = None
    limit: int | None = None
    total: int = 0
    progress: Progress | None = None
    embedded: int = 0
    failed: int = 0
    taken: int = 0

    async def work(self, space: Space, embedder: Embedder) -> None:
        """Work until nothing can be claimed, the limit is reached, or the embedder is out of order.

        As many workers do as the embedder may be called at a time.
        """
        crew = _Crew(self, space, embedder)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.settings.embedding_concurrency):
                    group.create_task(crew.work())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    def report(self) -> None:
        """Tell how far the run is."""
        if self.progress is not None:
            self.progress(self.embedded + self.failed, max(self.total, self.embedded + self.failed))


@dataclasses.dataclass
class _Crew:
    """The workers of one space."""

    run: Run
    space: Space
    embedder: Embedder
    _dead: int = 0
    _at_once: int = 0
    _taken: dict[EmbeddedTable, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self._at_once = self.run.settings.embedding_batch_size
        if self.run.limit is not None and self.run.tables:
            # A share for each table.
            self._at_once = min(self._at_once, math.ceil(self.run.limit / len(self.run.tables)))
        # By chance where to begin: the next run may have as small a limit.
        self._taken = dict.fromkeys(random.sample(self.run.tables, len(self.run.tables)), 0)

    async def work(self) -> None:
        # Of the table that had the fewest batches, so that one with many jobs does not keep the others waiting.
        # After so many batches without a single vector the trouble is the embedder's, not the texts'.
        while self._dead < _DEAD_BATCHES and self._taken and not self._is_enough():
            table = min(self._taken, key=self._taken.__getitem__)
            self._taken[table] += 1
            batches = self._taken[table]
            if claims := await self._claim(table):
                await self._work_on(table, claims)
                # Another worker may have found nothing there meanwhile, and there may be again.
                self._taken.setdefault(table, batches)
            else:
                self._taken.pop(table, None)

    async def _work_on(self, table: EmbeddedTable, claims: list[Claim]) -> None:
        try:
            outcome = await self._embed(claims)
        except BaseException:
            # Cancelled, or broken beyond this batch: nobody need wait for the leases to end.
            await asyncio.shield(self._write(queue.release(table, self.space, claims)))
            raise
        await self._keep(table, outcome)

    def _is_enough(self) -> bool:
        return self.run.limit is not None and self.run.taken >= self.run.limit

    async def _claim(self, table: EmbeddedTable) -> list[Claim]:
        size = self._at_once
        if self.run.limit is not None:
            size = min(size, self.run.limit - self.run.taken)
        self.run.taken += size
        statement = queue.claim(
            table,
            self.space,
            owner_id=self.run.owner_id,
            limit=size,
            lease=self.run.settings.embedding_lease,
            attempts=self.run.settings.embedding_attempts,
        )
        async with self.run.service.single_statements() as session:
            rows = (await session.execute(statement)).all()
            await session.commit()
        self.run.taken -= size - len(rows)
        return [Claim(**row._mapping) for row in rows]

    async def _vectors(self, claims: Sequence[Claim]) -> list[list[float]]:
        return await embed_all(
            self.embedder,
            [claim.text for claim in claims],
            settings=self.run.settings,
            dimensions=self.space.dimensions,
            storage=self.space.storage,
        )

    async def _embed(self, claims: list[Claim]) -> _Outcome:
        try:
            return _Outcome(done=[*zip(claims, await self._vectors(claims), strict=True)])
        except EmbeddingError as error:
            said = str(error)
        if len(claims) == 1:
            return _Outcome(failed=[(claims[0], said, True)])
        return await self._embed_singly(claims)

    async def _embed_singly(self, claims: list[Claim]) -> _Outcome:
        """Find the texts that spoil a batch; when the first few all fail, the rest is not charged for it."""
        outcome = _Outcome()
        started = time.monotonic()
        for place, claim in enumerate(claims):
            if time.monotonic() - started > self.run.settings.embedding_lease / 2:
                outcome.untried = claims[place:]
                break
            try:
                outcome.done.append((claim, (await self._vectors([claim]))[0]))
            except EmbeddingError as error:
                outcome.failed.append((claim, str(error), True))
            if not outcome.done and len(outcome.failed) == _SINGLE_FAILURES:
                rest = f"not tried alone, after {outcome.failed[-1][1]}"
                outcome.failed.extend((claim, rest, False) for claim in claims[place + 1 :])
                break
        return outcome

    async def _keep(self, table: EmbeddedTable, outcome: _Outcome) -> None:
        self._dead = 0 if outcome.done else self._dead + 1
        if outcome.failed:
            claims, errors, counted = zip(*outcome.failed, strict=True)
            await self._write(
                queue.fail(
                    table,
                    self.space,
                    claims,
                    errors=errors,
                    counted=counted,
                    attempts=self.run.settings.embedding_attempts,
                )
            )
            self.run.failed += len(claims)
        if outcome.untried:
            await self._write(queue.release(table, self.space, outcome.untried))
        if outcome.done:
            # Not `+= await`: that would add to what the sum was before the wait.
            stored = await self.run.service.transaction(lambda session: self._store(session, table, outcome))
            self.run.embedded += stored
        self.run.report()

    async def _store(self, session: AsyncSession, table: EmbeddedTable, outcome: _Outcome) -> int:
        claims = [claim for claim, _ in outcome.done]
        texts = [vector_text(vector) for _, vector in outcome.done]
        await session.execute(queue.lock_rows(table, claims))
        stored = await session.scalars(queue.store(table, self.space, claims, texts))
        return len(stored.all())

    async def _write(self, statement: Executable) -> None:
        async def run(session: AsyncSession) -> None:
            await session.execute(statement)

        await self.run.service.transaction(run)
