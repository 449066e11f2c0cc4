"""How far each space has come: its vectors, what is owed, and its index."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.database import Service
from . import queue
from .index import index_name, index_states
from .models import EmbeddingSpace
from .spaces import SpaceRepository
from .tables import EmbeddedTable, core_table


@dataclasses.dataclass(frozen=True)
class TableStatus:
    """How far a space has come in one table; `index` is `none`, `absent`, `incomplete` or `ready`.

    It is `none` where the space has no indexes, and where the table has no rows and none was built. `covered` of the
    `wanted` rows have their vector, a share of `coverage`; `pending` and `set_aside` are its jobs.
    """

    table: str
    vectors: int
    wanted: int
    coverage: float
    index: str
    covered: int
    pending: int
    set_aside: int


@dataclasses.dataclass(frozen=True)
class SpaceStatus:
    """A space and how far it has come in all tables together; its `index` is the worst of theirs."""

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
    tables: Sequence[TableStatus]


_INDEX_STATES = ("absent", "incomplete", "ready", "none")
"""From worst to best."""


async def read_statuses(service: Service, tables: Iterable[EmbeddedTable], *, attempts: int) -> list[SpaceStatus]:
    """The status of every space of the schema, oldest first, all as of one moment."""
    placed = [(table, await table.place(service)) for table in tables]

    async def read(session: AsyncSession) -> list[SpaceStatus]:
        spaces = await SpaceRepository(session).list()
        found = [await _read(session, table, schema, spaces, attempts=attempts) for table, schema in placed]
        return [_status(space, [of_table[space.id] for of_table in found]) for space in spaces]

    # Else a row whose vector is stored between two of the counts would seem to be lost.
    return await service.transaction(read, isolation="REPEATABLE READ")


async def _read(
    session: AsyncSession, table: EmbeddedTable, schema: str, spaces: Sequence[EmbeddingSpace], *, attempts: int
) -> dict[int, TableStatus]:
    name = core_table(table.embeddings).name
    wanted = (await session.execute(queue.wanted_rows(table))).scalar_one()
    vectors = await _by_space(session, queue.coverage(table))
    jobs = await _by_space(session, queue.owed(table, attempts=attempts))
    indexes = await index_states(session, schema=schema, table=name)
    return {
        space.id: _table_status(
            table.name,
            wanted,
            vectors.get(space.id, (0, 0)),
            jobs.get(space.id, (0, 0)),
            "none" if space.index_method == "none" else _index(indexes.get(index_name(name, space.id))),
        )
        for space in spaces
    }


async def _by_space(session: AsyncSession, statement: Select[Any]) -> dict[int, tuple[int, int]]:
    return {space_id: (first, second) for space_id, first, second in await session.execute(statement)}


def _index(is_valid: bool | None) -> str:
    return "absent" if is_valid is None else "ready" if is_valid else "incomplete"


def _table_status(name: str, wanted: int, vectors: tuple[int, int], jobs: tuple[int, int], index: str) -> TableStatus:
    stored, covered = vectors
    # An index over nothing finds nothing: of a table that is not used none is missing.
    if index == "absent" and not stored and not wanted:
        index = "none"
    return TableStatus(
        table=name,
        vectors=stored,
        wanted=wanted,
        coverage=covered / wanted if wanted else 1.0,
        index=index,
        covered=covered,
        pending=jobs[0],
        set_aside=jobs[1],
    )


def _status(space: EmbeddingSpace, tables: Sequence[TableStatus]) -> SpaceStatus:
    wanted, covered = sum(one.wanted for one in tables), sum(one.covered for one in tables)
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
        vectors=sum(one.vectors for one in tables),
        wanted=wanted,
        coverage=covered / wanted if wanted else 1.0,
        index=min((one.index for one in tables), key=_INDEX_STATES.index),
        covered=covered,
        pending=sum(one.pending for one in tables),
        set_aside=sum(one.set_aside for one in tables),
        tables=tables,
    )
