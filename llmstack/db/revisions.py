"""What every revision file uses: the schema that it runs in, and the schema of the vector types."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

from alembic import op
from sqlalchemy import text

from .extension import SCHEMA_QUERY
from .schemas import SCHEMA_TOKEN, quote, validate_schema

SCHEMA_OPTION = "llmstack_schema"
EXTENSION_OPTION = "llmstack_extension_schema"


def schema() -> str:
    """The schema that is being migrated."""
    return validate_schema(str(op.get_context().opts.get(SCHEMA_OPTION) or SCHEMA_TOKEN))


def extension_schema() -> str:
    """Where the `vector` extension lives; offline, where it is going to be created."""
    configured = str(op.get_context().opts.get(EXTENSION_OPTION) or "public")
    if op.get_context().as_sql:
        return configured
    return op.get_bind().scalar(text(SCHEMA_QUERY)) or configured


def scoped(step: Callable[[], None]) -> Callable[[], None]:
    """Run a step with our schema alone on the search path, so that no table of the host's can be met."""

    @functools.wraps(step)
    def run() -> None:
        previous = None if op.get_context().as_sql else op.get_bind().scalar(text("SHOW search_path"))
        op.execute(f"SET search_path TO {quote(schema())}")
        step()
        op.execute(f"SET search_path TO {previous or 'DEFAULT'}")

    return run


@contextlib.contextmanager
def own_transactions() -> Iterator[bool]:
    """Leave the transaction, so that a step can commit as it goes; False where a host's holds all revisions."""
    context = op.get_context()
    if not context.as_sql and context._transaction is None:
        yield False
        return
    with context.autocommit_block():
        yield True


def name_not_nulls(table: str) -> None:
    """After a rename, name the NOT NULL constraints as a table that is made anew has them; before 18 they have none."""
    op.execute(f"""
DO $body$
DECLARE
    held record;
BEGIN
    FOR held IN
        SELECT conname AS old, concat(c.relname, '_', a.attname, '_not_null') AS new
        FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
        WHERE k.contype = 'n' AND k.conrelid = '{quote(table)}'::regclass
    LOOP
        IF held.old <> held.new THEN
            EXECUTE format('ALTER TABLE {quote(table)} RENAME CONSTRAINT %I TO %I', held.old, held.new);
        END IF;
    END LOOP;
END
$body$
""")
