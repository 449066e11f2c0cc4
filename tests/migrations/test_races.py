from __future__ import annotations

import asyncio
import contextlib

import pytest
from migration_support import (
    REVISIONS,
    alembic,
    catalog,
    execute,
    fetch,
    finished,
    make_engine,
    role,
    until,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from llmstack.db import migrate
from llmstack.db.locks import lock_key, migration_lock
from llmstack.db.migration_session import driver_connection
from llmstack.errors import ConfigurationError, MigrationError, MigrationLockTimeout
from llmstack.settings import Settings

PROCESSES, ROUNDS = 16, 5
IMPATIENT = Settings(migration_lock_timeout=0.3)


async def test_sixteen_processes_at_once_apply_each_revision_once(url: str, engine: AsyncEngine) -> None:
    for number in range(ROUNDS):
        schema = f"Round {number}"
        racers = [alembic("upgrade", "heads", url=url, schema=schema) for _ in range(PROCESSES)]
        ends = [await asyncio.to_thread(finished, racer) for racer in racers]
        assert [status for status, _, _ in ends] == [0] * PROCESSES, [errors for _, _, errors in ends]
        for revision in REVISIONS:
            applied = sum(f"-> {revision}," in errors for _, _, errors in ends)
            assert applied == 1, revision
        assert all(module.pending == 0 for module in await migrate.status(engine, schema=schema))
    assert await catalog(engine, "Round 0") == await catalog(engine, f"Round {ROUNDS - 1}")


async def test_racing_schemas_in_one_process_all_arrive(engine: AsyncEngine) -> None:
    schemas = ["a", "b", "A", "a", "Svc A", "b"]
    changed = await asyncio.gather(*(migrate.upgrade(engine, schema=schema) for schema in schemas))
    assert sum(changed) == len(set(schemas))


async def test_a_waiter_that_times_out_says_who_holds_the_lock(url: str, engine: AsyncEngine) -> None:
    async with engine.connect() as holder:
        driver = await driver_connection(holder)
        await driver.execute("SET application_name = 'deploy 17'")
        async with migration_lock(driver, schema="shop", timeout_seconds=1):
            pid = await driver.fetchval("SELECT pg_backend_pid()")
            with pytest.raises(
                MigrationLockTimeout,
                match=f"pid {pid}, application_name 'deploy 17', connected since 20.*, last active 20",
            ):
                await migrate.upgrade(engine, schema="shop", settings=IMPATIENT)
            waiter = alembic("upgrade", "heads", url=url, schema="shop", LLMSTACK_MIGRATION_LOCK_TIMEOUT="0.2")
            status, output, errors = await asyncio.to_thread(finished, waiter)
    assert status != 0
    assert f"FAILED: waited 0.2 s for the migration of schema 'shop'; the lock is held by pid {pid}" in output
    assert "Traceback" not in errors
    assert await fetch(engine, "SELECT to_regnamespace('shop')") is None


async def test_a_waiter_of_another_role_still_learns_the_pid(llmstack_server_url: str, url: str) -> None:
    superuser = make_engine(url)
    async with (
        role(llmstack_server_url) as name,
        superuser.connect() as holder,
        superuser.connect() as waiter,
    ):
        ours, theirs = await driver_connection(holder), await driver_connection(waiter)
        await theirs.execute(f'SET SESSION AUTHORIZATION "{name}"')
        async with migration_lock(ours, schema="shop", timeout_seconds=1):
            with pytest.raises(MigrationLockTimeout, match=r"pid \d+, .* connected as another role"):
                await migration_lock(theirs, schema="shop", timeout_seconds=0).__aenter__()


async def test_a_waiter_reports_while_it_waits_and_goes_on_when_its_turn_comes(engine: AsyncEngine) -> None:
    heard: list[str] = []

    async def has_heard() -> bool:
        return bool(heard)

    async with engine.connect() as holder:
        driver = await driver_connection(holder)
        async with migration_lock(driver, schema="shop", timeout_seconds=1):
            waiting = asyncio.create_task(migrate.upgrade(engine, schema="shop", on_wait=heard.append))
            await until(has_heard)
    assert await waiting
    assert "waiting for the migration of schema 'shop'; the lock is held by pid" in heard[0]


_WAIT_IN_FIRST = """
CREATE FUNCTION public.wait_in_first() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT 1 FROM pg_event_trigger_ddl_commands() WHERE object_identity = 'first.term_statistics'
    ) THEN
        PERFORM pg_advisory_xact_lock(4711);
    END IF;
END $$
"""


async def test_a_schema_does_not_wait_for_another(url: str, engine: AsyncEngine) -> None:
    await execute(
        engine,
        _WAIT_IN_FIRST,
        "CREATE EVENT TRIGGER waits ON ddl_command_end WHEN TAG IN ('CREATE TABLE') "
        "EXECUTE FUNCTION public.wait_in_first()",
    )

    async def is_inside_a_revision() -> bool:
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = 4711"
        return bool(await fetch(engine, waiting))

    async with engine.connect() as gate:
        await gate.exec_driver_sql("SELECT pg_advisory_lock(4711)")
        first = alembic("upgrade", "heads", url=url, schema="first", LLMSTACK_DDL_LOCK_TIMEOUT="60")
        await until(is_inside_a_revision)
        for schema in ("second", "First"):
            other = alembic("upgrade", "heads", url=url, schema=schema, LLMSTACK_MIGRATION_LOCK_TIMEOUT="0.3")
            status, _, errors = await asyncio.to_thread(finished, other)
            assert status == 0, errors
            assert all(module.pending == 0 for module in await migrate.status(engine, schema=schema))
        assert await is_inside_a_revision()
        await gate.exec_driver_sql("SELECT pg_advisory_unlock(4711)")
    status, _, errors = await asyncio.to_thread(finished, first)
    assert status == 0, errors
    assert await catalog(engine, "first") == await catalog(engine, "second")


async def test_already_at_head_is_answered_without_the_lock(url: str, engine: AsyncEngine) -> None:
    await migrate.upgrade(engine, schema="shop")
    async with (
        engine.connect() as holder,
        migration_lock(await driver_connection(holder), schema="shop", timeout_seconds=1),
    ):
        for target in ("heads", "documents@head", "kernel_0001"):
            assert not await migrate.upgrade(engine, schema="shop", target=target, settings=IMPATIENT)
        upgrade = alembic("upgrade", "heads", url=url, schema="shop", LLMSTACK_MIGRATION_LOCK_TIMEOUT="0")
        status, _, errors = await asyncio.to_thread(finished, upgrade)
        assert status == 0, errors


async def test_the_lock_is_held_outside_any_transaction(engine: AsyncEngine) -> None:
    async with engine.connect() as holder, engine.connect() as observer:
        driver = await driver_connection(holder)
        async with migration_lock(driver, schema="shop", timeout_seconds=1):
            pid = await driver.fetchval("SELECT pg_backend_pid()")
            state = await observer.exec_driver_sql(f"SELECT state FROM pg_stat_activity WHERE pid = {pid}")
            assert state.scalar() == "idle"


async def test_a_lock_that_was_lost_while_held_is_an_error(engine: AsyncEngine) -> None:
    async with engine.connect() as holder:
        driver = await driver_connection(holder)
        with pytest.raises(MigrationError, match="was lost while it was held"):
            async with migration_lock(driver, schema="shop", timeout_seconds=1):
                await driver.execute("SELECT pg_advisory_unlock_all()")


async def test_a_holder_that_lost_its_connection_is_told_and_the_next_one_may_begin(
    engine: AsyncEngine,
) -> None:
    async def lose_the_connection() -> None:
        async with engine.connect() as holder:
            driver = await driver_connection(holder)

            async def is_closed() -> bool:
                return bool(driver.is_closed())

            async with migration_lock(driver, schema="shop", timeout_seconds=1):
                pid = await driver.fetchval("SELECT pg_backend_pid()")
                await fetch(engine, f"SELECT pg_terminate_backend({pid})")
                await until(is_closed)

    with pytest.raises(MigrationError, match="was lost while it was held"):
        await lose_the_connection()
    assert await migrate.upgrade(engine, schema="shop", settings=IMPATIENT)


async def test_an_error_in_the_body_is_not_hidden_by_the_unlock(engine: AsyncEngine) -> None:
    async def fail_in_a_broken_transaction() -> None:
        async with engine.connect() as holder:
            driver = await driver_connection(holder)
            async with migration_lock(driver, schema="shop", timeout_seconds=1):
                await driver.execute("BEGIN")
                with contextlib.suppress(Exception):
                    await driver.execute("SELECT 1/0")
                raise RuntimeError("the reason")

    with pytest.raises(RuntimeError, match="the reason"):
        await fail_in_a_broken_transaction()


async def test_a_cancelled_migration_gives_the_lock_back(engine: AsyncEngine) -> None:
    migration = asyncio.create_task(migrate.upgrade(engine, schema="shop"))

    async def has_begun() -> bool:
        return await fetch(engine, "SELECT to_regnamespace('shop')") is not None

    await until(has_begun)
    migration.cancel()
    with pytest.raises(asyncio.CancelledError):
        await migration
    patient = Settings(migration_lock_timeout=5)
    await migrate.upgrade(engine, schema="shop", settings=patient)
    assert all(module.pending == 0 for module in await migrate.status(engine, schema="shop"))


@pytest.mark.parametrize("schema", ["MixedCase", "Svc A", "größe", "a.b", "x" * 63, "select"])
async def test_a_schema_may_have_any_ordinary_name(engine: AsyncEngine, schema: str) -> None:
    assert await migrate.upgrade(engine, schema=schema)
    await migrate.check(engine, schema=schema)
    assert not await migrate.upgrade(engine, schema=schema)


@pytest.mark.parametrize("schema", ['x"; DROP SCHEMA public; --', "x;y", "pg_toast", "x" * 64, "", " x", "1x", "a,b"])
@pytest.mark.parametrize("target", ["heads", "documents@head"])
async def test_an_attack_or_a_reserved_name_is_refused_before_anything_is_made(
    engine: AsyncEngine, schema: str, target: str
) -> None:
    before = await fetch(engine, "SELECT count(*) FROM pg_namespace")
    with pytest.raises(ConfigurationError, match="schema name"):
        await migrate.upgrade(engine, schema=schema, target=target)
    assert await fetch(engine, "SELECT count(*) FROM pg_namespace") == before


async def test_the_key_is_signed_and_differs_by_database_and_schema() -> None:
    keys = {lock_key(database=database, schema=schema) for database in "ab" for schema in ("x", "X", "y", "Svc A")}
    assert len(keys) == 8
    assert all(-(2**63) <= key < 2**63 for key in keys)
    assert any(key < 0 for key in keys)
