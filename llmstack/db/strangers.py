"""What stands in the way of a migration: others' tables of the names that ours are to have."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from ..errors import MigrationError
from .history import pending_modules
from .revisions import SCHEMA_OPTION

_MADE = re.compile(r"^CREATE (?:TABLE|(?:UNIQUE )?INDEX) \"?(\w+)", re.MULTILINE)
_THERE = text("""
SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = :schema AND c.relname = ANY (:names) ORDER BY c.relname
""")


async def refuse_strangers(
    connection: AsyncConnection, schema: str, *, targets: tuple[str, ...], applied: set[str]
) -> None:
    """MigrationError where a module that is about to be made would meet a relation of the same name, before any is.

    Revisions have a transaction each: without this look, those before the one that fails would stay.
    """
    modules = pending_modules(targets, applied)
    names = sorted(_made(modules, schema))
    if not names:
        return
    found = list(await connection.scalars(_THERE, {"schema": schema, "names": names}))
    if found:
        raise MigrationError(
            f"schema {schema!r} already holds {', '.join(found)}, which llmstack's migrations did not make; "
            "choose another schema, or rename or drop them"
        )


def _made(modules: Sequence[Any], schema: str) -> set[str]:
    """The tables and indexes that revisions make, read from their own SQL."""
    output = io.StringIO()
    options = {"as_sql": True, "output_buffer": output, "literal_binds": True, SCHEMA_OPTION: schema}
    with _silent(), Operations.context(MigrationContext.configure(dialect_name="postgresql", opts=options)):
        for module in modules:
            module.upgrade()
    return set(_MADE.findall(output.getvalue()))


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Alembic would announce that it generates SQL, which is not what the caller asked for."""
    logger = logging.getLogger("alembic.runtime.migration")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
