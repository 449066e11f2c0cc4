"""What the migration tests share: empty databases, Alembic in a process of its own, catalogs to compare."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from llmstack.db.history import scripts
from llmstack.db.schemas import quote
from llmstack.db.urls import engine_arguments
from llmstack.settings import Settings
from llmstack.testing import servers

CHECKOUT = Path(__file__).parents[2]
REVISIONS = tuple(sorted(revision.revision for revision in scripts().walk_revisions()))

_CATALOG = {
    "columns": """
        SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
               a.attgenerated, pg_get_expr(d.adbin, d.adrelid)
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE c.relnamespace = CAST(:schema AS regnamespace) AND c.relkind IN ('r', 'p', 'v')""",
    "constraints": """
        SELECT c.relname, k.conname, k.convalidated, pg_get_constraintdef(k.oid)
        FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
        WHERE c.relnamespace = CAST(:schema AS regnamespace)""",
    "triggers": """
        SELECT c.relname, t.tgname, t.tgenabled, pg_get_triggerdef(t.oid)
        FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
        WHERE c.relnamespace = CAST(:schema AS regnamespace) AND NOT t.tgisinternal""",
    "indexes": """
        SELECT t.relname, c.relname, i.indisvalid, pg_get_indexdef(c.oid), c.reloptions
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
        WHERE c.relnamespace = CAST(:schema AS regnamespace)""",
    "functions": """
        SELECT p.proname, pg_get_functiondef(p.oid) FROM pg_proc p
        WHERE p.pronamespace = CAST(:schema AS regnamespace) AND p.prokind = 'f'""",
    "partitioning": """
        SELECT c.relname, pg_get_partkeydef(c.oid), pg_get_expr(c.relpartbound, c.oid) FROM pg_class c
        WHERE c.relnamespace = CAST(:schema AS regnamespace) AND c.relkind IN ('r', 'p')""",
    "sequences": """
        SELECT sequencename, data_type FROM pg_sequences
        WHERE CAST(:schema AS text) = quote_ident(schemaname)""",
}
_DOCUMENT, _CHUNK = "'00000000-0000-7000-8000-00000000000a'", "'00000000-0000-7000-8000-00000000000b'"
_SEARCH = "'00000000-0000-7000-8000-00000000000c'"
_THREAD, _MESSAGE, _SUMMARY = (f"'00000000-0000-7000-8000-00000000001{letter}'" for letter in "abc")
_ROWS = (
    "INSERT INTO corpus_statistics VALUES ('chunks', 1, 2.0, 1.0)",
    "INSERT INTO term_statistics VALUES ('chunks', 'hare', 1)",
    f"""
    INSERT INTO search_log (id, corpus, owner_id, query, mode, hit_limit, hits, elapsed_ms)
    VALUES ({_SEARCH}, 'chunks', 'acme', 'hare', 'text', 10, '[]', 1.5)""",
    f"""
    INSERT INTO search_feedback (search_id, row_id, owner_id, unit, grade)
    VALUES ({_SEARCH}, {_CHUNK}, 'acme', '1', 2)""",
    f"""
    INSERT INTO calibrations (id, corpus, before, after, evidence)
    VALUES ({_SEARCH}, 'chunks', '{{}}', '{{"alpha": 0.3}}', '{{}}')""",
    "INSERT INTO embedding_spaces (name, provider, model, dimensions) VALUES ('s', 'p', 'm', 3)",
    f"""
    INSERT INTO documents
        (id, owner_id, id_at_origin, name, document_type, language, content_hash, content_bytes, chunking)
    VALUES ({_DOCUMENT}, 'acme', '1', 'n', 'text', 'english', '', 1, '{{}}')""",
    f"""
    INSERT INTO chunks
        (id, owner_id, document_id, position, content, token_count, start_offset, end_offset, content_hash)
    VALUES ({_CHUNK}, 'acme', {_DOCUMENT}, 0, 'a hare', 2, 0, 6, '')""",
    f"""
    INSERT INTO chunk_embeddings (owner_id, row_id, space_id, embedding)
    SELECT 'acme', {_CHUNK}, id, '[1,2,3]' FROM embedding_spaces""",
    f"""
    INSERT INTO chunk_embedding_jobs (owner_id, row_id, space_id)
    SELECT 'acme', {_CHUNK}, id FROM embedding_spaces""",
    f"INSERT INTO threads (id, owner_id, id_at_origin, last_seq, message_count) VALUES ({_THREAD}, 'acme', '1', 1, 1)",
    f"""
    INSERT INTO messages (id, owner_id, thread_id, seq, role, content, content_hash)
    VALUES ({_MESSAGE}, 'acme', {_THREAD}, 1, 'user', 'a hare', '')""",
    f"""
    INSERT INTO thread_summaries (id, owner_id, thread_id, first_seq, last_seq, token_count, content)
    VALUES ({_SUMMARY}, 'acme', {_THREAD}, 1, 1, 2, 'of a hare')""",
    *(
        f"""
    INSERT INTO {table}_embeddings (owner_id, row_id, space_id, embedding)
    SELECT 'acme', {row}, id, '[1,2,3]' FROM embedding_spaces"""
        for table, row in (("message", _MESSAGE), ("summary", _SUMMARY))
    ),
    *(
        f"""
    INSERT INTO {table}_embedding_jobs (owner_id, row_id, space_id)
    SELECT 'acme', {row}, id FROM embedding_spaces"""
        for table, row in (("message", _MESSAGE), ("summary", _SUMMARY))
    ),
)
Catalog = dict[str, list[tuple[Any, ...]]]


def make_engine(url: str, **arguments: Any) -> AsyncEngine:
    """An engine without a pool, so that nothing of a test stays connected."""
    target, given = engine_arguments(url, Settings(), pooled=False)
    return create_async_engine(target, poolclass=NullPool, **given, **arguments)


@contextlib.asynccontextmanager
async def empty_database(server_url: str) -> AsyncIterator[str]:
    """The URL of a database of its own with nothing in it."""
    name = servers.unique_name()
    await servers.execute(server_url, f"CREATE DATABASE {quote(name)}")
    try:
        yield database_url(server_url, name)
    finally:
        await servers.drop(server_url, name)


@contextlib.contextmanager
def empty_database_for_sync_test(server_url: str) -> Iterator[str]:
    """The same where the test itself must not run in an event loop."""
    name = servers.unique_name()
    servers.run_apart(servers.execute(server_url, f"CREATE DATABASE {quote(name)}"))
    try:
        yield database_url(server_url, name)
    finally:
        servers.run_apart(servers.drop(server_url, name))


def database_url(server_url: str, name: str, *, role: str | None = None) -> str:
    """The server's URL for another database, and for another role."""
    from sqlalchemy.engine import make_url

    url = make_url(server_url).set(database=name)
    if role is not None:
        url = url.set(username=role, password="secret")
    return url.render_as_string(hide_password=False)


@contextlib.asynccontextmanager
async def role(server_url: str, *, options: str = "LOGIN PASSWORD 'secret'") -> AsyncIterator[str]:
    """A role of its own; what it owns goes with the test's database."""
    name = servers.unique_name()
    await servers.execute(server_url, f"CREATE ROLE {quote(name)} {options}")
    try:
        yield name
    finally:
        await servers.execute(server_url, f"DROP ROLE {quote(name)}")


async def rows(engine: AsyncEngine, statement: str) -> list[Any]:
    """What a query gives."""
    async with engine.connect() as connection:
        return [tuple(row) for row in await connection.execute(text(statement))]


async def execute(engine: AsyncEngine, *statements: str) -> None:
    """Run statements in one transaction."""
    async with engine.begin() as connection:
        for statement in statements:
            await connection.exec_driver_sql(statement)


async def fill(engine: AsyncEngine, schema: str) -> None:
    """Put a row into every table of the schema; not all of them are there before their revision."""
    there = {name for (name,) in await rows(engine, f"SELECT tablename FROM pg_tables WHERE schemaname = '{schema}'")}
    given = (row for row in _ROWS if re.findall(r"INSERT INTO (\w+)", row)[0] in there)
    await execute(engine, f"SET LOCAL search_path TO {quote(schema)}", *given)


async def fetch(engine: AsyncEngine, statement: str) -> Any:
    """The first column of the first row."""
    async with engine.connect() as connection:
        return await connection.scalar(text(statement))


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait, for at most ten seconds, until something has happened that sends no signal."""
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def catalog(engine: AsyncEngine, schema: str) -> Catalog:
    """Everything in the schema as PostgreSQL itself writes it, with the schema's name left out."""
    async with engine.connect() as connection:
        await connection.exec_driver_sql("SET search_path TO pg_catalog")
        return {kind: await _rows(connection, query, schema) for kind, query in _CATALOG.items()}


async def _rows(connection: AsyncConnection, query: str, schema: str) -> list[tuple[Any, ...]]:
    found = await connection.execute(text(query), {"schema": await _as_regnamespace(connection, schema)})
    return sorted((tuple(_nameless(value, schema) for value in row) for row in found), key=repr)


async def _as_regnamespace(connection: AsyncConnection, schema: str) -> str:
    return str(await connection.scalar(text("SELECT quote_ident(:schema)"), {"schema": schema}))


def _nameless(value: Any, schema: str) -> Any:
    if isinstance(value, str):
        return value.replace(f"{quote(schema)}.", "").replace(f"{schema}.", "")
    return value


def alembic(
    *arguments: str, url: str, schema: str | None = None, cwd: Path | None = None, **environment: str
) -> subprocess.Popen[str]:
    """Start `alembic` as a deploy pipeline does: from the checkout, with nothing but the environment."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("LLMSTACK_")}
    variables |= {"LLMSTACK_DATABASE_URL": url, **environment}
    if schema is not None:
        variables["LLMSTACK_SCHEMA"] = schema
    return subprocess.Popen(
        [sys.executable, "-m", "alembic.config", *arguments],
        cwd=cwd or CHECKOUT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def run_alembic(*arguments: str, url: str, schema: str | None = None) -> str:
    """Run `alembic` to its end and return its standard output; the test fails unless it exits with 0."""
    status, output, errors = finished(alembic(*arguments, url=url, schema=schema))
    if status != 0:
        pytest.fail(f"alembic {' '.join(arguments)} exited with {status}:\n{errors}")
    return output
