"""Approximate indexes of one space: one on each partition, built while everybody reads and writes."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import tenacity
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from ..db.database import Service
from ..db.locks import acquire, lock_key
from ..db.schemas import qualified, quote
from ..db.translate import sqlstate, translating
from ..errors import ConfigurationError
from .models import EmbeddingSpace
from .vectors import INDEXABLE

logger = logging.getLogger("llmstack.embeddings")

_OPERATORS = {"cosine": "cosine_ops", "inner_product": "ip_ops", "l2": "l2_ops"}
_DEFAULTS: dict[str, dict[str, int]] = {"hnsw": {"m": 16, "ef_construction": 64}, "ivfflat": {}}
_PARAMETERS = {"hnsw": {"m", "ef_construction"}, "ivfflat": {"lists"}}
_ROWS_IN_A_LIST, _MOST_LISTS = 1000, 32_768
_LOCK_NOT_AVAILABLE = "55P03"
_LOCK_ATTEMPTS = 10

_PARTITIONS = text("""
SELECT child.relname FROM pg_inherits
JOIN pg_class child ON child.oid = inhrelid
JOIN pg_class parent ON parent.oid = inhparent
JOIN pg_namespace n ON n.oid = parent.relnamespace
WHERE n.nspname = :schema AND parent.relname = :table
ORDER BY length(child.relname), child.relname
""")
_INDEXES = text("""
SELECT c.relname, i.indisvalid, EXISTS (SELECT FROM pg_inherits WHERE inhrelid = c.oid) AS is_attached
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = :schema AND starts_with(c.relname, :name)
""")
_EXTENSION_SCHEMA = text("""
SELECT nspname FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'vector'
""")
# The graph of a partition should fit, and PostgreSQL reserves all of it when workers share the build.
_MEMORY = text("""
SELECT set_config('maintenance_work_mem', greatest(
    pg_size_bytes(current_setting('maintenance_work_mem')),
    least(2 * pg_table_size(CAST(:table AS regclass)) + 16777216, 2147483648)
) / 1024 || 'kB', false)
""")

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class _Index:
    is_valid: bool
    is_attached: bool


def index_name(table: str, space_id: int) -> str:
    """The name of a space's index on the partitioned table."""
    return f"ix_{table}_s{space_id}"


@dataclasses.dataclass(frozen=True)
class SpaceIndex:
    """The indexes of one space on one embedding table."""

    service: Service
    table: str
    space: EmbeddingSpace

    @property
    def name(self) -> str:
        """The name of the index on the whole table."""
        return index_name(self.table, self.space.id)

    async def build(self, *, progress: Progress | None = None) -> list[str]:
        """Build what is missing or invalid, keep what is valid; return the names that were built."""
        check_indexable(self.space)
        async with self._connection() as connection:
            partitions = await self._partitions(connection)
            if not partitions:
                built = await self._build_one(connection, self.name, self.table)
                return [self.name] if built else []
            await self._create_parent(connection)
            names = []
            for number, partition in enumerate(partitions):
                name = f"{self.name}_p{number:02d}"
                if await self._build_one(connection, name, partition):
                    names.append(name)
                await self._attach(connection, name)
                if progress is not None:
                    progress(number + 1, len(partitions))
            return names

    async def drop(self) -> None:
        """Drop the space's indexes; searches become exact scans."""
        async with self._connection() as connection:
            partitions = await self._partitions(connection)
            names = [self.name, *(f"{self.name}_p{number:02d}" for number in range(len(partitions)))]
            # The index on the parent takes those attached to it along; what was not yet attached remains.
            for name in names:
                await self._execute(connection, f"DROP INDEX IF EXISTS {qualified(self.service.schema, name)}")

    async def _build_one(self, connection: AsyncConnection, name: str, table: str) -> bool:
        found = (await self._indexes(connection)).get(name)
        if found is not None and found.is_valid:
            return False
        if found is not None:
            # What a build that broke off leaves behind; it would be maintained, and never used.
            schema = self.service.schema
            await connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {qualified(schema, name)}")
        await connection.execute(_MEMORY, {"table": qualified(self.service.schema, table)})
        definition = await self._definition(connection, table)
        await connection.exec_driver_sql(f"CREATE INDEX CONCURRENTLY {quote(name)} ON {definition}")
        return True

    async def _create_parent(self, connection: AsyncConnection) -> None:
        if self.name not in await self._indexes(connection):
            definition = await self._definition(connection, self.table)
            await self._execute(connection, f"CREATE INDEX {quote(self.name)} ON ONLY {definition}")

    async def _attach(self, connection: AsyncConnection, name: str) -> None:
        if (await self._indexes(connection))[name].is_attached:
            return
        schema = self.service.schema
        await self._execute(
            connection,
            f"ALTER INDEX {qualified(schema, self.name)} ATTACH PARTITION {qualified(schema, name)}",
        )

    async def _definition(self, connection: AsyncConnection, table: str) -> str:
        space, extension = self.space, quote(await connection.scalar(_EXTENSION_SCHEMA) or "public")
        column = "embedding" if space.storage == "halfvec" else "embedding_full"
        vector = f"({column}::{extension}.{space.storage}({int(space.dimensions)}))"
        operators = f"{extension}.{space.storage}_{_OPERATORS[space.distance]}"
        target = qualified(self.service.schema, table)
        parameters = await self._parameters(connection, target)
        return (
            f"{target} USING {space.index_method} ({vector} {operators}) "
            f"WITH ({parameters}) WHERE space_id = {int(space.id)}"
        )

    async def _parameters(self, connection: AsyncConnection, target: str) -> str:
        given = {key: int(value) for key, value in self.space.index_parameters.items()}
        values = {**_DEFAULTS[self.space.index_method], **given}
        if self.space.index_method == "ivfflat" and "lists" not in values:
            statement = f"SELECT count(*) FROM {target} WHERE space_id = {int(self.space.id)}"
            rows = (await connection.exec_driver_sql(statement)).scalar_one()
            values["lists"] = min(max(1, rows // _ROWS_IN_A_LIST), _MOST_LISTS)
        return ", ".join(f"{key} = {value}" for key, value in values.items())

    async def _partitions(self, connection: AsyncConnection) -> list[str]:
        found = await connection.scalars(_PARTITIONS, {"schema": self.service.schema, "table": self.table})
        return [str(name) for name in found]

    async def _indexes(self, connection: AsyncConnection) -> dict[str, _Index]:
        found = await connection.execute(_INDEXES, {"schema": self.service.schema, "name": self.name})
        return {name: _Index(is_valid, is_attached) for name, is_valid, is_attached in found}

    async def _execute(self, connection: AsyncConnection, statement: str) -> None:
        """Run what needs a strong lock for a moment; waits briefly and often, so that no queue forms."""
        wait = int(self.service.database.settings.ddl_lock_timeout * 1000)
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_lock_was_taken),
            stop=tenacity.stop_after_attempt(_LOCK_ATTEMPTS),
            wait=tenacity.wait_random(0.1, 1.0),
            reraise=True,
        )
        await connection.exec_driver_sql(f"SET lock_timeout = {wait}")
        try:
            await retrying(connection.exec_driver_sql, statement)
        finally:
            await connection.exec_driver_sql("SET lock_timeout = 0")

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        """A connection of its own, without limits of time, while no other process builds this index."""
        if self.service.database.settings.behind_pooler:
            raise ConfigurationError("indexes are built over a direct connection, not through a pooler")
        engine = self.service.engine.execution_options(isolation_level="AUTOCOMMIT")
        with translating():
            async with engine.connect() as connection:
                try:
                    await connection.exec_driver_sql("SET statement_timeout = 0")
                    await connection.exec_driver_sql("SET lock_timeout = 0")
                    await self._lock(connection)
                    yield connection
                finally:
                    # Its settings and its lock go with it.
                    await connection.invalidate()

    async def _lock(self, connection: AsyncConnection) -> None:
        schema, database = self.service.schema, await connection.scalar(text("SELECT current_database()"))
        key = lock_key(database=str(database), schema=f"{schema}\0{self.name}")
        # Polling: whoever waits inside a statement would hold up the concurrent build itself.
        await acquire(
            (await connection.get_raw_connection()).driver_connection,
            key,
            what=f"the build of index {self.name!r} in schema {schema!r}",
            timeout_seconds=self.service.database.settings.migration_lock_timeout,
            on_wait=logger.warning,
        )


def _lock_was_taken(error: BaseException) -> bool:
    return isinstance(error, DBAPIError) and sqlstate(error) == _LOCK_NOT_AVAILABLE


def check_indexable(space: EmbeddingSpace) -> None:
    """Refuse what pgvector cannot index, and parameters that the index method does not have."""
    most = INDEXABLE[space.storage]
    if space.dimensions > most:
        raise ConfigurationError(
            f"embedding space {space.name!r} has {space.dimensions} dimensions; pgvector indexes "
            f"{space.storage} up to {most}, so this space is searched exactly; "
            "ask the model for fewer dimensions to index it"
        )
    if space.index_method == "none":
        raise ConfigurationError(f"embedding space {space.name!r} has index_method 'none': it is searched exactly")
    unknown = sorted(set(space.index_parameters) - _PARAMETERS[space.index_method])
    if unknown:
        raise ConfigurationError(
            f"embedding space {space.name!r}: {space.index_method} has no parameter {', '.join(unknown)}"
        )


async def index_states(connection: Any, *, schema: str, table: str) -> dict[str, bool]:
    """The space indexes on a table by name, and whether each is valid."""
    found = await connection.execute(_INDEXES, {"schema": schema, "name": f"ix_{table}_s"})
    return {name: is_valid for name, is_valid, _ in found}
