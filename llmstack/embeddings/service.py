"""Embeddings of one table in one schema: its space, its queue and its index."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy.engine import CursorResult
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.database import Service
from ..errors import ConfigurationError, MissingExtra
from ..settings import Settings
from . import queue
from .batches import embed_all
from .index import IndexWatcher, SpaceIndex, index_name, index_states
from .local import local_is_installed
from .models import EmbeddingSpace
from .protocol import Embedder, Kind
from .queue import EmbeddedTable, PendingCounts, core_table
from .spaces import Space, SpaceRepository, check_dimensions
from .worker import Progress, Run

_BACKFILL_ROWS = 5_000


@dataclasses.dataclass(frozen=True)
class ProcessResult:
    """What a run stored and failed, and what the queue holds after it."""

    embedded: int
    failed: int
    remaining: int
    set_aside: int


@dataclasses.dataclass(frozen=True)
class SpaceStatus:
    """A space and how far it has come; `index` is `none`, `absent`, `incomplete` or `ready`."""

    id: int
    name: str
    provider: str
    model: str
    dimensions: int
    distance: str
    storage: str
    index_method: str
    state: str
    is_default: bool
    vectors: int
    wanted: int
    coverage: float
    index: str


class EmbeddingService:
    """Owns the transactions around one embedded table; embeds outside of them."""

    def __init__(self, service: Service, table: EmbeddedTable, embedder: Embedder | None, settings: Settings) -> None:
        self._service = service
        self._table = table
        self._settings = settings
        self._space: Space | None = None
        self._first_use = asyncio.Lock()
        self.embedder = embedder

    async def space(self) -> Space:
        """The embedder's space, made at its first use and then remembered."""
        if self._space is None:
            async with self._first_use:
                if self._space is None:
                    self._space = await self._find_space()
        return self._space

    async def embed(self, texts: Sequence[str], *, kind: Kind = "document") -> list[list[float]]:
        """Vectors that fit the space, in the order of the texts; all or EmbeddingError."""
        space = await self.space()
        return await self._embed(texts, kind=kind, dimensions=space.dimensions, storage=space.storage)

    async def embed_queries(self, texts: Sequence[str]) -> tuple[Space, list[list[float]]]:
        """The space that is searched, and a vector in it for each query; all or EmbeddingError."""
        return await self.space(), await self.embed(texts, kind="query")

    async def process_pending(
        self, *, owner_id: str | None = None, limit: int | None = None, progress: Progress | None = None
    ) -> ProcessResult:
        """Embed what is waiting, at most `limit` rows; any number of processes may do so at once.

        A cancelled run gives its leases back; those of a killed one end by themselves.
        """
        space = await self.space()
        total = (await self.pending(owner_id=owner_id)).waiting if progress is not None else 0
        run = Run(
            service=self._service,
            table=self._table,
            embedder=self._required(),
            space=space,
            settings=self._settings,
            owner_id=owner_id,
            limit=limit,
            total=total if limit is None else min(total, limit),
            progress=progress,
        )
        await run.work()
        left = await self.pending(owner_id=owner_id)
        return ProcessResult(run.embedded, run.failed, left.waiting + left.leased, left.set_aside)

    async def pending(self, *, owner_id: str | None = None) -> PendingCounts:
        """The queue of the embedder's space; without an embedder, of all spaces."""
        space_id = (await self.space()).id if self.embedder is not None else None
        statement = queue.count(self._table, space_id, owner_id=owner_id, attempts=self._settings.embedding_attempts)
        async with self._service.session() as session:
            return PendingCounts(*(await session.execute(statement)).one())

    async def retry_set_aside(self, *, owner_id: str | None = None) -> int:
        """Make jobs that failed too often new again; return how many."""
        space = await self.space()
        statement = queue.retry(self._table, space, owner_id=owner_id, attempts=self._settings.embedding_attempts)

        async def run(session: AsyncSession) -> int:
            return cast(CursorResult[Any], await session.execute(statement)).rowcount

        return await self._service.transaction(run)

    async def backfill(self, *, owner_id: str | None = None) -> int:
        """Make a job for every wanted row that has neither vector nor job in this space; return how many."""
        space = await self.space()
        total, last = 0, None
        while True:
            made, last = await self._enqueue(space, owner_id=owner_id, after=last)
            total += made
            if last is None:
                return total

    async def spaces(self) -> list[SpaceStatus]:
        """Every space of the schema, with its coverage of this table and the state of its index."""
        table = core_table(self._table.embeddings).name
        async with self._service.session() as session:
            spaces = await SpaceRepository(session).list()
            wanted = (await session.execute(queue.wanted_rows(self._table))).scalar_one()
            found = await session.execute(queue.coverage(self._table))
            counts = {space_id: (vectors, covered) for space_id, vectors, covered in found}
            indexes = await index_states(session, schema=self._service.schema, table=table)
        return [
            _status(space, wanted, *counts.get(space.id, (0, 0)), indexes.get(index_name(table, space.id)))
            for space in spaces
        ]

    async def build_index(self, *, progress: IndexWatcher | None = None) -> list[str]:
        """Build the space's index on each partition, blocking nobody; return the names that were built."""
        return await (await self._index()).build(progress=progress)

    async def rebuild_index(self, *, progress: IndexWatcher | None = None) -> list[str]:
        """Build the space's index anew and swap it in; searches use the old one until then."""
        return await (await self._index()).rebuild(progress=progress)

    async def drop_index(self) -> None:
        """Drop the space's indexes; searches stay right and become slower."""
        await (await self._index()).drop()

    async def _index(self) -> SpaceIndex:
        name = (await self.space()).name
        async with self._service.session() as session:
            space = await SpaceRepository(session).get(name)
        return SpaceIndex(self._service, core_table(self._table.embeddings).name, space)

    async def _enqueue(
        self, space: Space, *, owner_id: str | None, after: uuid.UUID | None
    ) -> tuple[int, uuid.UUID | None]:
        statement = queue.enqueue(self._table, space, owner_id=owner_id, after=after, limit=_BACKFILL_ROWS)

        async def run(session: AsyncSession) -> tuple[int, uuid.UUID | None]:
            made, last = (await session.execute(statement)).one()
            return made, last

        return await self._service.transaction(run)

    async def _find_space(self) -> Space:
        embedder = self._required()
        async with self._service.session() as session:
            known = await SpaceRepository(session).find(embedder.name)
        if known is not None:
            check_dimensions(known, embedder)
            return Space.of(known)
        if not embedder.dimensions:
            await self._embed(["How long are the vectors?"])

        async def ensure(session: AsyncSession) -> EmbeddingSpace:
            return await SpaceRepository(session).ensure(embedder)

        return Space.of(await self._service.transaction(ensure))

    async def _embed(
        self,
        texts: Sequence[str],
        *,
        kind: Kind = "document",
        dimensions: int | None = None,
        storage: str = "halfvec",
    ) -> list[list[float]]:
        return await embed_all(
            self._required(),
            texts,
            kind=kind,
            settings=self._settings,
            dimensions=dimensions,
            storage=storage,
        )

    def _required(self) -> Embedder:
        if self.embedder is not None:
            return self.embedder
        if self._settings.embedder is None and not local_is_installed():
            raise MissingExtra(
                feature="vector search without an embedder of your own (LLMSTACK_EMBEDDER, or embedder=...)",
                extra="local",
            )
        raise ConfigurationError(
            "vector search has no embedder; set LLMSTACK_EMBEDDER to `local` or to a litellm model such as "
            "openai/text-embedding-3-small, or pass embedder=..."
        )


def _status(space: EmbeddingSpace, wanted: int, vectors: int, covered: int, is_valid: bool | None) -> SpaceStatus:
    index = "absent" if is_valid is None else "ready" if is_valid else "incomplete"
    return SpaceStatus(
        id=space.id,
        name=space.name,
        provider=space.provider,
        model=space.model,
        dimensions=space.dimensions,
        distance=space.distance,
        storage=space.storage,
        index_method=space.index_method,
        state=space.state,
        is_default=space.is_default,
        vectors=vectors,
        wanted=wanted,
        coverage=covered / wanted if wanted else 1.0,
        index="none" if space.index_method == "none" else index,
    )
