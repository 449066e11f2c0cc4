"""How far each space has come: its vectors, what is owed, and its index."""

from __future__ import annotations

import dataclasses
from typing import Any

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.database import Service
from . import queue
from .index import index_name, index_states
from .models import EmbeddingSpace
from .queue import EmbeddedTable, core_table
from .spaces import SpaceRepository


@dataclasses.dataclass(frozen=True)
class SpaceStatus:
    """A space and how far it has come; `index` is `none`, `absent`, `incomplete` or `ready`.

    `covered` of the `wanted` rows have their vector, a share of `coverage`; `pending` and `set_aside` are its jobs.
    """

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
    covered: int
    pending: int
    set_aside: int


async def read_statuses(service: Service, table: EmbeddedTable, *, attempts: int) -> list[SpaceStatus]:
    """The status of every space of the schema, oldest first, all as of one moment."""
    name = core_table(table.embeddings).name

    async def read(session: AsyncSession) -> list[SpaceStatus]:
        spaces = await SpaceRepository(session).list()
        wanted = (await session.execute(queue.wanted_rows(table))).scalar_one()
        vectors = await _by_space(session, queue.coverage(table))
        jobs = await _by_space(session, queue.owed(table, attempts=attempts))
        indexes = await index_states(session, schema=service.schema, table=name)
        return [
            _status(
                space,
                wanted,
                vectors.get(space.id, (0, 0)),
                jobs.get(space.id, (0, 0)),
                indexes.get(index_name(name, space.id)),
            )
            for space in spaces
        ]

    # Else a row whose vector is stored between two of the counts would seem to be lost.
    return await service.transaction(read, isolation="REPEATABLE READ")


async def _by_space(session: AsyncSession, statement: Select[Any]) -> dict[int, tuple[int, int]]:
    return {space_id: (first, second) for space_id, first, second in await session.execute(statement)}


def _status(
    space: EmbeddingSpace, wanted: int, vectors: tuple[int, int], jobs: tuple[int, int], is_valid: bool | None
) -> SpaceStatus:
    index = "absent" if is_valid is None else "ready" if is_valid else "incomplete"
    stored, covered = vectors
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
        vectors=stored,
        wanted=wanted,
        coverage=covered / wanted if wanted else 1.0,
        index="none" if space.index_method == "none" else index,
        covered=covered,
        pending=jobs[0],
        set_aside=jobs[1],
    )
