from __future__ import annotations

import asyncio

import pytest
from migration_support import alembic, catalog, execute, fetch, finished, run_alembic
from sqlalchemy.ext.asyncio import AsyncEngine

from llmstack.db import migrate
from llmstack.db.autogenerate import target_metadata
from llmstack.errors import MigrationError


async def occupy(engine: AsyncEngine, schema: str) -> None:
    """Put a host's table with a row under every name of ours, and a host's version table."""
    for table in target_metadata(None).tables:
        await execute(
            engine,
            f"CREATE TABLE {schema}.{table} (id integer PRIMARY KEY, owner_id text)",
            f"INSERT INTO {schema}.{table} VALUES (1, 'host')",
        )
    await execute(
        engine,
        f"CREATE TABLE {schema}.alembic_version (version_num varchar(32) PRIMARY KEY)",
        f"INSERT INTO {schema}.alembic_version VALUES ('ae1027a6acf')",
        f"CREATE FUNCTION {schema}.owner_lexeme(text) RETURNS text LANGUAGE sql RETURN 'host'",
    )


async def rows(engine: AsyncEngine, schema: str) -> list[str]:
    names = [*target_metadata(None).tables, "alembic_version"]
    return [await fetch(engine, f"SELECT xmin::text || t::text FROM {schema}.{name} t") for name in names]


async def test_a_table_of_the_same_name_in_public_is_never_touched(url: str, engine: AsyncEngine) -> None:
    await occupy(engine, "public")
    # The extension adds functions of its own to public.
    await execute(engine, "CREATE EXTENSION vector")
    before, held = await catalog(engine, "public"), await rows(engine, "public")
    await migrate.upgrade(engine, schema="shop")
    await migrate.check(engine, schema="shop")
    await asyncio.to_thread(run_alembic, "-x", "schema=shop", "downgrade", "base", url=url)
    await migrate.upgrade(engine, schema="shop")
    await migrate.downgrade(engine, schema="shop", target="kernel@base")
    assert await catalog(engine, "public") == before
    assert await rows(engine, "public") == held


async def test_a_missing_table_is_not_taken_for_the_one_in_public(engine: AsyncEngine) -> None:
    await execute(engine, "CREATE TABLE public.chunk_embedding_jobs (id integer)")
    await migrate.upgrade(engine, schema="shop", target="embeddings@head")
    await migrate.downgrade(engine, schema="shop", target="embeddings@base")
    assert await fetch(engine, "SELECT to_regclass('public.chunk_embedding_jobs')") is not None


async def test_two_schemas_share_a_database_and_neither_sees_the_other(engine: AsyncEngine) -> None:
    await migrate.upgrade_many(engine, schemas=["a", "b"])
    before = await catalog(engine, "b")
    await migrate.downgrade(engine, schema="a", target="base")
    assert await catalog(engine, "b") == before
    await migrate.check(engine, schema="b")


async def test_a_version_table_of_others_is_refused_before_anything_is_made(engine: AsyncEngine) -> None:
    await execute(engine, "CREATE EXTENSION vector")
    await execute(
        engine,
        "CREATE TABLE public.alembic_version (version_num varchar(32) PRIMARY KEY)",
        "INSERT INTO public.alembic_version VALUES ('ae1027a6acf')",
    )
    before = await catalog(engine, "public")
    for work in (
        migrate.upgrade(engine, schema="public"),
        migrate.downgrade(engine, schema="public", target="base"),
    ):
        with pytest.raises(MigrationError, match="ae1027a6acf, which are not llmstack's"):
            await work
    assert await catalog(engine, "public") == before


async def test_tables_without_a_record_are_refused_and_can_be_stamped(url: str, engine: AsyncEngine) -> None:
    await migrate.upgrade(engine, schema="shop")
    await execute(engine, "DROP TABLE shop.alembic_version")
    with pytest.raises(MigrationError, match="no record of their revisions"):
        await migrate.upgrade(engine, schema="shop")
    await asyncio.to_thread(run_alembic, "stamp", "heads", url=url, schema="shop")
    assert not await migrate.upgrade(engine, schema="shop")
    await migrate.check(engine, schema="shop")


RELATIONS = "SELECT count(*) FROM pg_class WHERE relnamespace = 'shop'::regnamespace"


@pytest.mark.parametrize(
    "made", ["TABLE shop.documents (id integer)", "VIEW shop.embedding_spaces AS SELECT 1", "SEQUENCE shop.chunks"]
)
async def test_a_strangers_relation_is_refused_before_anything_is_made(
    url: str, engine: AsyncEngine, made: str
) -> None:
    await execute(engine, "CREATE SCHEMA shop", f"CREATE {made}")
    name = made.split()[1].removeprefix("shop.")
    with pytest.raises(MigrationError, match=f"schema 'shop' already holds {name}, which .* did not make"):
        await migrate.upgrade(engine, schema="shop")
    status, _, errors = await asyncio.to_thread(finished, alembic("-x", "schema=shop", "upgrade", "heads", url=url))
    assert status != 0
    assert "already holds" in errors
    assert "static SQL" not in errors
    assert await fetch(engine, RELATIONS) == 1
    # A part of the house that it is not in the way of can be made, and the rest once it is gone.
    await migrate.upgrade(engine, schema="shop", target="kernel@head")
    with pytest.raises(MigrationError, match="already holds"):
        await migrate.upgrade(engine, schema="shop")
    await execute(engine, f"ALTER {made.split()[0]} shop.{name} RENAME TO theirs")
    assert await migrate.upgrade(engine, schema="shop")
