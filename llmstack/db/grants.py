"""What a run-time role needs: it reads and writes rows and owns nothing."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from ..errors import MigrationError
from .extension import SCHEMA_QUERY
from .history import VERSION_TABLE
from .schemas import qualified, quote, validate_schema


def grants_sql(*, schema: str, role: str, extension_schema: str = "public") -> str:
    """The grants as SQL text, one statement a line, for psql as the owner of the schema."""
    return "\n".join(f"{statement};" for statement in _grants(schema, role, extension_schema))


def _grants(schema: str, role: str, extension_schema: str) -> list[str]:
    place, who = quote(validate_schema(schema)), quote(role)
    statements = [
        f"GRANT USAGE ON SCHEMA {place} TO {who}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {place} TO {who}",
        f"REVOKE INSERT, UPDATE, DELETE ON {qualified(schema, VERSION_TABLE)} FROM {who}",
        f"GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {place} TO {who}",
        f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {place} TO {who}",
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {place} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {who}",
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {place} GRANT USAGE, SELECT ON SEQUENCES TO {who}",
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {place} GRANT EXECUTE ON FUNCTIONS TO {who}",
    ]
    if extension_schema != "public":
        statements.append(f"GRANT USAGE ON SCHEMA {quote(extension_schema)} TO {who}")
    return statements


async def apply_grants(engine: AsyncEngine, *, schema: str, role: str) -> None:
    """Execute `grants_sql` in one transaction; needs the owner of the schema."""
    try:
        async with engine.begin() as connection:
            vectors = await connection.scalar(text(SCHEMA_QUERY))
            for statement in _grants(schema, role, vectors or "public"):
                await connection.exec_driver_sql(statement)
    except DBAPIError as error:
        raise MigrationError(f"the grants were refused: {error.orig}") from error
