"""The `vector` extension: present, new enough, or a message that says who has to run what."""

from __future__ import annotations

from typing import Any

from ..errors import MigrationError
from .schemas import quote
from .translate import sqlstate

MINIMUM_VERSION = (0, 8)

_INSUFFICIENT_PRIVILEGE = "42501"
SCHEMA_QUERY = """
SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'
"""
"""Where somebody has put the extension; no row where it is absent."""

_INSTALLED = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
# Types outside the search path are reflected under a qualified name that SQLAlchemy does not know.
_SHOW_ITS_TYPES = """
SELECT set_config(
    'search_path', concat_ws(', ', nullif(current_setting('search_path'), ''), quote_ident(n.nspname)), false
)
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'vector' AND NOT n.nspname = ANY (current_schemas(false))
"""


async def ensure_extension(connection: Any, schema: str) -> None:
    """Create `vector` in `schema` if the database lacks it; the asyncpg connection is in no transaction."""
    version = await connection.fetchval(_INSTALLED)
    if version is None:
        await _create(connection, schema)
        version = await connection.fetchval(_INSTALLED)
    require_version(version)


def require_version(version: str) -> None:
    """Refuse a pgvector that lacks what the tables and searches use."""
    if tuple(int(part) for part in version.split(".")[:2]) < MINIMUM_VERSION:
        raise MigrationError(
            f"the vector extension is {version}, llmstack needs 0.8 or newer; "
            "install pgvector 0.8 on the server, then run as a superuser: ALTER EXTENSION vector UPDATE"
        )


async def show_types(connection: Any) -> None:
    """Append the extension's schema to this session's search path, wherever somebody has put it."""
    await connection.execute(_SHOW_ITS_TYPES)


async def _create(connection: Any, schema: str) -> None:
    statement = f"CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA {quote(schema)}"
    if not await connection.fetchval("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'"):
        raise MigrationError("this server has no pgvector; install pgvector 0.8 or newer on it, then migrate again")
    try:
        async with connection.transaction():
            # Two schemas that migrate at once would otherwise race on pg_extension.
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('llmstack:extension', 0))")
            await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quote(schema)}")
            await connection.execute(statement)
    except Exception as error:
        if sqlstate(error) != _INSUFFICIENT_PRIVILEGE:
            raise
        raise MigrationError(
            f"this role may not create the vector extension; run once as a superuser: {statement}"
        ) from error
