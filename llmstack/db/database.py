"""One engine and pool; many services, each in its own schema."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal, TypeVar

import tenacity
from sqlalchemy import event, text
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from ..errors import ConfigurationError, DatabaseUnavailable, LLMStackError, LLMStackWarning, StatementTimeout
from ..settings import Settings
from .schemas import translate_map
from .translate import RETRYABLE, sqlstate, translating
from .urls import engine_arguments, masked

Isolation = Literal["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
Result = TypeVar("Result")

# A generic plan cannot know how few rows an owner has.
_CUSTOM_PLANS = text("SELECT set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true)")

_BASE_STATEMENTS, _STATEMENTS_PER_SERVICE = 100, 50
"""Prepared statements kept on a connection: each schema has its own of every search."""

_ALLOWED_CONNECTIONS = """
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
    - coalesce(current_setting('reserved_connections', true)::int, 0)
"""


class Database:
    """An engine and its pool. A host's engine is used as it is and never closed."""

    def __init__(
        self,
        url: str | URL | None = None,
        *,
        engine: AsyncEngine | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.settings = settings or Settings()
        if (url is None) == (engine is None):
            raise ConfigurationError("give Database either a url or an engine")
        self.owns_engine = engine is None
        self._services: dict[str, Service] = {}
        self.engine = engine if engine is not None else self._create_engine(url or "")
        if self.engine.dialect.driver != "asyncpg":
            raise ConfigurationError(
                f"the engine uses {self.engine.dialect.driver!r}; create it with postgresql+asyncpg://"
            )
        self.reader_engine = self.engine
        if self.settings.reader_url is not None:
            self.reader_engine = self._create_engine(self.settings.reader_url.get_secret_value())

    def _create_engine(self, url: str | URL) -> AsyncEngine:
        pooled = not self.settings.behind_pooler
        target, arguments = engine_arguments(url, self.settings, pooled=pooled)
        if not pooled:
            arguments["poolclass"] = NullPool
        engine = create_async_engine(target, **arguments)
        if pooled:
            event.listen(engine.sync_engine, "do_connect", self._size_statement_cache)
        else:
            event.listen(engine.sync_engine, "handle_error", _say_timeout)
        return engine

    def _size_statement_cache(self, _dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
        size = self.settings.statement_cache_size
        if size is None:
            size = _BASE_STATEMENTS + _STATEMENTS_PER_SERVICE * len(self._services)
        parameters["prepared_statement_cache_size"] = size

    def service(self, schema: str | None = None) -> Service:
        """The view of one schema on the shared pool; the same object for the same schema."""
        name = self.settings.schema_name if schema is None else schema
        if name not in self._services:
            self._services[name] = Service(self, name)
        return self._services[name]

    async def check_pool(self) -> str | None:
        """Warn, and return the warning, when the pool may ask for more connections than the server allows."""
        if not self.owns_engine or self.settings.behind_pooler:
            return None
        with translating():
            async with self.engine.connect() as connection:
                allowed = await connection.scalar(text(_ALLOWED_CONNECTIONS))
        wanted = self.settings.pool_size + self.settings.max_overflow
        if allowed is None or wanted <= allowed:
            return None
        message = (
            f"pool_size + max_overflow is {wanted}, but the server allows {allowed} connections; "
            "lower them or raise max_connections"
        )
        warnings.warn(message, LLMStackWarning, stacklevel=2)
        return message

    async def close(self) -> None:
        """Close the pools that this object opened."""
        if self.reader_engine is not self.engine:
            await self.reader_engine.dispose()
        if self.owns_engine:
            await self.engine.dispose()

    async def __aenter__(self) -> Database:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"Database({masked(self.engine.url)!r})"


class Service:
    """One schema on the shared pool: every statement made here reaches that schema's tables."""

    def __init__(self, database: Database, schema: str) -> None:
        self.database = database
        self.schema = schema
        mapping = {"schema_translate_map": translate_map(schema)}
        self.engine: AsyncEngine = database.engine.execution_options(**mapping)
        self._autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._reader = database.reader_engine.execution_options(postgresql_readonly=True, **mapping)

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """A session; what is not committed is rolled back at the end."""
        with translating():
            async with AsyncSession(self.engine, expire_on_commit=False) as session:
                yield session

    @contextlib.asynccontextmanager
    async def reader(self) -> AsyncIterator[AsyncSession]:
        """A read-only session, on the replica where `reader_url` names one."""
        with translating():
            async with AsyncSession(self._reader, expire_on_commit=False) as session:
                yield session

    @contextlib.asynccontextmanager
    async def single_statements(self) -> AsyncIterator[AsyncSession]:
        """A session for reading, whose every statement is a transaction of its own: one round trip each.

        On a host's engine and behind a pooler it is one transaction, and custom plans are asked for in a statement.
        """
        # A transaction pooler may move to another server between preparing and executing.
        alone = self.database.owns_engine and not self.database.settings.behind_pooler
        with translating():
            session = AsyncSession(self._autocommit if alone else self.engine, expire_on_commit=False)
            try:
                if not alone:
                    await session.execute(_CUSTOM_PLANS)
                yield session
            except BaseException:
                async with session:
                    raise
            # Leaving `async with` would take a task and three turns of the event loop more.
            await session.close()

    async def read(
        self, work: Callable[[AsyncSession], Awaitable[Result]], *, single_statements: bool = False
    ) -> Result:
        """Run `work`, which only reads, in a session; once more where its connection turns out to be broken.

        After a restart of the server that is so for each process once: the pool learns of it by a first failure, and
        then opens fresh ones.
        """
        opened = self.single_statements if single_statements else self.session
        try:
            async with opened() as session:
                return await work(session)
        except DatabaseUnavailable as error:
            if not _broke(error):
                raise
        async with opened() as session:
            return await work(session)

    async def transaction(
        self, work: Callable[[AsyncSession], Awaitable[Result]], *, isolation: Isolation | None = None
    ) -> Result:
        """Run `work` in a transaction and commit; a serialization failure or deadlock runs all of it again.

        Bounded by `transaction_attempts`, with exponential backoff and full jitter; then it is a Conflict.
        """
        engine = self.engine.execution_options(isolation_level=isolation) if isolation else self.engine
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_is_retryable),
            stop=tenacity.stop_after_attempt(self.database.settings.transaction_attempts),
            wait=tenacity.wait_random_exponential(multiplier=0.02, max=2.0),
            reraise=True,
        )

        async def attempt() -> Result:
            async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
                return await work(session)

        with translating():
            return await retrying(attempt)

    def __repr__(self) -> str:
        return f"Service(schema={self.schema!r}, database={self.database!r})"


def _is_retryable(error: BaseException) -> bool:
    # The unit of work may have translated it already.
    cause = error.__cause__ if isinstance(error, LLMStackError) else error
    return isinstance(cause, DBAPIError) and sqlstate(cause) in RETRYABLE


def _broke(error: DatabaseUnavailable) -> bool:
    """Whether a connection that had been open was lost, which says nothing of whether another can be opened."""
    return isinstance(error.__cause__, DBAPIError) and error.__cause__.connection_invalidated


def _say_timeout(context: ExceptionContext) -> None:
    """The driver's own time limit stands in for statement_timeout, which a pooler does not pass on."""
    if context.statement is not None and isinstance(context.original_exception, TimeoutError):
        raise StatementTimeout("the statement ran longer than statement_timeout") from context.original_exception
