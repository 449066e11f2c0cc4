from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from migration_support import alembic, catalog, empty_database, execute, finished, make_engine
from sqlalchemy.ext.asyncio import AsyncEngine

from llmstack.db import migrate
from llmstack.errors import DatabaseNewer


@pytest.fixture
async def url(llmstack_server_url: str) -> AsyncIterator[str]:
    async with empty_database(llmstack_server_url) as created:
        yield created


@pytest.fixture
async def newer(url: str) -> AsyncEngine:
    """A database that a later version of the package has migrated further."""
    engine = make_engine(url)
    await migrate.upgrade(engine, schema="shop")
    await execute(
        engine, "DELETE FROM shop.alembic_version", "INSERT INTO shop.alembic_version VALUES ('documents_9999')"
    )
    return engine


async def test_every_verb_says_that_the_database_is_newer_and_changes_nothing(newer: AsyncEngine) -> None:
    before = await catalog(newer, "shop")
    for work in (
        migrate.status(newer, schema="shop"),
        migrate.upgrade(newer, schema="shop"),
        migrate.upgrade(newer, schema="shop", target="kernel@head"),
        migrate.downgrade(newer, schema="shop", target="base"),
        migrate.check(newer, schema="shop"),
    ):
        with pytest.raises(DatabaseNewer, match="documents_9999, which this version of llmstack does not know"):
            await work
    assert await catalog(newer, "shop") == before


@pytest.mark.parametrize("arguments", [("upgrade", "heads"), ("upgrade", "documents@head"), ("check",), ("current",)])
async def test_alembic_says_it_in_one_line_without_a_traceback(
    url: str, newer: AsyncEngine, arguments: tuple[str, ...]
) -> None:
    status, output, errors = await asyncio.to_thread(finished, alembic(*arguments, url=url, schema="shop"))
    assert status != 0
    assert "FAILED: schema 'shop' holds documents_9999" in output
    assert "upgrade the package before using this database" in output
    assert "Traceback" not in output + errors


async def test_one_newer_schema_among_several_is_named(newer: AsyncEngine) -> None:
    outcomes = await migrate.upgrade_many(newer, schemas=["a", "shop", "b"])
    assert [type(outcome.error) for outcome in outcomes] == [type(None), DatabaseNewer, type(None)]
