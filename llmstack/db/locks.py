"""Locks between processes: one at a time migrates a schema, or builds an index; and brief waits for a table's."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import tenacity

from ..errors import MigrationError, MigrationLockTimeout
from .translate import lock_was_taken

_BRIEF_WAITS = 10
"""Times that DDL asks for a lock, for ddl_lock_timeout each."""
_POLL_SECONDS = 0.1
_REPORT_SECONDS = 5.0
"""Seconds between two words to whoever waits of whom he waits for."""
_MOMENT = "%Y-%m-%d %H:%M:%S %Z"

_HOLDER = """
SELECT a.pid, a.application_name, a.backend_start, a.state_change
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND ((l.classid::bigint << 32) | l.objid::bigint) = $1
"""


def lock_key(*, database: str, schema: str) -> int:
    """A signed 64-bit key of (llmstack, database, schema)."""
    digest = hashlib.sha256("\0".join(("llmstack", database, schema)).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


@contextlib.asynccontextmanager
async def migration_lock(
    connection: Any, *, schema: str, timeout_seconds: float, on_wait: Callable[[str], None] | None = None
) -> AsyncIterator[None]:
    """Hold the schema's session-level advisory lock on an asyncpg connection outside any transaction.

    Waiting polls, so that no transaction stays open that CREATE INDEX CONCURRENTLY would wait for.
    """
    database = await connection.fetchval("SELECT current_database()")
    key = lock_key(database=database, schema=schema)
    what = f"the migration of schema {schema!r}"
    await acquire(connection, key, what=what, timeout_seconds=timeout_seconds, on_wait=on_wait)
    try:
        yield
    except BaseException:
        # Must not hide why the body failed; closing the connection gives the lock back as well.
        with contextlib.suppress(Exception):
            await _release(connection, key)
        raise
    if connection.is_closed() or not await _release(connection, key):
        raise MigrationError(f"the migration lock of schema {schema!r} was lost while it was held")


async def _release(connection: Any, key: int) -> bool:
    return bool(await connection.fetchval("SELECT pg_advisory_unlock($1)", key))


async def acquire(
    connection: Any, key: int, *, what: str, timeout_seconds: float, on_wait: Callable[[str], None] | None
) -> None:
    """Poll for the session-level lock on an asyncpg connection; report now and then who holds it."""
    started = report_at = time.monotonic()
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", key):
        now = time.monotonic()
        if now - started >= timeout_seconds:
            raise MigrationLockTimeout(f"waited {timeout_seconds:g} s for {what}; {await _holder(connection, key)}")
        if on_wait is not None and now >= report_at:
            on_wait(f"waiting for {what}; {await _holder(connection, key)}")
            report_at = now + _REPORT_SECONDS
        await asyncio.sleep(_POLL_SECONDS)


def after_brief_waits() -> tenacity.AsyncRetrying:
    """Repeats what gave up after lock_timeout, at random pauses: of brief waits, however many, no queue forms."""
    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(lock_was_taken),
        stop=tenacity.stop_after_attempt(_BRIEF_WAITS),
        wait=tenacity.wait_random(0.1, 1.0),
        reraise=True,
    )


async def _holder(connection: Any, key: int) -> str:
    row = await connection.fetchrow(_HOLDER, key)
    if row is None:
        return "its holder has just left"
    connected, active = row["backend_start"], row["state_change"]
    # PostgreSQL does not say when a lock was given; between these two it was.
    # It shows them to the holder's own role and to pg_read_all_stats alone.
    since = f"since {connected:{_MOMENT}}, last active {active:{_MOMENT}}" if connected else "as another role"
    name = row["application_name"]
    return f"the lock is held by pid {row['pid']}, application_name {name!r}, connected {since}"
