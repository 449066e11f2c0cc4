"""Approximate indexes of one space: one on each partition, built while everybody reads and writes."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from ..db.database import Service
from ..db.locks import after_brief_waits
from ..db.schemas import qualified, quote
from ..db.translate import lock_was_taken
from .builds import Build, IndexProgress, building, drop_concurrently
from .builds import IndexWatcher as IndexWatcher
from .definition import IndexDefinition, check_indexable
from .models import EmbeddingSpace

logger = logging.getLogger("llmstack.embeddings")

_NEW, _OLD = "_new", "_old"
_PART = re.compile(r"_p\d\d+$")
_UNFINISHED = re.compile(r"(_new|_old)?(_p\d\d+)?$")

_PARTITIONS = text("""
SELECT child.relname FROM pg_inherits
JOIN pg_class child ON child.oid = inhrelid
JOIN pg_class parent ON parent.oid = inhparent
JOIN pg_namespace n ON n.oid = parent.relnamespace
WHERE n.nspname = :schema AND parent.relname = :table
ORDER BY length(child.relname), child.relname
""")
_INDEXES = text("""
SELECT c.relname, i.indisvalid, EXISTS (SELECT FROM pg_inherits WHERE inhrelid = c.oid) AS is_attached,
    obj_description(c.oid, 'pg_class') AS signature
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = :schema AND starts_with(c.relname, :name)
""")


@dataclasses.dataclass(frozen=True)
class _Index:
    is_valid: bool
    is_attached: bool
    signature: str | None


def index_name(table: str, space_id: int) -> str:
    """The name of a space's index on the partitioned table."""
    return f"ix_{table}_s{space_id}"


def _part(name: str, number: int) -> str:
    return f"{name}_p{number:02d}"


def _is_of(name: str, whole: str) -> bool:
    """Whether the name is that of the index on the whole table, or of one of its parts."""
    return _PART.sub("", name) == whole


@dataclasses.dataclass(frozen=True)
class SpaceIndex:
    """The indexes of one space on one embedding table, in the service's schema or the one that is named."""

    service: Service
    table: str
    space: EmbeddingSpace
    schema: str = ""

    def __post_init__(self) -> None:
        if not self.schema:
            object.__setattr__(self, "schema", self.service.schema)

    @property
    def name(self) -> str:
        """The name of the index on the whole table."""
        return index_name(self.table, self.space.id)

    async def build(self, *, progress: IndexWatcher | None = None) -> list[str]:
        """Build what is missing or invalid, keep what is valid; return the names that were built.

        What an unfinished rebuild left is dropped.
        """
        check_indexable(self.space)
        async with building(self.service, self.name, schema=self.schema) as connection:
            for leftover in (_OLD, _NEW):
                await self._drop(connection, self.name + leftover)
            return await self._complete(connection, self.name, progress)

    async def rebuild(self, *, progress: IndexWatcher | None = None) -> list[str]:
        """Build all anew as the space now says, beside the old, then let both change places; return the names.

        Searches use the old index until the new one is whole. What an interrupted rebuild has finished is kept.
        """
        check_indexable(self.space)
        new, old = self.name + _NEW, self.name + _OLD
        async with building(self.service, self.name, schema=self.schema) as connection:
            await self._drop(connection, old)
            await self._drop_unlike(connection, new)
            built = await self._complete(connection, new, progress)
            await self._swap(connection)
            await self._drop_old(connection, old)
            return [self.name + name.removeprefix(new) for name in built]

    async def drop(self) -> None:
        """Drop the space's indexes; searches become exact scans."""
        async with building(self.service, self.name, schema=self.schema) as connection:
            for suffix in ("", _OLD, _NEW):
                await self._drop(connection, self.name + suffix)

    async def _complete(self, connection: AsyncConnection, name: str, progress: IndexWatcher | None) -> list[str]:
        definition = await IndexDefinition.read(connection, self.space)
        partitions = await self._partitions(connection)
        if not partitions:
            work = _Part(definition, name, self.table, 1, 1, progress)
            return [name] if await self._build_one(connection, work) else []
        parts = [
            _Part(definition, _part(name, number), partition, number + 1, len(partitions), progress)
            for number, partition in enumerate(partitions)
        ]
        built = [part.name for part in parts if await self._build_one(connection, part)]
        # Last, so that no break leaves an index of the whole that is not valid.
        await self._unite(connection, name, [part.name for part in parts], definition)
        return built

    async def _build_one(self, connection: AsyncConnection, part: _Part) -> bool:
        schema, definition = self.schema, part.definition
        found = (await self._indexes(connection)).get(part.name)
        if found is not None and found.is_valid:
            part.tell("done", 0, 0)
            return False
        if found is not None:
            # What the build of a killed process leaves behind; it would be maintained, and never used.
            await drop_concurrently(connection, schema, part.name)
        target = qualified(schema, part.table)
        rows = (await connection.exec_driver_sql(definition.count(target))).scalar_one()
        await definition.take_memory(connection, rows=rows)
        build = Build(self.service, connection, schema, self.name, part.name, part.reporter(rows))
        await build.run(f"CREATE INDEX CONCURRENTLY {quote(part.name)} ON {definition.on(target, rows=rows)}")
        await connection.exec_driver_sql(self._sign(part.name, definition))
        part.tell("done", rows, rows)
        return True

    def _sign(self, name: str, definition: IndexDefinition) -> str:
        signature = definition.signature.replace("'", "''")
        return f"COMMENT ON INDEX {qualified(self.schema, name)} IS '{signature}'"

    async def _unite(
        self, connection: AsyncConnection, name: str, parts: Sequence[str], definition: IndexDefinition
    ) -> None:
        schema, indexes = self.schema, await self._indexes(connection)
        whole = qualified(schema, name)
        if name not in indexes:
            target = qualified(schema, self.table)
            create = f"CREATE INDEX {quote(name)} ON ONLY {definition.on(target)}"
            await self._execute(connection, create, self._sign(name, definition))
        for part in parts:
            if not indexes[part].is_attached:
                await self._execute(connection, f"ALTER INDEX {whole} ATTACH PARTITION {qualified(schema, part)}")

    async def _drop_unlike(self, connection: AsyncConnection, new: str) -> None:
        """Drop what an interrupted rebuild made as the space was then, and what it had not finished."""
        signature = (await IndexDefinition.read(connection, self.space)).signature
        left = {name: index for name, index in (await self._indexes(connection)).items() if _is_of(name, new)}
        unlike = {name for name, index in left.items() if index.signature != signature}
        if new in unlike or any(left[name].is_attached for name in unlike):
            await self._drop(connection, new)
            return
        for name in sorted(unlike):
            await drop_concurrently(connection, self.schema, name)

    async def _swap(self, connection: AsyncConnection) -> None:
        """Give the new indexes the names of the old ones; renaming blocks neither readers nor writers."""
        present = await self._indexes(connection)
        suffixes = [name.removeprefix(self.name + _NEW) for name in present if _is_of(name, self.name + _NEW)]
        moves = [(suffix, _OLD + suffix) for suffix in suffixes if self.name + suffix in present]
        moves += [(_NEW + suffix, suffix) for suffix in suffixes]
        rename = "ALTER INDEX {} RENAME TO {}".format
        names = ((qualified(self.schema, self.name + one), quote(self.name + other)) for one, other in moves)
        await self._execute(connection, *(rename(*pair) for pair in names))

    async def _drop_old(self, connection: AsyncConnection, old: str) -> None:
        """Drop what nobody needs any more; a long search may keep it for now."""
        try:
            await self._drop(connection, old)
        except Exception as error:
            if not lock_was_taken(error):
                raise
            logger.warning("index %r is in use by a long transaction; the next build or rebuild drops it", old)

    async def _drop(self, connection: AsyncConnection, name: str) -> None:
        present = await self._indexes(connection)
        # The index on the parent takes those attached to it along; what was not yet attached remains.
        for one in sorted(one for one in present if _is_of(one, name)):
            await self._execute(connection, f"DROP INDEX IF EXISTS {qualified(self.schema, one)}")

    async def _partitions(self, connection: AsyncConnection) -> list[str]:
        found = await connection.scalars(_PARTITIONS, {"schema": self.schema, "table": self.table})
        return [str(name) for name in found]

    async def _indexes(self, connection: AsyncConnection) -> dict[str, _Index]:
        found = await connection.execute(_INDEXES, {"schema": self.schema, "name": self.name})
        return {name: _Index(*rest) for name, *rest in found}

    async def _execute(self, connection: AsyncConnection, *statements: str) -> None:
        """Run as one transaction what needs a lock for a moment."""
        wait = int(self.service.database.settings.ddl_lock_timeout * 1000)
        driver: Any = (await connection.get_raw_connection()).driver_connection
        # Sent as one text, they are one transaction, whose end is also that of the setting.
        await after_brief_waits()(driver.execute, "; ".join((f"SET LOCAL lock_timeout = {wait}", *statements)))


@dataclasses.dataclass(frozen=True)
class _Part:
    """One index of several to be built, and who wants to hear of it."""

    definition: IndexDefinition
    name: str
    table: str
    number: int
    count: int
    watcher: IndexWatcher | None

    def tell(self, phase: str, done: int, total: int) -> None:
        if self.watcher is not None:
            self.watcher(IndexProgress(self.number, self.count, phase, done, total))

    def reporter(self, total: int) -> Callable[[str, int], None] | None:
        if self.watcher is None:
            return None
        return lambda phase, done: self.tell(phase, done, total)


async def index_states(connection: Any, *, schema: str, table: str) -> dict[str, bool]:
    """The space indexes on a table by name, and whether each is whole and valid."""
    found = await connection.execute(_INDEXES, {"schema": schema, "name": f"ix_{table}_s"})
    states = {name: is_valid for name, is_valid, *_ in found}
    # Until all of its parts are built there is no index of the whole.
    return {**{_UNFINISHED.sub("", name): False for name in states}, **states}
