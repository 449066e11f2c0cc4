"""Embeddings of the tables of one schema: their spaces, their queues and their indexes."""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from sqlalchemy.engine import CursorResult
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.database import Service
from ..errors import Conflict
from ..search import SearchOptions
from ..settings import Settings
from . import queue
from .change import ModelChange, Retirement, Verification, check_share
from .errors import SpaceNotServing
from .index import IndexWatcher
from .parameters import index_parameters as index_parameters_of
from .protocol import Embedder, Kind
from .queue import PendingCounts
from .recall import Recall, measure_recall
from .serving import Serving
from .spaces import (
    Distance,
    IndexMethod,
    Quantization,
    Space,
    SpaceOptions,
    SpaceRepository,
    Storage,
    check_dimensions,
)
from .status import SpaceStatus, read_statuses
from .tables import EmbeddedTable, EmbeddedTables
from .worker import Progress, Run

_BACKFILL_ROWS = 5_000


@dataclasses.dataclass(frozen=True)
class ProcessResult:
    """What a run stored and failed, and what the queue holds after it."""

    embedded: int
    failed: int
    remaining: int
    set_aside: int


class EmbeddingService:
    """Owns the transactions around the embedded tables of a schema; embeds outside of them.

    Verbs with `space=None` mean the serving space; those of the queue mean every living space whose embedder is known.
    `table=None` means every table that is registered: a space serves all of them, so a change of model is one of all.
    """

    def __init__(
        self,
        service: Service,
        tables: Iterable[EmbeddedTable],
        embedder: Embedder | None,
        settings: Settings,
        other_embedders: Iterable[Embedder] = (),
    ) -> None:
        self._service = service
        self._tables = EmbeddedTables(tables)
        self._settings = settings
        self._serving = Serving(service, embedder, other_embedders, settings)
        self._change = ModelChange(service, self._tables, settings)

    def register(self, table: EmbeddedTable) -> None:
        """Keep the vectors of another table; a second time changes nothing, another one of its name is refused."""
        self._tables.add(table)

    @property
    def tables(self) -> Sequence[EmbeddedTable]:
        """The tables whose vectors are kept."""
        return list(self._tables)

    @property
    def embedder(self) -> Embedder | None:
        """The process' own embedder, whose space serves where the default's embedder is not known."""
        return self._serving.embedder

    @property
    def embedders(self) -> Sequence[Embedder]:
        """All embedders that this process knows, its own first."""
        return list(self._serving.known.values())

    async def space(self) -> Space:
        """The serving space, made at its first use; a cut-over elsewhere is seen within `space_refresh` seconds."""
        return await self._serving.space()

    async def embed(
        self, texts: Sequence[str], *, kind: Kind = "document", space: Space | None = None
    ) -> list[list[float]]:
        """Vectors that fit the space, in the order of the texts; all or EmbeddingError.

        Name the space that they are going to: the serving one may change between two calls.
        """
        return await self._serving.embed(texts, kind=kind, space=space or await self.space())

    async def embed_queries(self, texts: Sequence[str]) -> tuple[Space, list[list[float]]]:
        """The space that is searched, and a vector in it for each query; all or EmbeddingError."""
        space = await self.space()
        while True:
            vectors = await self.embed(texts, kind="query", space=space)
            # The embedder may have taken longer than the space served.
            if (now := await self.space()).id == space.id:
                return space, vectors
            space = now

    async def process_pending(
        self,
        *,
        space: str | None = None,
        table: str | None = None,
        owner_id: str | None = None,
        limit: int | None = None,
        progress: Progress | None = None,
    ) -> ProcessResult:
        """Embed what is waiting, at most `limit` rows, the serving space's first; in any number of processes at once.

        The tables take turns, a batch each, so that none waits for another to be done.

        A cancelled run gives its leases back; those of a killed one end by themselves.
        """
        tables = self._tables.named(table)
        spaces = await self._spaces(space)
        total = 0
        if progress is not None:
            total = (await self._pending(tables, [one.name for one in spaces], owner_id)).waiting
        run = Run(
            service=self._service,
            tables=tables,
            settings=self._settings,
            owner_id=owner_id,
            limit=limit,
            total=total if limit is None else min(total, limit),
            progress=progress,
        )
        for one in spaces:
            await run.work(one, self._serving.embedder_of(one.name))
        left = await self._pending(tables, [one.name for one in spaces], owner_id)
        return ProcessResult(run.embedded, run.failed, left.waiting + left.leased, left.set_aside)

    async def pending(
        self, *, space: str | None = None, table: str | None = None, owner_id: str | None = None
    ) -> PendingCounts:
        """The queue of a space, or of all whose embedder is known; without an embedder, of all."""
        tables = self._tables.named(table)
        if space is not None:
            return await self._pending(tables, [(await self._get(space)).name], owner_id)
        return await self._pending(tables, None if self.embedder is None else self._serving.known, owner_id)

    async def retry_set_aside(
        self, *, space: str | None = None, table: str | None = None, owner_id: str | None = None
    ) -> int:
        """Make jobs that failed too often new again; return how many."""
        attempts, tables = self._settings.embedding_attempts, self._tables.named(table)
        statements = [
            queue.retry(one, into, owner_id=owner_id, attempts=attempts)
            for into in await self._spaces(space)
            for one in tables
        ]

        async def run(session: AsyncSession) -> int:
            return sum([cast(CursorResult[Any], await session.execute(one)).rowcount for one in statements])

        return await self._service.transaction(run)

    async def backfill(
        self,
        *,
        space: str | None = None,
        table: str | None = None,
        owner_id: str | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Make a job for every wanted row that has neither vector nor job in the space; return how many.

        What a run that was broken off has made stays; the next one makes the rest. Progress counts against the rows
        of all owners that have no vector when it begins.
        """
        tables = self._tables.named(table)
        into = await (self.space() if space is None else self._living(space))
        lacking = 0
        if progress is not None:
            status = next(one for one in await self.spaces(table=table) if one.id == into.id)
            lacking = status.wanted - status.covered - status.pending
        total = 0
        for one in tables:
            last, done = None, False
            while not done:
                made, last = await self._enqueue(one, into, owner_id=owner_id, after=last)
                total, done = total + made, last is None
                if progress is not None:
                    progress(total, max(total, lacking))
        return total

    async def spaces(self, *, table: str | None = None) -> list[SpaceStatus]:
        """Every space of the schema, with its coverage of each table, its jobs and the state of its indexes."""
        tables = self._tables.named(table)
        return await read_statuses(self._service, tables, attempts=self._settings.embedding_attempts)

    async def build_index(
        self, *, space: str | None = None, table: str | None = None, progress: IndexWatcher | None = None
    ) -> list[str]:
        """Build the space's index on each partition, blocking nobody; return the names that were built."""
        name = (await (self.space() if space is None else self._living(space))).name
        indexes = [await self._change.index_of(one, name) for one in self._tables.named(table)]
        return [built for index in indexes for built in await index.build(progress=progress)]

    async def rebuild_index(
        self, *, space: str | None = None, table: str | None = None, progress: IndexWatcher | None = None
    ) -> list[str]:
        """Build the space's index anew beside the old one and swap it in; return the names that were built."""
        name = (await (self.space() if space is None else self._living(space))).name
        indexes = [await self._change.index_of(one, name) for one in self._tables.named(table)]
        return [built for index in indexes for built in await index.rebuild(progress=progress)]

    async def drop_index(self, *, space: str | None = None, table: str | None = None) -> None:
        """Drop the space's indexes; searches stay right and become slower."""
        name = (await self.space()).name if space is None else space
        for one in self._tables.named(table):
            await (await self._change.index_of(one, name)).drop()

    async def add_space(
        self,
        embedder: Embedder,
        *,
        distance: Distance = "cosine",
        storage: Storage = "halfvec",
        index_method: IndexMethod = "hnsw",
        index_parameters: Mapping[str, int] | str | None = None,
        quantization: Quantization | None = None,
    ) -> Space:
        """Make a space for the embedder, which this process knows from now on; it grows in the shadow until a cut-over.

        When this returns, every document that is written gets a job in it. The same space again is left as it is, and
        one with other options is a ConfigurationError. The embedder's own space serves at once where none does yet.
        `index_parameters` may be a preset of HNSW: fast, balanced or accurate.
        """
        parameters = index_parameters_of(index_method, index_parameters)
        options = SpaceOptions(distance, storage, index_method, parameters, quantization)
        await self._serving.measure(embedder)
        options.check(embedder)
        self._serving.check(embedder)
        own = self.embedder
        is_own = own is not None and own.name == embedder.name
        if own is not None and not is_own:
            # The first space of a schema is the default, and that is not to be this one.
            with contextlib.suppress(SpaceNotServing):
                await self.space()
        space = await self._change.add(embedder, options, is_own=is_own)
        self._serving.know(embedder)
        self._serving.forget()
        return space

    async def verify(
        self, space: str, *, sample: int = 100, least_coverage: float = 1.0, least_recall: float = 0.9
    ) -> Verification:
        """What the space lacks to serve: vectors, its index, or recall, measured by so many of its vectors.

        Counts the whole table. Recall is not measured without an index, nor with a `sample` of 0.
        """
        check_share("least_recall", least_recall)
        found = await self._change.verify(space, least_coverage=least_coverage)
        if found.index != "ready" or sample == 0:
            return found
        measured = {one.name: await self.measure_recall(space, table=one.name, sample=sample) for one in self._tables}
        found = dataclasses.replace(found, recall=min(one.mean for one in measured.values()))
        several = len(measured) > 1
        low = [
            f"{f'{name}: ' if several else ''}its index finds {one.mean:.1%} of the nearest vectors: "
            "raise ef_search, or give the index more links"
            for name, one in measured.items()
            if one.mean < least_recall
        ]
        return dataclasses.replace(found, faults=(*found.faults, *low))

    async def cut_over(self, space: str, *, force: bool = False, least_coverage: float = 1.0) -> Space:
        """Let the space serve: every process that knows its embedder follows within `space_refresh` seconds.

        Conflict with what `verify` says of vectors and index, unless `force`; recall is not measured. While documents
        are written some vector is always owed: then `least_coverage`, say .999, is the share to ask for. What served
        before is kept up, for `roll_back`.
        """
        served = await self._change.cut_over(space, force=force, least_coverage=least_coverage)
        self._serving.forget()
        return served

    async def roll_back(self, *, force: bool = False, least_coverage: float = 1.0) -> Space:
        """Let the space serve that served before the last cut-over; Conflict if it is retired or lacks vectors."""
        served = await self._change.roll_back(force=force, least_coverage=least_coverage)
        self._serving.forget()
        return served

    async def retire(self, space: str) -> Retirement:
        """Give a space up: no more jobs at once, and after twice `space_refresh` its index and vectors are deleted.

        Conflict for the space that serves. A run that was broken off goes on where it is called again.
        """
        self._serving.forget()
        return await self._change.retire(space)

    async def measure_recall(
        self, space: str | None = None, *, table: str | None = None, sample: int = 100, k: int = 10
    ) -> Recall:
        """How many of the nearest vectors the space's indexes find, by a sample of each table; see `Recall`."""
        tables = self._tables.named(table)
        found = await self.space() if space is None else await self._get(space)
        options = SearchOptions(candidates=self._settings.search_candidates, ef_search=self._settings.ef_search)
        return Recall.of_all(
            [await measure_recall(self._service, one, found, sample=sample, k=k, options=options) for one in tables]
        )

    async def _get(self, name: str) -> Space:
        return Space.of(await self._service.read(lambda session: SpaceRepository(session).get(name)))

    async def _living(self, name: str) -> Space:
        space = await self._service.read(lambda session: SpaceRepository(session).get(name))
        if space.state == "retired":
            raise Conflict(f"embedding space {name!r} is retired; add it again with add_space")
        return Space.of(space)

    async def _spaces(self, name: str | None) -> list[Space]:
        """The living space of this name, or all whose embedder is known; at first use the process' own is made."""
        if name is not None:
            space = await self._living(name)
            check_dimensions(space, self._serving.embedder_of(name))
            return [space]
        self._serving.required()
        rows = await self._service.read(lambda session: SpaceRepository(session).living(self._serving.known))
        found = [Space.of(row) for row in rows]
        for space in found:
            check_dimensions(space, self._serving.embedder_of(space.name))
        return found or [await self.space()]

    async def _pending(
        self, tables: Iterable[EmbeddedTable], names: Iterable[str] | None, owner_id: str | None
    ) -> PendingCounts:
        attempts = self._settings.embedding_attempts
        statements = [queue.count(one, names, owner_id=owner_id, attempts=attempts) for one in tables]

        async def run(session: AsyncSession) -> PendingCounts:
            counts = [(await session.execute(one)).one() for one in statements]
            return PendingCounts(*map(sum, zip(*counts, strict=True)))

        return await self._service.read(run)

    async def _enqueue(
        self, table: EmbeddedTable, space: Space, *, owner_id: str | None, after: uuid.UUID | None
    ) -> tuple[int, uuid.UUID | None]:
        statement = queue.enqueue(table, space, owner_id=owner_id, after=after, limit=_BACKFILL_ROWS)

        async def run(session: AsyncSession) -> tuple[int, uuid.UUID | None]:
            made, last = (await session.execute(statement)).one()
            return made, last

        return await self._service.transaction(run)
