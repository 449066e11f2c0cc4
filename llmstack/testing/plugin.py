"""The pytest plugin: a real PostgreSQL, migrated once, copied for every test that asks for it.

`LLMSTACK_TEST_DATABASE_URL` names a server to use; without it an embedded PostgreSQL of the version in
`LLMSTACK_TEST_POSTGRES_VERSION` (18) starts with the first test that needs one and is deleted at the end.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ..db import Database, Service


def _async_fixture(function: Callable[..., AsyncIterator[Any]]) -> Any:
    try:
        import pytest_asyncio
    except ImportError:
        name = function.__name__

        def explain() -> None:
            pytest.fail(f"the fixture {name!r} needs pytest-asyncio: pip install pytest-asyncio")

        return pytest.fixture(explain, name=name)
    return pytest_asyncio.fixture(function)


@pytest.fixture(scope="session")
def llmstack_server_url() -> Iterator[str]:
    """The URL of a server on which tests may create databases."""
    if url := os.environ.get("LLMSTACK_TEST_DATABASE_URL"):
        yield url
        return
    from .servers import temporary_server

    with temporary_server() as started:
        yield started


@pytest.fixture(scope="session")
def llmstack_template(llmstack_server_url: str) -> Iterator[str]:
    """The name of a database that is migrated once; copy it, never connect to it."""
    from . import servers

    name = servers.unique_name()
    try:
        servers.run_apart(servers.create_template(llmstack_server_url, name))
        yield name
    finally:
        servers.run_apart(servers.drop(llmstack_server_url, name))


@_async_fixture
async def llmstack_database(llmstack_server_url: str, llmstack_template: str) -> AsyncIterator[Database]:
    """A Database on a fresh copy of the template; fails the test that leaves a connection checked out."""
    from sqlalchemy.pool import QueuePool

    from . import servers

    name = servers.unique_name()
    await servers.create_copy(llmstack_server_url, name, template=llmstack_template)
    database = servers.open_database(llmstack_server_url, name)
    try:
        yield database
        pool = database.engine.pool
        leaked = pool.checkedout() if isinstance(pool, QueuePool) else 0
    finally:
        await database.close()
        await servers.drop(llmstack_server_url, name)
    if leaked:
        pytest.fail(f"the test left {leaked} connection(s) checked out of the pool")


@pytest.fixture
def llmstack_service(llmstack_database: Database) -> Service:
    """The service of the migrated schema."""
    return llmstack_database.service()


@_async_fixture
async def llmstack_session(llmstack_service: Service) -> AsyncIterator[AsyncSession]:
    """A session whose work is rolled back after the test, even what the test committed."""
    from sqlalchemy.ext.asyncio import AsyncSession

    async with llmstack_service.engine.connect() as connection:
        transaction = await connection.begin()
        session = AsyncSession(connection, expire_on_commit=False, join_transaction_mode="create_savepoint")
        try:
            yield session
        finally:
            await session.close()
            if transaction.is_active:
                await transaction.rollback()
