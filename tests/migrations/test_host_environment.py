from __future__ import annotations

import asyncio
import configparser
from pathlib import Path

import pytest
from alembic.util.pyfiles import coerce_resource_to_filename
from migration_support import alembic, catalog, execute, fetch, fill, finished
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from llmstack.db import migrate
from llmstack.db.history import scripts
from llmstack.errors import MigrationError

HOST = Path(__file__).parent / "host_project"


async def host(*arguments: str, url: str) -> str:
    target = make_url(url).set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)
    process = alembic(*arguments, url=url, cwd=HOST, SHOP_DATABASE_URL=target)
    status, output, errors = await asyncio.to_thread(finished, process)
    if status != 0:
        pytest.fail(f"{output}\n{errors}")
    return output


async def test_one_upgrade_of_the_host_migrates_its_tables_and_ours(url: str, engine: AsyncEngine) -> None:
    await host("upgrade", "heads", url=url)
    await migrate.upgrade(engine, schema="ours")
    hosted, ours = await catalog(engine, "llmstack"), await catalog(engine, "ours")
    for kind in ours:
        assert hosted[kind] == [row for row in ours[kind] if row[0] != "alembic_version"]
    await fill(engine, "llmstack")
    await execute(engine, "INSERT INTO public.products (id, manual_id) SELECT 1, id FROM llmstack.documents")
    # The host's own head, which depends on an older revision of ours, stands beside our heads.
    heads = len(scripts().get_revisions("heads"))
    assert await fetch(engine, "SELECT count(*) FROM public.alembic_version") == heads + 1


async def test_the_hosts_autogenerate_wants_nothing_of_ours(url: str, engine: AsyncEngine) -> None:
    await host("upgrade", "heads", url=url)
    assert "No new upgrade operations detected" in await host("check", url=url)
    await execute(engine, "DROP TABLE public.products")
    process = alembic(
        "check", url=url, cwd=HOST,
        SHOP_DATABASE_URL=make_url(url).set(drivername="postgresql+asyncpg").render_as_string(hide_password=False),
    )  # fmt: skip
    status, output, errors = await asyncio.to_thread(finished, process)
    assert status != 0
    assert "products" in output + errors


async def test_our_check_wants_nothing_of_the_hosts(url: str, engine: AsyncEngine) -> None:
    await migrate.upgrade(engine, schema="llmstack")
    await execute(
        engine,
        "CREATE TABLE public.products (id integer, manual_id uuid REFERENCES llmstack.documents)",
        "CREATE TABLE llmstack.products (id integer, manual_id uuid REFERENCES llmstack.documents)",
    )
    await migrate.check(engine, schema="llmstack")


async def test_the_hosts_downgrade_takes_ours_along_and_comes_up_again(url: str, engine: AsyncEngine) -> None:
    await host("upgrade", "heads", url=url)
    await host("downgrade", "base", url=url)
    left = await fetch(
        engine, "SELECT string_agg(tablename, ' ') FROM pg_tables WHERE schemaname IN ('public', 'llmstack')"
    )
    assert left == "alembic_version"
    await host("upgrade", "heads", url=url)
    assert "No new upgrade operations detected" in await host("check", url=url)


async def test_our_own_upgrade_of_a_schema_that_the_host_keeps_is_refused(url: str, engine: AsyncEngine) -> None:
    await host("upgrade", "heads", url=url)
    before = await catalog(engine, "llmstack")
    with pytest.raises(MigrationError, match="if a host's Alembic environment keeps them, run that"):
        await migrate.upgrade(engine, schema="llmstack")
    assert await catalog(engine, "llmstack") == before


async def test_a_host_that_keeps_its_version_table_in_our_schema_may_open_the_stack_as_usual(
    engine: AsyncEngine,
) -> None:
    await migrate.upgrade(engine, schema="llmstack")
    await execute(engine, "INSERT INTO llmstack.alembic_version VALUES ('ae1027a6acf')")
    assert not await migrate.upgrade(engine, schema="llmstack")
    assert all(module.pending == 0 for module in await migrate.status(engine, schema="llmstack"))


def test_the_hosts_ini_names_every_folder_of_ours() -> None:
    ini = configparser.ConfigParser({"here": str(HOST)})
    ini.read(HOST / "alembic.ini")
    listed = ini["alembic"]["version_locations"].split()
    assert [Path(coerce_resource_to_filename(line)) for line in listed[1:]] == [
        Path(folder) for folder in migrate.version_locations()
    ]
