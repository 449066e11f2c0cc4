"""Embedding spaces as data: which model made a vector, and how it is stored and compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from sqlalchemy import exists, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from ..errors import ConfigurationError, Conflict
from .errors import SpaceNotFound
from .models import EmbeddingSpace
from .protocol import Embedder
from .vectors import INDEXABLE

_MOST_DIMENSIONS = 16_000
_ATTEMPTS = 3


@dataclasses.dataclass(frozen=True)
class Space:
    """What a search or a write needs to know of a space; safe to keep."""

    id: int
    name: str
    dimensions: int
    distance: str
    storage: str
    index_method: str
    quantization: str | None = None

    @classmethod
    def of(cls, row: EmbeddingSpace) -> Space:
        """A copy of the row that outlives its session."""
        return cls(
            id=row.id,
            name=row.name,
            dimensions=row.dimensions,
            distance=row.distance,
            storage=row.storage,
            index_method=row.index_method,
            quantization=row.quantization,
        )


class SpaceRepository:
    """Reads and writes spaces inside the caller's transaction."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def find(self, name: str) -> EmbeddingSpace | None:
        """The space of this name, if there is one."""
        return (await self._session.scalars(select(EmbeddingSpace).where(EmbeddingSpace.name == name))).one_or_none()

    async def get(self, name: str) -> EmbeddingSpace:
        """The space of this name, or SpaceNotFound."""
        space = await self.find(name)
        if space is None:
            raise SpaceNotFound(name)
        return space

    async def default(self) -> EmbeddingSpace | None:
        """The default space; None before the first one."""
        return (await self._session.scalars(select(EmbeddingSpace).where(EmbeddingSpace.is_default))).one_or_none()

    async def list(self) -> Sequence[EmbeddingSpace]:
        """All spaces, oldest first."""
        return (await self._session.scalars(select(EmbeddingSpace).order_by(EmbeddingSpace.id))).all()

    async def ensure(self, embedder: Embedder) -> EmbeddingSpace:
        """The embedder's space, made if there is none; the first of a schema becomes the default."""
        # Another transaction may insert the same name, or another name as the default, at any moment.
        for _ in range(_ATTEMPTS):
            space = await self.find(embedder.name)
            if space is not None:
                check_dimensions(space, embedder)
                return space
            await self._insert(embedder)
        raise Conflict(f"embedding space {embedder.name!r} is being made by another transaction; try again")

    async def _insert(self, embedder: Embedder) -> None:
        if not 1 <= embedder.dimensions <= _MOST_DIMENSIONS:
            raise ConfigurationError(
                f"embedder {embedder.name!r} has {embedder.dimensions} dimensions; "
                f"a space takes 1 to {_MOST_DIMENSIONS}"
            )
        indexable = embedder.dimensions <= INDEXABLE["halfvec"]
        is_first = ~exists().where(EmbeddingSpace.is_default)
        await self._session.execute(
            insert(EmbeddingSpace)
            .values(
                name=embedder.name,
                provider=embedder.provider,
                model=embedder.model,
                dimensions=embedder.dimensions,
                index_method="hnsw" if indexable else "none",
                is_default=select(is_first).scalar_subquery(),
            )
            .on_conflict_do_nothing()
        )


def check_dimensions(space: EmbeddingSpace, embedder: Embedder) -> None:
    """Refuse an embedder that makes other vectors than its space holds; 0 dimensions are not known yet."""
    if embedder.dimensions in (0, space.dimensions):
        return
    raise ConfigurationError(
        f"embedding space {space.name!r} holds vectors of {space.dimensions} dimensions, but the embedder "
        f"makes {embedder.dimensions}; go back to {space.dimensions} dimensions, or give the embedder "
        "another name, which makes a space of its own"
    )
