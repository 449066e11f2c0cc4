"""Migrations: one Alembic branch per module, one schema at a time, one process at a time.

Everything here runs on one direct connection: it takes the schema's advisory lock outside any transaction, then
runs each revision in a transaction of its own. Hosts may list `version_locations()` in their own environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from alembic import command, context
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from ..errors import DatabaseNewer, MigrationError
from ..settings import Settings
from .autogenerate import MODULES, configure_options
from .extension import ensure_extension
from .locks import migration_lock
from .revisions import EXTENSION_OPTION, SCHEMA_OPTION
from .schemas import qualified, quote, validate_schema

VERSION_TABLE = "alembic_version"
READ_ONLY_COMMANDS = frozenset({"branches", "check", "current", "heads", "history", "list_templates", "revision", "show"})

logger = logging.getLogger("llmstack.migrate")
# Alembic's `op` and `context` are process-wide proxies.
_alembic = threading.Lock()


@dataclass(frozen=True, slots=True)
class ModuleStatus:
    """Where one module stands in one schema; `pending` counts the revisions that are not applied."""

    module: str
    current: str | None
    head: str
    pending: int


def version_locations() -> list[str]:
    """The folders of our revisions, for a host's own `version_locations`."""
    package = Path(__file__).parent.parent
    return [str(package / folder / "migrations") for folder in MODULES.values()]


def alembic_config(*, output: TextIO | None = None) -> Config:
    """An Alembic configuration that works from a checkout and from a wheel alike."""
    config = Config(output_buffer=output, stdout=output or io.StringIO())
    config.set_main_option("script_location", str(Path(__file__).parent / "alembic_env").replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(version_locations()).replace("%", "%%"))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(alembic_config())


def _lineage(scripts: ScriptDirectory, revisions: Iterable[str]) -> set[str]:
    """The revisions and everything below them, along both `down_revision` and `depends_on`."""
    found: set[str] = set()
    pending = list(revisions)
    while pending:
        revision = scripts.get_revision(pending.pop())
        if revision is None or revision.revision in found:
            continue
        found.add(revision.revision)
        for below in (revision.down_revision, revision.dependencies):
            pending.extend((below,) if isinstance(below, str) else below or ())
    return found


async def applied_revisions(connection: AsyncConnection, schema: str) -> set[str]:
    """Every revision that the schema holds; raises DatabaseNewer for one that this code does not know."""
    table = qualified(schema, VERSION_TABLE)
    if await connection.scalar(text("SELECT to_regclass(:name)"), {"name": table}) is None:
        return set()
    recorded = set(await connection.scalars(text(f"SELECT version_num FROM {table}")))
    scripts = _scripts()
    known = {revision.revision for revision in scripts.walk_revisions()}
    ours = {revision for revision in recorded if revision.rpartition("_")[0] in MODULES}
    if unknown := sorted(ours - known):
        raise DatabaseNewer(
            f"schema {schema!r} holds {', '.join(unknown)}, which this version of llmstack does not know; "
            "upgrade the package before using this database"
        )
    return _lineage(scripts, recorded & known)


async def status(engine: AsyncEngine, *, schema: str) -> list[ModuleStatus]:
    """Current, head and pending revisions of every module; takes no lock."""
    async with engine.connect() as connection:
        applied = await applied_revisions(connection, validate_schema(schema))
    scripts = _scripts()
    report = []
    for module in MODULES:
        branch = [revision.revision for revision in scripts.iterate_revisions(f"{module}@head", f"{module}@base")]
        ours = [revision for revision in branch if revision.startswith(f"{module}_")]
        done = [revision for revision in ours if revision in applied]
        report.append(
            ModuleStatus(module=module, current=done[0] if done else None, head=ours[0], pending=len(ours) - len(done))
        )
    return report


async def upgrade(
    engine: AsyncEngine,
    *,
    schema: str,
    target: str = "heads",
    settings: Settings | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> bool:
    """Bring the schema to `target` (`heads`, `documents@head`, a revision); False when there was nothing to do."""
    if target == "heads" and all(module.pending == 0 for module in await status(engine, schema=schema)):
        return False
    return await _run(engine, command.upgrade, target, schema=schema, settings=settings, on_wait=on_wait)


async def downgrade(
    engine: AsyncEngine, *, schema: str, target: str, settings: Settings | None = None
) -> bool:
    """Undo revisions down to `target`, for instance `documents@base`; their data goes with them."""
    return await _run(engine, command.downgrade, target, schema=schema, settings=settings)


async def check(engine: AsyncEngine, *, schema: str) -> None:
    """Raise alembic.util.AutogenerateDiffsDetected when models and tables differ."""
    await _run(engine, command.check, schema=schema)


async def _run(
    engine: AsyncEngine,
    verb: Callable[..., Any],
    *arguments: str,
    schema: str,
    settings: Settings | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> bool:
    settings = settings or Settings()
    guarded = verb is not command.check
    async with direct_connection(engine, settings) as connection:
        lock = _guard(connection, schema, settings, on_wait) if guarded else contextlib.nullcontext()
        async with lock:
            before = await applied_revisions(connection, schema)
            await connection.rollback()
            async with _alembic_turn():
                await connection.run_sync(_call, verb, arguments, schema, settings)
            await connection.rollback()
            return before != await applied_revisions(connection, schema)


def _call(
    connection: Connection, verb: Callable[..., Any], arguments: tuple[str, ...], schema: str, settings: Settings
) -> None:
    config = alembic_config()
    config.attributes.update(connection=connection, schema=schema, settings=settings)
    verb(config, *arguments)


@contextlib.asynccontextmanager
async def _alembic_turn() -> AsyncIterator[None]:
    while not _alembic.acquire(blocking=False):
        await asyncio.sleep(0.02)
    try:
        yield
    finally:
        _alembic.release()


@contextlib.asynccontextmanager
async def direct_connection(engine: AsyncEngine, settings: Settings) -> AsyncIterator[AsyncConnection]:
    """A connection with migration settings, closed for good afterwards so that none of them leaks into a pool."""
    async with engine.connect() as connection:
        try:
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None
            await driver.execute(
                f"SET lock_timeout = '{int(settings.ddl_lock_timeout * 1000)}ms';"
                "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0"
            )
            yield connection
        finally:
            await connection.invalidate()


@contextlib.asynccontextmanager
async def _guard(
    connection: AsyncConnection, schema: str, settings: Settings, on_wait: Callable[[str], None] | None
) -> AsyncIterator[None]:
    driver = (await connection.get_raw_connection()).driver_connection
    async with migration_lock(
        driver, schema=schema, timeout=settings.migration_lock_timeout, on_wait=on_wait or logger.warning
    ):
        await ensure_extension(driver, settings.extension_schema)
        if not await driver.fetchval("SELECT 1 FROM pg_namespace WHERE nspname = $1", schema):
            await driver.execute(f"CREATE SCHEMA IF NOT EXISTS {quote(schema)}")
        yield


def offline_sql(*, schema: str, target: str = "heads", settings: Settings | None = None) -> str:
    """The SQL of a migration from an empty database, for a DBA to review and run with psql."""
    output = io.StringIO()
    config = alembic_config(output=output)
    config.attributes.update(schema=validate_schema(schema), settings=settings or Settings())
    with _alembic:
        command.upgrade(config, target, sql=True)
    return output.getvalue()


def run_environment() -> None:
    """The body of `env.py`: run whichever Alembic command was given, for each schema asked for."""
    attributes = context.config.attributes
    settings: Settings = attributes.get("settings") or Settings()
    schemas = [attributes["schema"]] if "schema" in attributes else _requested_schemas(settings)
    if context.is_offline_mode():
        for schema in schemas:
            _run_offline(schema, settings)
    elif "connection" in attributes:
        _run_online(attributes["connection"], schemas[0], settings)
    else:
        asyncio.run(_run_from_command_line(schemas, settings))


def _requested_schemas(settings: Settings) -> list[str]:
    names = context.get_x_argument(as_dictionary=True).get("schema", settings.schema_name)
    return [validate_schema(name.strip()) for name in names.split(",") if name.strip()]


def _options(schema: str, settings: Settings) -> dict[str, Any]:
    return {
        **configure_options(schema),
        "transaction_per_migration": True,
        SCHEMA_OPTION: schema,
        EXTENSION_OPTION: settings.extension_schema,
    }


def _run_offline(schema: str, settings: Settings) -> None:
    context.configure(
        dialect_name="postgresql", literal_binds=True, dialect_opts={"paramstyle": "named"}, **_options(schema, settings)
    )
    context.get_context().impl.static_output(f"CREATE SCHEMA IF NOT EXISTS {quote(schema)};\n")
    with context.begin_transaction():
        context.run_migrations()


def _run_online(connection: Connection, schema: str, settings: Settings) -> None:
    context.configure(connection=connection, **_options(schema, settings))
    with context.begin_transaction():
        context.run_migrations()


async def _run_from_command_line(schemas: list[str], settings: Settings) -> None:
    if settings.database_url is None:
        raise MigrationError("set LLMSTACK_DATABASE_URL to the database that is to be migrated")
    from .database import engine_arguments

    url, arguments = engine_arguments(settings.database_url.get_secret_value(), settings, pooled=False)
    engine = create_async_engine(url, poolclass=NullPool, **arguments)
    try:
        for schema in schemas:
            await _run_schema(engine, schema, settings)
    finally:
        await engine.dispose()


async def _run_schema(engine: AsyncEngine, schema: str, settings: Settings) -> None:
    verb = getattr(getattr(context.config.cmd_opts, "cmd", (None,))[0], "__name__", None)
    if verb == "upgrade" and getattr(context.config.cmd_opts, "revision", None) == "heads":
        if all(module.pending == 0 for module in await status(engine, schema=schema)):
            return
    async with direct_connection(engine, settings) as connection:
        reading = verb in READ_ONLY_COMMANDS
        lock = contextlib.nullcontext() if reading else _guard(connection, schema, settings, None)
        async with lock:
            await connection.run_sync(_run_online, schema, settings)


def grants_sql(*, schema: str, role: str) -> str:
    """The least that a run-time role needs: it reads and writes rows and owns nothing."""
    place, who = quote(validate_schema(schema)), quote(role)
    return "\n".join(
        (
            f"GRANT USAGE ON SCHEMA {place} TO {who};",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {place} TO {who};",
            f"REVOKE INSERT, UPDATE, DELETE ON {place}.{quote(VERSION_TABLE)} FROM {who};",
            f"GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {place} TO {who};",
            f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {place} TO {who};",
            f"ALTER DEFAULT PRIVILEGES IN SCHEMA {place} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {who};",
            f"ALTER DEFAULT PRIVILEGES IN SCHEMA {place} GRANT USAGE, SELECT ON SEQUENCES TO {who};",
        )
    )


async def apply_grants(engine: AsyncEngine, *, schema: str, role: str) -> None:
    """Execute `grants_sql` in one transaction; needs the owner of the schema."""
    try:
        async with engine.begin() as connection:
            for statement in grants_sql(schema=schema, role=role).splitlines():
                await connection.exec_driver_sql(statement)
    except DBAPIError as error:
        raise MigrationError(f"the grants were refused: {error.orig}") from error
