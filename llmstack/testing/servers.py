"""The server and the databases behind the fixtures."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from ..db import Database, embedded
from ..db.schemas import quote
from ..db.translate import translating
from ..db.urls import engine_arguments, parse_url
from ..settings import Settings

_SERVER_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
}


def run_apart(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end on a loop in another thread, whatever loop this thread has."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        executor.submit(asyncio.run, work).result()


@contextlib.contextmanager
def temporary_server() -> Iterator[str]:
    """A fresh embedded server that forgets everything, without the guarantees that cost time."""
    version = int(os.environ.get("LLMSTACK_TEST_POSTGRES_VERSION", "18"))
    with tempfile.TemporaryDirectory(prefix="llmstack-test-") as folder:
        data_dir = Path(folder) / "data"
        server = embedded.start(data_dir, version=version, announce=False)
        try:
            run_apart(
                execute(
                    server.url,
                    *(f"ALTER SYSTEM SET {key} = {value}" for key, value in _SERVER_SETTINGS.items()),
                )
            )
            # max_connections is read at the start.
            server.release()
            server = embedded.start(data_dir, version=version, announce=False)
            yield server.url
        finally:
            server.release()


async def execute(url: str, *statements: str) -> None:
    """Run statements that may not be inside a transaction, such as CREATE DATABASE."""
    target, arguments = engine_arguments(url, Settings(), pooled=False)
    engine = create_async_engine(target, poolclass=NullPool, isolation_level="AUTOCOMMIT", **arguments)
    try:
        with translating():
            async with engine.connect() as connection:
                for statement in statements:
                    await connection.exec_driver_sql(statement)
    finally:
        await engine.dispose()


def unique_name() -> str:
    """A database name that no parallel run of tests has."""
    return f"llmstack_test_{uuid4().hex}"


def open_database(url: str, name: str) -> Database:
    """A Database on one database of the server, with the settings of the environment but its places."""
    return Database(parse_url(url).set(database=name), settings=Settings(database_url=None, reader_url=None))


async def create_template(url: str, name: str) -> None:
    """Create a database and migrate the schema of the settings in it."""
    from ..db import migrate

    await execute(url, f"CREATE DATABASE {quote(name)}")
    async with open_database(url, name) as database:
        await migrate.upgrade(database.engine, schema=database.settings.schema_name, settings=database.settings)


async def create_copy(url: str, name: str, *, template: str) -> None:
    """Create a database that holds what the template holds."""
    await execute(url, f"CREATE DATABASE {quote(name)} TEMPLATE {quote(template)}")


async def drop(url: str, name: str) -> None:
    """Drop a database, closing whatever is still connected to it."""
    await execute(url, f"DROP DATABASE IF EXISTS {quote(name)} WITH (FORCE)")
