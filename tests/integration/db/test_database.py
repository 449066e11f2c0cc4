"""The engine and its pool: what the server is told, whose engine is closed, how failures are said."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool, QueuePool
from sqlalchemy.schema import CreateSchema, CreateTable

from llmstack.db import CorpusStatistics, Database, Service
from llmstack.errors import (
    ConfigurationError,
    DatabaseBehind,
    DatabaseUnavailable,
    LLMStackWarning,
    StatementTimeout,
)
from llmstack.settings import Settings


@pytest.fixture
def url(llmstack_database: Database) -> URL:
    return llmstack_database.engine.url


@pytest.fixture
async def host_engine(url: URL) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url)
    yield engine
    await engine.dispose()


async def shown(database: Database, name: str) -> Any:
    async with database.service().session() as session:
        return await session.scalar(text(f"SHOW {name}"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("statement_timeout", "1min"),
        ("idle_in_transaction_session_timeout", "1min"),
        ("application_name", "llmstack"),
        ("jit", "off"),
        ("plan_cache_mode", "force_custom_plan"),
    ],
)
async def test_the_server_is_told_the_defaults(url: URL, name: str, value: str) -> None:
    async with Database(url) as database:
        assert await shown(database, name) == value


async def test_the_server_is_told_what_the_settings_say(url: URL) -> None:
    settings = Settings(statement_timeout=1.5, idle_in_transaction_session_timeout=0, application_name="billing")
    async with Database(url, settings=settings) as database:
        assert await shown(database, "statement_timeout") == "1500ms"
        assert await shown(database, "idle_in_transaction_session_timeout") == "0"
        assert await shown(database, "application_name") == "billing"


async def test_the_pool_has_the_default_sizes(url: URL) -> None:
    async with Database(url) as database:
        pool = database.engine.sync_engine.pool
        assert isinstance(pool, QueuePool)
        assert (pool.size(), pool._max_overflow, pool._timeout, pool._recycle) == (20, 10, 30.0, 3600)


async def test_a_hosts_engine_is_used_as_it_is_and_never_closed(host_engine: AsyncEngine) -> None:
    pool = host_engine.pool
    async with Database(engine=host_engine) as database:
        assert database.engine is host_engine
        assert await shown(database, "statement_timeout") == "0"
        pid = await database_pid(database)
    assert host_engine.pool is pool
    assert await database_pid(database) == pid


async def database_pid(database: Database) -> Any:
    async with database.engine.connect() as connection:
        return await connection.scalar(text("SELECT pg_backend_pid()"))


async def test_closing_ends_the_connections_that_we_opened(url: URL, host_engine: AsyncEngine) -> None:
    async with Database(url, settings=Settings(application_name="ours")) as database:
        await shown(database, "jit")
    async with host_engine.connect() as connection:
        count = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ours'")
        for _ in range(100):
            if not (left := await connection.scalar(count)):
                break
            await asyncio.sleep(0.02)
        assert left == 0


@pytest.mark.parametrize("arguments", [{}, {"url": "postgresql://db/app", "engine": object()}])
def test_a_database_takes_either_a_url_or_an_engine(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="either a url or an engine"):
        Database(**arguments)


async def test_a_pool_that_the_server_cannot_fill_is_warned_of(url: URL) -> None:
    settings = Settings(pool_size=190, max_overflow=10_000)
    async with Database(url, settings=settings) as database:
        with pytest.warns(LLMStackWarning, match=r"is 10190, but the server allows \d+ connections"):
            message = await database.check_pool()
    assert message is not None


async def test_a_pool_that_fits_is_not_warned_of(url: URL) -> None:
    async with Database(url, settings=Settings(pool_size=2, max_overflow=1)) as database:
        assert await database.check_pool() is None


async def test_a_hosts_pool_is_the_hosts_business(host_engine: AsyncEngine) -> None:
    assert await Database(engine=host_engine, settings=Settings(pool_size=10_000)).check_pool() is None


@pytest.mark.parametrize(("services", "size"), [(1, 150), (3, 250)])
async def test_the_statement_cache_grows_with_the_services(url: URL, services: int, size: int) -> None:
    async with Database(url) as database:
        for number in range(services):
            database.service(schema=f"s{number}")
        assert await cache_size(database) == size


async def test_the_statement_cache_can_be_set(url: URL) -> None:
    async with Database(url, settings=Settings(statement_cache_size=7)) as database:
        assert await cache_size(database) == 7


async def cache_size(database: Database) -> Any:
    async with database.engine.connect() as connection:
        adapted: Any = (await connection.get_raw_connection()).dbapi_connection
        return adapted._prepared_statement_cache.capacity


async def test_no_password_reaches_the_log(url: URL, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="sqlalchemy")
    secret = url.set(password="s3cret", query={**url.query, "password": "s3cret"})
    async with Database(secret) as database:
        await shown(database, "jit")
    assert caplog.records
    assert "s3cret" not in caplog.text + repr(database)


async def test_no_password_reaches_an_error(caplog: pytest.LogCaptureFixture) -> None:
    database = Database(f"postgresql://ann@127.0.0.1:{free_port()}/app?password=s3cret")
    with pytest.raises(DatabaseUnavailable) as caught:
        await shown(database, "jit")
    chain: BaseException | None = caught.value
    while chain is not None:
        assert "s3cret" not in f"{chain!r} {chain}"
        chain = chain.__cause__ or chain.__context__
    assert "s3cret" not in caplog.text


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def test_a_server_that_cannot_be_reached_is_unavailable() -> None:
    database = Database(f"postgresql://ann@127.0.0.1:{free_port()}/app")
    with pytest.raises(DatabaseUnavailable, match="cannot be reached"):
        await shown(database, "jit")
    with pytest.raises(DatabaseUnavailable):
        await database.check_pool()


async def test_a_server_that_does_not_answer_is_unavailable_in_time() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        database = Database(f"postgresql://ann@127.0.0.1:{port}/app?connect_timeout=0.2")
        async with asyncio.timeout(5):
            with pytest.raises(DatabaseUnavailable, match="no answer in time"):
                await shown(database, "jit")


async def test_a_database_that_does_not_exist_is_a_configuration_error(url: URL) -> None:
    async with Database(url.set(database="absent")) as database:
        with pytest.raises(ConfigurationError, match='"absent" does not exist; create it'):
            await shown(database, "jit")


async def test_a_slow_statement_is_a_statement_timeout(url: URL) -> None:
    async with Database(url, settings=Settings(statement_timeout=0.1)) as database:
        with pytest.raises(StatementTimeout, match="statement timeout"):
            async with database.service().session() as session:
                await session.execute(text("SELECT pg_sleep(5)"))


async def test_a_transaction_that_sits_idle_is_ended_by_the_server(url: URL) -> None:
    async with Database(url, settings=Settings(idle_in_transaction_session_timeout=0.1)) as database:
        with pytest.raises(DatabaseUnavailable):
            await work_with_a_pause(database.service(), seconds=0.4)


async def work_with_a_pause(service: Service, *, seconds: float) -> None:
    async with service.session() as session:
        await session.execute(text("SELECT 1"))
        await asyncio.sleep(seconds)
        await session.execute(text("SELECT 1"))


async def test_a_pool_without_a_free_connection_is_unavailable(url: URL) -> None:
    settings = Settings(pool_size=1, max_overflow=0, pool_timeout=0.1)
    async with Database(url, settings=settings) as database, database.service().session() as session:
        await session.execute(text("SELECT 1"))
        with pytest.raises(DatabaseUnavailable, match="pool_size"):
            await shown(database, "jit")


async def test_a_schema_without_tables_says_to_migrate(llmstack_database: Database) -> None:
    with pytest.raises(DatabaseBehind, match="llmstack migrate"):
        async with llmstack_database.service(schema="empty").session() as session:
            await session.scalars(select(CorpusStatistics))


async def test_an_error_that_we_do_not_know_passes_through(llmstack_database: Database) -> None:
    with pytest.raises(DBAPIError, match="division by zero"):
        async with llmstack_database.service().session() as session:
            await session.execute(text("SELECT 1/0"))


async def test_a_value_of_the_wrong_type_is_no_broken_connection(llmstack_database: Database) -> None:
    with pytest.raises(DBAPIError, match="invalid input"):
        async with llmstack_database.service().session() as session:
            await session.execute(text("SELECT CAST(:value AS int)"), {"value": "abc"})


async def test_a_killed_connection_is_unavailable_and_the_next_one_works(llmstack_database: Database) -> None:
    service = llmstack_database.service()
    with pytest.raises(DatabaseUnavailable):
        async with service.session() as session:
            await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert await shown(llmstack_database, "jit") == "off"


async def kill_others(database: Database) -> int:
    """End every connection of the pool but this one, as a restart of the server does."""
    engine = create_async_engine(database.engine.url, poolclass=NullPool)
    async with engine.connect() as connection:
        others = text(
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return await connection.scalar(others) or 0


@pytest.mark.parametrize("single_statements", [False, True])
async def test_a_read_survives_the_loss_of_every_connection_of_the_pool(
    llmstack_database: Database, single_statements: bool
) -> None:
    service = llmstack_database.service()

    async def one(session: AsyncSession) -> Any:
        return await session.scalar(text("SELECT pg_sleep(0.05)::text || '1'"))

    await asyncio.gather(*(service.read(one) for _ in range(4)))
    assert await kill_others(llmstack_database) >= 4
    found = await asyncio.gather(*(service.read(one, single_statements=single_statements) for _ in range(4)))
    assert found == ["1"] * 4


async def test_a_read_is_repeated_once_alone_and_never_for_another_reason(llmstack_database: Database) -> None:
    service = llmstack_database.service()
    calls: list[str] = []

    async def broken(session: AsyncSession) -> None:
        calls.append("broken")
        await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    async def wrong(session: AsyncSession) -> None:
        calls.append("wrong")
        await session.execute(text("SELECT 1/0"))

    with pytest.raises(DatabaseUnavailable):
        await service.read(broken)
    with pytest.raises(DBAPIError, match="division by zero"):
        await service.read(wrong)
    assert calls == ["broken", "broken", "wrong"]


@pytest.mark.parametrize("schema", ["Mixed Case", "select", "a.b", "größe", "x" * 63, "v$1-2"])
async def test_any_allowed_schema_name_works_on_the_server(llmstack_database: Database, schema: str) -> None:
    service = llmstack_database.service(schema=schema)
    async with service.engine.begin() as connection:
        await connection.execute(CreateSchema(schema))
        await connection.execute(CreateTable(CorpusStatistics.__table__))  # type: ignore[arg-type]
    async with service.session() as session:
        assert list(await session.scalars(select(CorpusStatistics))) == []
        place = await session.scalar(text("SELECT schemaname FROM pg_tables WHERE schemaname = :s"), {"s": schema})
        assert place == schema


async def test_a_reader_refuses_to_write(llmstack_database: Database) -> None:
    async with llmstack_database.service().reader() as session:
        session.add(CorpusStatistics(corpus="c", row_count=1, average_length=1.0, sampled_share=1.0))
        with pytest.raises(DBAPIError, match="read-only transaction"):
            await session.commit()
    async with llmstack_database.service().session() as session:
        assert await session.scalar(text("SHOW transaction_read_only")) == "off"


async def test_a_reader_works_on_the_replica_that_the_settings_name(url: URL) -> None:
    replica = url.set(query={**url.query, "application_name": "replica"})
    settings = Settings(reader_url=SecretStr(replica.render_as_string(hide_password=False)))
    async with Database(url, settings=settings) as database:
        async with database.service().reader() as session:
            assert await session.scalar(text("SHOW application_name")) == "replica"
            assert await session.scalar(text("SHOW transaction_read_only")) == "on"
        assert await shown(database, "application_name") == "llmstack"


async def test_a_single_statement_needs_no_transaction(llmstack_database: Database) -> None:
    async with llmstack_database.service().single_statements() as session:
        session.add(CorpusStatistics(corpus="c", row_count=1, average_length=1.0, sampled_share=1.0))
        await session.flush()
        async with llmstack_database.service().session() as other:
            assert await other.get(CorpusStatistics, "c") is not None
