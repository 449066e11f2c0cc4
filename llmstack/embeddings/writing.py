"""What becomes of the vectors of rows that a domain hides, shows or edits, in the domain's own transaction."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from . import queue
from .tables import EmbeddedTable

_UNSYNCHRONIZED = {"synchronize_session": False}


async def hide(session: AsyncSession, table: EmbeddedTable, *, owner_id: str, row_ids: Sequence[uuid.UUID]) -> None:
    """Take rows out of the vector leg; their vectors stay for `show`. Call it after the rows themselves changed."""
    statement = queue.mark(table, owner_id, row_ids, searchable=False)
    await session.execute(statement, execution_options=_UNSYNCHRONIZED)


async def show(session: AsyncSession, table: EmbeddedTable, *, owner_id: str, row_ids: Sequence[uuid.UUID]) -> None:
    """Bring hidden rows back, with jobs in each space that was filled meanwhile."""
    statement = queue.mark(table, owner_id, row_ids, searchable=True)
    await session.execute(statement, execution_options=_UNSYNCHRONIZED)
    await session.execute(queue.owe(table, row_ids))


async def renew(session: AsyncSession, table: EmbeddedTable, *, owner_id: str, row_ids: Sequence[uuid.UUID]) -> None:
    """Owe rows whose text was edited a new vector in every living space, and forget those of the old text.

    Call it after the edit, in its transaction: a worker that holds the old text loses its lease, and stores nothing.
    """
    forgotten = queue.forget_rows(table, owner_id, row_ids)
    await session.execute(forgotten, execution_options=_UNSYNCHRONIZED)
    await session.execute(queue.owe_again(table, row_ids))
