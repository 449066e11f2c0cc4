"""Embedding spaces as data: which model made a vector, and how it is stored and compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import Select, exists, func, or_, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.schemas import qualified, schema_of
from ..errors import ConfigurationError, Conflict
from .errors import SpaceNotFound
from .models import DISTANCES, INDEX_METHODS, QUANTIZATIONS, STORAGES, EmbeddingSpace
from .parameters import fault_of_parameters
from .protocol import Embedder
from .vectors import INDEXABLE

Distance = Literal["cosine", "inner_product", "l2"]
IndexMethod = Literal["hnsw", "ivfflat", "none"]
Quantization = Literal["binary"]
Storage = Literal["halfvec", "vector"]

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


@dataclasses.dataclass(frozen=True)
class SpaceOptions:
    """How the vectors of a space are compared, stored and indexed."""

    distance: str = "cosine"
    storage: str = "halfvec"
    index_method: str = "hnsw"
    index_parameters: Mapping[str, int] = dataclasses.field(default_factory=dict)
    quantization: str | None = None

    def check(self, embedder: Embedder) -> None:
        """ConfigurationError for what no space can be."""
        _check_one_of("distance", self.distance, DISTANCES)
        _check_one_of("storage", self.storage, STORAGES)
        _check_one_of("index_method", self.index_method, INDEX_METHODS)
        _check_quantization(self.quantization, self.index_method)
        if fault := fault_of_parameters(self.index_method, self.index_parameters):
            raise ConfigurationError(fault)
        _check_length(embedder)
        most = INDEXABLE["bit" if self.quantization else self.storage]
        if self.index_method != "none" and embedder.dimensions > most:
            raise ConfigurationError(
                f"embedder {embedder.name!r} has {embedder.dimensions} dimensions, and pgvector indexes {self.storage} "
                f"up to {most}; give index_method='none' to search it exactly, or ask the model for fewer dimensions"
            )

    def differences(self, space: EmbeddingSpace) -> list[str]:
        """What of an existing space is otherwise, in words."""
        return [
            f"{name} is {getattr(space, name)!r}, not {wanted!r}"
            for name, wanted in dataclasses.asdict(self).items()
            if getattr(space, name) != wanted
        ]


def _check_one_of(name: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigurationError(f"{name} {value!r} is unknown; use one of {', '.join(allowed)}")


def _check_quantization(quantization: str | None, method: str) -> None:
    if quantization is None:
        return
    _check_one_of("quantization", quantization, QUANTIZATIONS)
    if method == "none":
        raise ConfigurationError(f"quantization {quantization!r} is that of an index; index_method 'none' has none")


def _check_length(embedder: Embedder) -> None:
    if not 1 <= embedder.dimensions <= _MOST_DIMENSIONS:
        raise ConfigurationError(
            f"embedder {embedder.name!r} has {embedder.dimensions} dimensions; a space takes 1 to {_MOST_DIMENSIONS}"
        )


def living() -> Select[Any]:
    """The ids of the spaces that are not retired; held against retirement until the end of the transaction."""
    statement = select(EmbeddingSpace.id).where(EmbeddingSpace.state != "retired")
    return statement.with_for_update(read=True, key_share=True)


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

    async def default_and(self, name: str) -> tuple[EmbeddingSpace | None, EmbeddingSpace | None]:
        """The default space and the one of this name, in one statement."""
        wanted = or_(EmbeddingSpace.is_default, EmbeddingSpace.name == name)
        found = (await self._session.scalars(select(EmbeddingSpace).where(wanted))).all()
        default = next((space for space in found if space.is_default), None)
        return default, next((space for space in found if space.name == name), None)

    async def living(self, names: Iterable[str]) -> Sequence[EmbeddingSpace]:
        """Those of these names that are not retired, the default first."""
        wanted = select(EmbeddingSpace).where(EmbeddingSpace.name.in_(list(names)), EmbeddingSpace.state != "retired")
        order = EmbeddingSpace.is_default.desc(), EmbeddingSpace.id
        return (await self._session.scalars(wanted.order_by(*order))).all()

    async def before(self) -> EmbeddingSpace | None:
        """The space that served before the default one."""
        served = select(EmbeddingSpace).where(EmbeddingSpace.served_until.is_not(None))
        return (await self._session.scalars(served.order_by(EmbeddingSpace.served_until.desc()).limit(1))).one_or_none()

    async def lock(self, *, with_writers: bool, seconds: float) -> None:
        """Let nobody else change spaces until the end of the transaction; wait so long at most.

        With the writers, those under way have ended, and those to come see what this transaction changes.
        """
        table = qualified(await self._session.run_sync(schema_of), EmbeddingSpace.__tablename__)
        mode = "EXCLUSIVE" if with_writers else "SHARE ROW EXCLUSIVE"
        await self._session.execute(text(f"SET LOCAL lock_timeout = {int(seconds * 1000)}"))
        await self._session.execute(text(f"LOCK TABLE {table} IN {mode} MODE"))
        await self._session.execute(text("SET LOCAL lock_timeout = DEFAULT"))

    async def add(self, embedder: Embedder, options: SpaceOptions, *, serves: bool) -> EmbeddingSpace:
        """A space for the embedder, in the shadow unless it `serves`; one that is there must be alike.

        A retired one of this name makes room by taking another: whoever still holds it must not meet the new one.
        """
        known = await self.find(embedder.name)
        if known is not None and known.state == "retired":
            known.name = f"{known.name} (retired {known.id})"
            await self._session.flush()
        elif known is not None:
            check_dimensions(known, embedder)
            if differences := options.differences(known):
                raise ConfigurationError(
                    f"embedding space {known.name!r} is there with other options: {'; '.join(differences)}; "
                    "give the embedder another name, or retire the space first"
                )
            return known
        space = EmbeddingSpace(
            name=embedder.name,
            provider=embedder.provider,
            model=embedder.model,
            dimensions=embedder.dimensions,
            state="active" if serves else "shadow",
            is_default=serves,
            **dataclasses.asdict(options),
        )
        self._session.add(space)
        await self._session.flush()
        return space

    async def serve(self, space: EmbeddingSpace, *, remember: bool) -> None:
        """Make the space the default in place of the one that is; with `remember` that one becomes the way back."""
        default = await self.default()
        if default is not None:
            default.is_default = False
            default.served_until = func.clock_timestamp() if remember else None
            # Two defaults cannot be, not even for a moment.
            await self._session.flush()
        space.state, space.is_default, space.served_until = "active", True, None
        await self._session.flush()

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
        _check_length(embedder)
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


def check_dimensions(space: EmbeddingSpace | Space, embedder: Embedder) -> None:
    """Refuse an embedder that makes other vectors than its space holds; 0 dimensions are not known yet."""
    if embedder.dimensions in (0, space.dimensions):
        return
    raise ConfigurationError(
        f"embedding space {space.name!r} holds vectors of {space.dimensions} dimensions, but the embedder "
        f"makes {embedder.dimensions}; go back to {space.dimensions} dimensions, or give the embedder "
        "another name, which makes a space of its own"
    )
