from __future__ import annotations

import asyncio
import functools
import random
import time

import pytest
from migration_support import (
    alembic,
    catalog,
    execute,
    fetch,
    finished,
    until,
)
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from llmstack.db import Database, migrate
from llmstack.errors import DatabaseError, DatabaseUnavailable, MigrationError
from llmstack.settings import Settings

MOMENTS = 10


async def test_a_migration_killed_at_any_moment_is_completed_by_the_next_run(url: str, engine: AsyncEngine) -> None:
    duration = await seconds_of_a_migration(url, engine)
    clean, head = await catalog(engine, "clean"), await recorded(engine, "clean")
    moments = random.Random(7)
    interrupted = []
    for number in range(MOMENTS):
        schema = f"killed{number}"
        process = alembic("upgrade", "heads", url=url, schema=schema)
        await until(functools.partial(has_begun, engine, schema))
        # One moment in each tenth of a migration, from its first statement to its last.
        await asyncio.sleep((number + moments.random()) * duration / MOMENTS)
        process.kill()
        await asyncio.to_thread(process.communicate)
        interrupted.append(await recorded(engine, schema))
        await migrate.upgrade(engine, schema=schema)
        assert await catalog(engine, schema) == clean
    under_way = [stage for stage in interrupted if stage != head]
    assert len(under_way) >= MOMENTS // 3, interrupted
    assert len(set(interrupted)) > 1, "every kill came at the same stage"


async def seconds_of_a_migration(url: str, engine: AsyncEngine) -> float:
    """From the moment that the schema is there to the last revision, without the start of Python."""
    process = alembic("upgrade", "heads", url=url, schema="clean")
    await until(functools.partial(has_begun, engine, "clean"))
    started = time.monotonic()
    seen = {await recorded(engine, "clean"): 0.0}
    while process.poll() is None:
        seen.setdefault(await recorded(engine, "clean"), time.monotonic() - started)
    assert process.returncode == 0, finished(process)
    process.communicate()
    return max(seen.values())


async def has_begun(engine: AsyncEngine, schema: str) -> bool:
    return await fetch(engine, f"SELECT to_regnamespace('{schema}')") is not None


async def recorded(engine: AsyncEngine, schema: str) -> str | None:
    """The revisions that the schema stands at; None before the version table is there."""
    if await fetch(engine, f"SELECT to_regclass('{schema}.alembic_version')") is None:
        return None
    statement = f"SELECT string_agg(version_num, ' ' ORDER BY version_num) FROM {schema}.alembic_version"
    return str(await fetch(engine, statement))


@pytest.mark.parametrize(
    ("revision", "table"),
    [
        ("kernel_0001", "term_statistics"),
        ("embeddings_0001", "embedding_spaces"),
        ("documents_0001", "embedding_jobs"),
    ],
)
async def test_a_backend_that_dies_inside_a_revision_leaves_none_of_it(
    engine: AsyncEngine, revision: str, table: str
) -> None:
    await migrate.upgrade(engine, schema="clean")
    clean = await catalog(engine, "clean")
    await block(engine, table=table)
    migration = asyncio.create_task(migrate.upgrade(engine, schema="shop"))
    await terminate_the_sleeper(engine)
    with pytest.raises(DatabaseUnavailable):
        await migration
    assert revision not in {module.current for module in await migrate.status(engine, schema="shop")}
    assert table not in await tables_of(engine, "shop")
    await execute(engine, "DROP EVENT TRIGGER sleeper")
    await migrate.upgrade(engine, schema="shop")
    assert await catalog(engine, "shop") == clean


async def tables_of(engine: AsyncEngine, schema: str) -> set[str]:
    return {row[0] for row in (await catalog(engine, schema))["columns"]}


async def block(engine: AsyncEngine, *, table: str, seconds: float = 30) -> None:
    """Let a migration stand still right after it has created the table."""
    await execute(
        engine,
        f"""CREATE FUNCTION public.sleep_after_create() RETURNS event_trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF EXISTS (
                SELECT 1 FROM pg_event_trigger_ddl_commands() WHERE object_identity LIKE '%{table}'
            ) THEN
                PERFORM pg_sleep({seconds});
            END IF;
        END $$""",
        "CREATE EVENT TRIGGER sleeper ON ddl_command_end WHEN TAG IN ('CREATE TABLE') "
        "EXECUTE FUNCTION public.sleep_after_create()",
    )


async def terminate_the_sleeper(engine: AsyncEngine) -> None:
    statement = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE wait_event = 'PgSleep' AND datname = current_database()"
    )

    async def is_terminated() -> bool:
        async with engine.connect() as connection:
            return await connection.scalar(statement) is not None

    await until(is_terminated)


async def test_a_schema_dropped_between_two_revisions_is_explained_and_made_again(
    engine: AsyncEngine,
) -> None:
    await execute(engine, "CREATE EXTENSION vector")
    await block(engine, table="embedding_spaces")
    await execute(
        engine,
        """CREATE OR REPLACE FUNCTION public.sleep_after_create() RETURNS event_trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF EXISTS (
                SELECT 1 FROM pg_event_trigger_ddl_commands() WHERE object_identity LIKE '%.embedding_spaces'
            ) THEN
                DROP SCHEMA shop CASCADE;
            END IF;
        END $$""",
    )
    with pytest.raises(MigrationError, match=r"schema 'shop': .*run the migration again"):
        await migrate.upgrade(engine, schema="shop")
    await execute(engine, "DROP EVENT TRIGGER sleeper", "DROP SCHEMA IF EXISTS shop CASCADE")
    assert await migrate.upgrade(engine, schema="shop")
    await migrate.check(engine, schema="shop")


async def test_a_table_in_use_is_waited_for_shortly_and_then_explained(engine: AsyncEngine) -> None:
    await migrate.upgrade(engine, schema="shop")
    async with engine.begin() as reader:
        await reader.exec_driver_sql("SELECT count(*) FROM shop.documents")
        with pytest.raises(MigrationError, match="LLMSTACK_DDL_LOCK_TIMEOUT"):
            await migrate.downgrade(
                engine, schema="shop", target="documents@base", settings=Settings(ddl_lock_timeout=0.1)
            )
    # The newer revisions leave that table alone, and had gone when the first one met it in use.
    left = {module.module: module.current for module in await migrate.status(engine, schema="shop")}
    assert left["documents"] == "documents_0001"
    assert left["kernel"] is not None


async def test_timeouts_set_on_the_role_do_not_stop_a_slow_migration(url: str, engine: AsyncEngine) -> None:
    await block(engine, table="term_statistics", seconds=0.3)
    await execute(engine, f"ALTER DATABASE \"{engine.url.database}\" SET statement_timeout = '100ms'")
    host = create_async_engine(engine.url, poolclass=NullPool)
    assert await fetch(host, "SHOW statement_timeout") == "100ms"
    assert await migrate.upgrade(host, schema="shop")


async def test_a_read_only_server_is_named_as_such(url: str, engine: AsyncEngine) -> None:
    await execute(engine, f'ALTER DATABASE "{engine.url.database}" SET default_transaction_read_only = on')
    with pytest.raises(MigrationError, match="read-only transaction; migrate on the primary"):
        await migrate.upgrade(engine, schema="shop")
    status, output, errors = await asyncio.to_thread(finished, alembic("upgrade", "heads", url=url, schema="shop"))
    assert status != 0
    assert "FAILED: schema 'shop': " in output
    assert "Traceback" not in errors


async def test_a_server_that_is_not_there_is_said_without_a_traceback() -> None:
    process = alembic("upgrade", "heads", url="postgresql://nobody:hunter2@127.0.0.1:1/nowhere")
    status, output, errors = await asyncio.to_thread(finished, process)
    assert status != 0
    assert "FAILED: the database cannot be reached" in output
    assert "Traceback" not in errors
    assert "hunter2" not in output + errors


async def test_no_connection_and_no_setting_of_a_migration_stays_in_the_pool(url: str) -> None:
    async with Database(url, settings=Settings(pool_size=1, max_overflow=0)) as database:
        before = await settings_of(database.engine)
        await migrate.upgrade(database.engine, schema="shop")
        await migrate.check(database.engine, schema="shop")
        assert await settings_of(database.engine) == before
        with pytest.raises(DatabaseError):
            await migrate.upgrade(database.engine, schema="shop", target="nothing")
        assert await settings_of(database.engine) == before


async def settings_of(engine: AsyncEngine) -> list[str]:
    names = ("search_path", "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    return [await fetch(engine, f"SHOW {name}") for name in names]
