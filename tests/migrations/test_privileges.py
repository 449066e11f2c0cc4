from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from migration_support import catalog, database_url, execute, fetch, fill, make_engine, role
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine

from llmstack.db import Database, TermStatistics, migrate
from llmstack.db.extension import require_version
from llmstack.db.models import CorpusStatistics
from llmstack.errors import MigrationError
from llmstack.settings import Settings


@pytest.fixture
async def app(llmstack_server_url: str, url: str, engine: AsyncEngine) -> AsyncIterator[str]:
    """A role with no privilege but to connect; what it comes to own is dropped."""
    async with role(llmstack_server_url) as name:
        yield name
        await execute(engine, f'DROP OWNED BY "{name}" CASCADE')


def as_role(url: str, name: str) -> str:
    return database_url(url, str(make_url(url).database), role=name)


async def test_a_role_that_may_not_create_the_extension_is_told_what_to_run(
    url: str, engine: AsyncEngine, app: str
) -> None:
    with pytest.raises(
        MigrationError, match=r'run once as a superuser: CREATE EXTENSION .* vector WITH SCHEMA "public"'
    ):
        await migrate.upgrade(make_engine(as_role(url, app)), schema="shop")
    assert await fetch(engine, "SELECT to_regnamespace('shop')") is None


async def test_a_role_that_may_create_schemas_migrates_once_the_extension_is_there(
    url: str, engine: AsyncEngine, app: str
) -> None:
    await execute(engine, "CREATE EXTENSION vector", f'GRANT CREATE ON DATABASE "{engine.url.database}" TO "{app}"')
    mine = make_engine(as_role(url, app))
    assert await migrate.upgrade(mine, schema="shop")
    await migrate.check(mine, schema="shop")
    await migrate.downgrade(mine, schema="shop", target="base")


async def test_a_role_that_may_create_no_schema_is_told_so(url: str, engine: AsyncEngine, app: str) -> None:
    await execute(engine, "CREATE EXTENSION vector")
    with pytest.raises(MigrationError, match=r"permission denied for database .*run the migration as the owner"):
        await migrate.upgrade(make_engine(as_role(url, app)), schema="shop")


@pytest.mark.parametrize("place", ["extensions", "Ext 1"])
async def test_an_extension_in_another_schema_is_found_there(engine: AsyncEngine, place: str) -> None:
    await migrate.upgrade(engine, schema="plain")
    usual = await catalog(engine, "plain")
    await migrate.downgrade(engine, schema="plain", target="base")
    await execute(
        engine,
        "DROP EXTENSION vector",
        f'CREATE SCHEMA "{place}"',
        f'CREATE EXTENSION vector SCHEMA "{place}"',
    )
    await migrate.upgrade(engine, schema="shop")
    await migrate.check(engine, schema="shop")
    assert {kind: len(rows) for kind, rows in (await catalog(engine, "shop")).items()} == {
        kind: len(rows) for kind, rows in usual.items()
    }


async def test_the_extension_is_created_where_the_settings_say(engine: AsyncEngine) -> None:
    settings = Settings(extension_schema="extensions")
    assert await migrate.upgrade(engine, schema="shop", settings=settings)
    place = "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'"
    assert await fetch(engine, place) == "extensions"
    await migrate.check(engine, schema="shop", settings=settings)


@pytest.mark.parametrize("version", ["0.7.4", "0.5", "0.4.4"])
def test_an_old_extension_is_refused_with_the_way_out(version: str) -> None:
    with pytest.raises(MigrationError, match=rf"is {version}, .*ALTER EXTENSION vector UPDATE"):
        require_version(version)


@pytest.mark.parametrize("version", ["0.8.0", "0.8.1", "0.10.0", "1.0", "0.9"])
def test_a_newer_extension_is_welcome(version: str) -> None:
    require_version(version)


@pytest.mark.parametrize("place", ["public", "extensions"])
async def test_a_role_with_the_grants_works_with_rows_and_changes_no_table(
    url: str, engine: AsyncEngine, app: str, place: str
) -> None:
    await migrate.upgrade(engine, schema="Svc A", settings=Settings(extension_schema=place))
    await migrate.apply_grants(engine, schema="Svc A", role=app)
    async with Database(as_role(url, app), settings=Settings(extension_schema=place)) as database:
        async with database.service(schema="Svc A").session() as session:
            session.add(CorpusStatistics(corpus="chunks", row_count=1, average_length=1.0, sampled_share=1.0))
            await session.flush()
            session.add(TermStatistics(corpus="chunks", lexeme="hare", document_count=1))
            await session.commit()
            assert await session.get(TermStatistics, ("chunks", "hare")) is not None
        await execute(engine, 'TRUNCATE "Svc A".corpus_statistics, "Svc A".term_statistics')
        await fill(database.engine, "Svc A")
        assert all(row.pending == 0 for row in await migrate.status(database.engine, schema="Svc A"))
        for forbidden in (
            'CREATE TABLE "Svc A".mine (id integer)',
            'ALTER TABLE "Svc A".documents ADD COLUMN mine integer',
            'DROP TABLE "Svc A".chunk_embedding_jobs',
            'TRUNCATE "Svc A".chunks',
            "UPDATE \"Svc A\".alembic_version SET version_num = 'x'",
        ):
            with pytest.raises(ProgrammingError, match=r"permission denied|must be owner"):
                await execute(database.engine, forbidden)


async def test_the_printed_grants_are_those_that_are_applied(engine: AsyncEngine, app: str) -> None:
    await migrate.upgrade(engine, schema="shop")
    await execute(engine, *migrate.grants_sql(schema="shop", role=app).splitlines())
    assert await fetch(engine, f"SELECT has_table_privilege('{app}', 'shop.documents', 'INSERT')")
    assert not await fetch(engine, f"SELECT has_table_privilege('{app}', 'shop.alembic_version', 'INSERT')")


async def test_rows_of_tables_that_come_later_are_granted_too(engine: AsyncEngine, app: str) -> None:
    await migrate.upgrade(engine, schema="shop", target="kernel@head")
    await migrate.apply_grants(engine, schema="shop", role=app)
    await migrate.upgrade(engine, schema="shop")
    assert await fetch(engine, f"SELECT has_table_privilege('{app}', 'shop.documents', 'INSERT')")


async def test_functions_that_come_later_are_granted_too(engine: AsyncEngine, app: str) -> None:
    await execute(engine, "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
    await migrate.upgrade(engine, schema="shop", target="kernel_0002")
    await migrate.apply_grants(engine, schema="shop", role=app)
    await migrate.upgrade(engine, schema="shop")
    allowed = f"bool_and(has_function_privilege('{app}', oid, 'EXECUTE'))"
    assert await fetch(engine, f"SELECT {allowed} FROM pg_proc WHERE pronamespace = 'shop'::regnamespace")


async def test_a_role_that_does_not_exist_or_is_an_attack_is_refused(engine: AsyncEngine) -> None:
    await migrate.upgrade(engine, schema="shop")
    for name in ("nobody at all", 'x"; DROP SCHEMA shop CASCADE; --', 'x";\nDROP SCHEMA shop CASCADE;--'):
        with pytest.raises(MigrationError, match="the grants were refused"):
            await migrate.apply_grants(engine, schema="shop", role=name)
    await migrate.check(engine, schema="shop")
