"""The `vector` extension: present, new enough, or a message that says who has to run what."""

from __future__ import annotations

from typing import Any

from ..errors import MigrationError
from .schemas import quote

MINIMUM_VERSION = (0, 8)


async def ensure_extension(connection: Any, schema: str) -> None:
    """Create `vector` in `schema` if the database lacks it; takes an asyncpg connection outside a transaction."""
    version = await connection.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    if version is None:
        await _create(connection, schema)
        version = await connection.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    if tuple(int(part) for part in version.split(".")[:2]) < MINIMUM_VERSION:
        raise MigrationError(
            f"the vector extension is {version}, llmstack needs 0.8 or newer; install pgvector 0.8 on the server, "
            "then run as a superuser: ALTER EXTENSION vector UPDATE"
        )


async def _create(connection: Any, schema: str) -> None:
    import asyncpg

    statement = f"CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA {quote(schema)}"
    if not await connection.fetchval("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'"):
        raise MigrationError("this server has no pgvector; install pgvector 0.8 or newer on it, then migrate again")
    try:
        async with connection.transaction():
            # Two schemas that migrate at once would otherwise race on pg_extension.
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('llmstack:extension', 0))")
            await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quote(schema)}")
            await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError as error:
        raise MigrationError(
            f"this role may not create the vector extension; run once as a superuser: {statement}"
        ) from error
