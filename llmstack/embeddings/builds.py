"""One index, built concurrently: watched by a second connection, and nothing left when it breaks off."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from ..db.database import Service
from ..db.locks import acquire, lock_key
from ..db.schemas import qualified
from ..db.translate import translating
from ..errors import ConfigurationError, LLMStackError, MigrationLockTimeout

logger = logging.getLogger("llmstack.embeddings")

_POLL_SECONDS = 0.5
_END_MILLISECONDS = 60_000

_BACKEND = text("SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()")
# The process id alone may meanwhile be another's.
_END = text(f"""
SELECT pg_terminate_backend(pid, {_END_MILLISECONDS}) FROM pg_stat_activity
WHERE pid = :pid AND backend_start = :backend_start
""")
_PROGRESS = text("""
SELECT phase, tuples_done FROM pg_stat_progress_create_index
WHERE pid = :pid AND datname = current_database() AND phase <> 'initializing'
""")
_IS_VALID = text("""
SELECT indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = :schema AND c.relname = :name
""")


@dataclasses.dataclass(frozen=True)
class IndexProgress:
    """How far a build is: the partition under way, counted from 1, its phase, and its rows done and in all.

    The phase is in PostgreSQL's words, and `done` when the partition is.
    """

    partition: int
    partitions: int
    phase: str
    done: int
    total: int

    @property
    def share(self) -> float:
        """How much of the whole is done, from 0 to 1; each partition counts the same."""
        part = 1.0 if self.phase == "done" else min(self.done / self.total, 1.0) if self.total else 0.0
        return (self.partition - 1 + part) / self.partitions


IndexWatcher = Callable[[IndexProgress], None]


@contextlib.asynccontextmanager
async def building(service: Service, name: str, *, schema: str, wait: bool = True) -> AsyncIterator[AsyncConnection]:
    """A connection of its own, without limits of time, while no other process builds this index."""
    if service.database.settings.behind_pooler:
        raise ConfigurationError("indexes are built over a direct connection, not through a pooler")
    engine = service.engine.execution_options(isolation_level="AUTOCOMMIT")
    with translating():
        async with engine.connect() as connection:
            try:
                await connection.exec_driver_sql("SET statement_timeout = 0")
                await connection.exec_driver_sql("SET lock_timeout = 0")
                await _lock(service, connection, name, schema=schema, wait=wait)
                yield connection
            finally:
                # Its settings and its lock go with it.
                await connection.invalidate()


async def _lock(service: Service, connection: AsyncConnection, name: str, *, schema: str, wait: bool) -> None:
    database = await connection.scalar(text("SELECT current_database()"))
    # Polling: whoever waits inside a statement would hold up the concurrent build itself.
    await acquire(
        (await connection.get_raw_connection()).driver_connection,
        lock_key(database=str(database), schema=f"{schema}\0{name}"),
        what=f"the build of index {name!r} in schema {schema!r}",
        timeout_seconds=service.database.settings.migration_lock_timeout if wait else 0.0,
        on_wait=logger.warning if wait else None,
    )


@dataclasses.dataclass(frozen=True)
class Build:
    """The making of one index under the lock of `whole`; `report` hears (phase, rows done)."""

    service: Service
    connection: AsyncConnection
    schema: str
    whole: str
    name: str
    report: Callable[[str, int], None] | None = None

    async def run(self, statement: str) -> None:
        """Execute CREATE INDEX CONCURRENTLY; whatever ends it, an invalid index does not remain."""
        backend = (await self.connection.execute(_BACKEND)).one()._asdict()
        try:
            await self._watched(self.connection.exec_driver_sql(statement), backend["pid"])
        except BaseException:
            # A cancelled task must neither leave its backend at work nor be kept from cleaning up after it.
            await asyncio.shield(asyncio.ensure_future(self._clean_up(backend)))
            raise

    async def _watched(self, work: Awaitable[Any], pid: int) -> None:
        if self.report is None:
            await work
            return
        making, watching = asyncio.ensure_future(work), asyncio.ensure_future(self._watch(self.report, pid))
        try:
            await asyncio.wait({making, watching}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                await watching
            await making
        finally:
            for task in (watching, making):
                task.cancel()
            await asyncio.gather(watching, making, return_exceptions=True)

    async def _watch(self, report: Callable[[str, int], None], pid: int) -> None:
        """Report until cancelled; what `report` raises ends the build, what the look-up raises does not."""
        done = 0
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            try:
                async with self.service.single_statements() as session:
                    row = (await session.execute(_PROGRESS, {"pid": pid})).one_or_none()
            except (LLMStackError, SQLAlchemyError, OSError) as error:
                logger.debug("the progress of index %r could not be read: %s", self.name, error)
                continue
            if row is not None:
                # Validation, and the second pass of IVFFlat, begin to count anew.
                done = max(done, row.tuples_done)
                report(row.phase, done)

    async def _clean_up(self, backend: dict[str, Any]) -> None:
        try:
            async with self.service.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                await connection.execute(_END, backend)
            # Whoever holds the lock meanwhile repairs what was left.
            async with building(self.service, self.whole, schema=self.schema, wait=False) as connection:
                place = {"schema": self.schema, "name": self.name}
                if await connection.scalar(_IS_VALID, place) is False:
                    await drop_concurrently(connection, self.schema, self.name)
        except MigrationLockTimeout:
            logger.debug("index %r is left to who builds it now", self.name)
        except (LLMStackError, SQLAlchemyError, OSError) as error:
            logger.warning("index %r may be left invalid, until it is built again or dropped: %s", self.name, error)


async def drop_concurrently(connection: AsyncConnection, schema: str, name: str) -> None:
    """Drop an index that is no part of another while everybody reads and writes."""
    await connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {qualified(schema, name)}")
