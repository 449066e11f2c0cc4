"""Changing the model: a space grows in the shadow, is verified, serves, can be gone back from, and is retired."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar, cast

from sqlalchemy import CursorResult, Executable, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.copy import STATEMENT_ROWS
from ..db.database import Service
from ..db.locks import after_brief_waits
from ..db.translate import lock_was_taken
from ..errors import ConfigurationError, Conflict, DatabaseError, ValidationError
from ..settings import Settings
from . import queue
from .errors import SpaceNotFound
from .index import SpaceIndex, index_name, index_states
from .models import EmbeddingSpace
from .protocol import Embedder
from .spaces import Space, SpaceOptions, SpaceRepository
from .status import SpaceStatus, TableStatus, read_statuses
from .tables import EmbeddedTable, EmbeddedTables, core_table

Result = TypeVar("Result")

_MAY_DROP = text("""
SELECT current_user AS role, pg_has_role(c.relowner, 'USAGE') AS may
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = :schema AND c.relname = :table
""")


@dataclasses.dataclass(frozen=True)
class Verification:
    """Whether a space may serve; `faults` say in words what is missing, `recall` is None where it was not measured.

    `steps` are the verbs that mend them, in the order in which they are called.
    """

    space: str
    coverage: float
    pending: int
    set_aside: int
    index: str
    recall: float | None
    faults: tuple[str, ...]
    steps: tuple[str, ...]

    @property
    def ready(self) -> bool:
        """Whether nothing is missing."""
        return not self.faults


@dataclasses.dataclass(frozen=True)
class Retirement:
    """What went with a retired space."""

    space: str
    vectors: int
    jobs: int


@dataclasses.dataclass(frozen=True)
class ModelChange:
    """The steps from one space to another; each holds the table of spaces for a moment, so they follow one another."""

    service: Service
    tables: EmbeddedTables
    settings: Settings

    async def add(self, embedder: Embedder, options: SpaceOptions, *, is_own: bool) -> Space:
        """Make the space, and only return when every writer will make jobs in it."""

        async def work(spaces: SpaceRepository) -> Space:
            serves = is_own and await spaces.default() is None
            return Space.of(await spaces.add(embedder, options, serves=serves))

        return await self._changing(work, with_writers=True)

    async def verify(self, name: str, *, least_coverage: float = 1.0) -> Verification:
        """What the space still lacks. Counts the whole table."""
        status = await self._status(name)
        faults = [*_retired(status), *_lacking(status, least_coverage), *_unindexed(status)]
        return Verification(
            space=name,
            coverage=status.coverage,
            pending=status.pending,
            set_aside=status.set_aside,
            index=status.index,
            recall=None,
            faults=tuple(said for said, _ in faults),
            steps=tuple(dict.fromkeys(step for _, step in faults if step is not None)),
        )

    async def cut_over(self, name: str, *, force: bool, least_coverage: float) -> Space:
        """Let the space serve; Conflict with its faults unless it is ready."""
        if not force:
            await self.tables.refuse_unregistered(self.service)
            _require("cut over to", name, (await self.verify(name, least_coverage=least_coverage)).faults)

        async def work(spaces: SpaceRepository) -> Space:
            space = await spaces.get(name)
            if space.state == "retired":
                raise Conflict(f"embedding space {name!r} is retired; add it again with add_space")
            if not space.is_default:
                await spaces.serve(space, remember=True)
            return Space.of(space)

        return await self._changing(work)

    async def roll_back(self, *, force: bool, least_coverage: float) -> Space:
        """Let the space serve that served before, with its index or, as it may have been before, without one."""
        name = _way_back(await self.service.read(lambda session: SpaceRepository(session).before())).name
        if not force:
            await self.tables.refuse_unregistered(self.service)
            lacking = _lacking(await self._status(name), least_coverage)
            _require("go back to", name, [said for said, _ in lacking])

        async def work(spaces: SpaceRepository) -> Space:
            space = _way_back(await spaces.before())
            if space.name != name:
                raise Conflict(f"another space than {name!r} served before by now; look again")
            await spaces.serve(space, remember=False)
            return Space.of(space)

        return await self._changing(work)

    async def retire(self, name: str) -> Retirement:
        """Give up a space: from now on no jobs, once no process searches it any more no vectors. Can be repeated."""
        await self.tables.refuse_unregistered(self.service)
        space, was = await self._mark_retired(name)
        if was != "shadow":
            # Another process may have asked just before; and what it searches then has begun before the second period.
            await asyncio.sleep(2 * self.settings.space_refresh)
        vectors = jobs = 0
        for table in self.tables:
            jobs += await self._forget_jobs(table, space)
            if await self._has_index(table, space):
                await (await self.index_of(table, name)).drop()
            vectors += await self._forget_vectors(table, space)
            jobs += await self._forget_jobs(table, space)
        return Retirement(name, vectors, jobs)

    async def index_of(self, table: EmbeddedTable, name: str) -> SpaceIndex:
        """The index of a space on one table."""
        space = await self.service.read(lambda session: SpaceRepository(session).get(name))
        return SpaceIndex(self.service, core_table(table.embeddings).name, space, await table.place(self.service))

    async def _status(self, name: str) -> SpaceStatus:
        statuses = await read_statuses(self.service, self.tables, attempts=self.settings.embedding_attempts)
        found = next((status for status in statuses if status.name == name), None)
        if found is None:
            raise SpaceNotFound(name)
        return found

    async def _mark_retired(self, name: str) -> tuple[Space, str]:
        found = await self.service.read(lambda session: SpaceRepository(session).get(name))
        for table in self.tables:
            if await self._has_index(table, Space.of(found)):
                await self._require_owner(table, name)

        async def work(spaces: SpaceRepository) -> tuple[Space, str]:
            space = await spaces.get(name)
            if space.is_default:
                raise Conflict(f"embedding space {name!r} serves; cut over to another one first")
            was, space.state = space.state, "retired"
            return Space.of(space), was

        return await self._changing(work, with_writers=True)

    async def _has_index(self, table: EmbeddedTable, space: Space) -> bool:
        vectors, schema = core_table(table.embeddings).name, await table.place(self.service)
        name = index_name(vectors, space.id)
        found = await self.service.read(lambda session: index_states(session, schema=schema, table=vectors))
        return any(one == name or one.startswith(f"{name}_") for one in found)

    async def _require_owner(self, table: EmbeddedTable, name: str) -> None:
        """Before anything is done: what drops an index is the owner, over a connection of its own."""
        if self.settings.behind_pooler:
            raise ConfigurationError("a space with an index is retired over a direct connection, not through a pooler")
        place = {"schema": await table.place(self.service), "table": core_table(table.embeddings).name}
        row = (await self.service.read(lambda session: session.execute(_MAY_DROP, place))).one()
        if not row.may:
            raise DatabaseError(
                f"role {row.role!r} does not own the tables and cannot drop the index of {name!r}; "
                "retire it as their owner"
            )

    async def _forget_jobs(self, table: EmbeddedTable, space: Space) -> int:
        statement, total = queue.forget_jobs(table, space, limit=STATEMENT_ROWS), 0
        while gone := await self.service.transaction(lambda session: _rows(session, statement)):
            total += gone
        return total

    async def _forget_vectors(self, table: EmbeddedTable, space: Space) -> int:
        total = 0
        after: tuple[str, uuid.UUID] | None = None

        async def work(session: AsyncSession) -> tuple[int, str | None, uuid.UUID | None]:
            page = queue.forget_vectors(table, space, after=after, limit=STATEMENT_ROWS)
            number, owner_id, row_id = (await session.execute(page)).one()
            return number, owner_id, row_id

        while True:
            number, owner_id, row_id = await self.service.transaction(work)
            total += number
            if owner_id is None or row_id is None:
                return total
            after = owner_id, row_id

    async def _changing(
        self, work: Callable[[SpaceRepository], Awaitable[Result]], *, with_writers: bool = False
    ) -> Result:
        """Run `work` while nobody else changes spaces."""
        seconds = self.settings.ddl_lock_timeout

        async def attempt(session: AsyncSession) -> Result:
            spaces = SpaceRepository(session)
            await spaces.lock(with_writers=with_writers, seconds=seconds)
            return await work(spaces)

        try:
            return await after_brief_waits()(self.service.transaction, attempt)
        except DBAPIError as error:
            if not lock_was_taken(error):
                raise
            raise Conflict("transactions that write or change spaces take too long; try again later") from error


async def _rows(session: AsyncSession, statement: Executable) -> int:
    return cast("CursorResult[object]", await session.execute(statement)).rowcount


def _way_back(space: EmbeddingSpace | None) -> EmbeddingSpace:
    if space is None:
        raise Conflict("no other space served before this one")
    if space.state == "retired":
        raise Conflict(f"embedding space {space.name!r} served before, and is retired")
    return space


def _require(what: str, name: str, faults: Sequence[str]) -> None:
    if faults:
        raise Conflict(f"cannot {what} {name!r}: {'; '.join(faults)}")


Fault = tuple[str, str | None]
"""What is missing, in words, and the verb that mends it."""


def _retired(status: SpaceStatus) -> list[Fault]:
    return [("it is retired; add_space makes it anew", "add_space")] if status.state == "retired" else []


def _unindexed(status: SpaceStatus) -> list[Fault]:
    return [
        (f"{_of(table, status)}its {status.index_method} index is {table.index}: build_index builds it", "build_index")
        for table in status.tables
        if table.index not in ("none", "ready")
    ]


def _of(table: TableStatus, status: SpaceStatus) -> str:
    """Which table is meant, where there are several."""
    return f"{table.table}: " if len(status.tables) > 1 else ""


def check_share(field: str, value: float) -> None:
    """Refuse what is no share, such as a percentage."""
    if not 0 <= value <= 1:
        raise ValidationError(field, f"it is a share from 0 to 1, not {value!r}")


def _lacking(status: SpaceStatus, least_coverage: float) -> list[Fault]:
    check_share("least_coverage", least_coverage)
    # Of each table: many covered rows of one say nothing of another that has none.
    lacking = [table for table in status.tables if table.coverage < least_coverage]
    return [(f"{_of(table, status)}{said}", step) for table in lacking for said, step in _missing(table)]


def _missing(status: TableStatus) -> list[Fault]:
    lost = status.wanted - status.covered - status.pending - status.set_aside
    found = [
        (lost, "have neither vector nor job: backfill queues them", "backfill"),
        (status.pending, "wait for their vector: process_pending embeds them", "process_pending"),
        (status.set_aside, "were set aside after failing: retry_set_aside takes them up again", "retry_set_aside"),
    ]
    said: list[Fault] = []
    for number, what, step in found:
        if number > 0:
            said.append((f"{number:,} of {status.wanted:,} rows {what}", step))
    # A job beside a vector, which a worker is about to find, would hide a row that has neither.
    return said or [(f"{status.wanted - status.covered:,} of {status.wanted:,} rows have no vector", None)]
