"""What becomes of the vectors of rows that a domain writes, hides, shows or edits, in the domain's own transaction."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Table, delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.checks import any_of
from ..db.copy import STATEMENT_ROWS, copy_rows
from . import queue
from .spaces import Space
from .tables import EmbeddedTable, core_table

_UNSYNCHRONIZED = {"synchronize_session": False}


@dataclass(frozen=True, slots=True)
class WrittenRow:
    """A row that wants a vector, with it where it is at hand; a row that is new has none yet."""

    owner_id: str
    id: uuid.UUID
    vector: Sequence[float] | None
    is_new: bool


async def store_vectors(
    session: AsyncSession, table: EmbeddedTable, rows: Sequence[WrittenRow], *, space: Space
) -> tuple[set[uuid.UUID], set[uuid.UUID]]:
    """Store the vectors at hand in their space, and owe the others; (ids stored, ids owed). Call it after the rows.

    A row that has its vector already is in neither.
    """
    present = await _present(session, table, rows, space)
    wanting = [row for row in rows if row.id not in present]
    at_hand = [row for row in wanting if row.vector is not None]
    embeddings, jobs = core_table(table.embeddings), core_table(table.jobs)
    column = "embedding" if space.storage == "halfvec" else "embedding_full"
    if fresh := [(row.owner_id, row.id, space.id, row.vector) for row in at_hand if row.is_new]:
        columns = {"owner_id": "text", "row_id": "uuid", "space_id": "smallint", column: space.storage}
        await copy_rows(session, embeddings, columns, fresh)
    if late := [{**_key(row, space), column: list(row.vector or ())} for row in at_hand if not row.is_new]:
        # A worker may be storing the same vector at this moment.
        await session.execute(insert(embeddings).on_conflict_do_nothing(), late)
        await _settle_jobs(session, jobs, late, space)
    if owed := [_key(row, space) for row in wanting if row.vector is None]:
        await session.execute(insert(jobs).on_conflict_do_nothing(), owed)
    return {row.id for row in at_hand}, {key["row_id"] for key in owed}


async def owe_elsewhere(
    session: AsyncSession, table: EmbeddedTable, rows: Sequence[WrittenRow], *, space: Space | None
) -> None:
    """Owe the rows in every other living space: neither what grows in the shadow nor the way back may lack one."""
    but = None if space is None else space.id
    for are_new in (True, False):
        ids = [row.id for row in rows if row.is_new == are_new]
        for start in range(0, len(ids), STATEMENT_ROWS):
            await session.execute(queue.owe(table, ids[start : start + STATEMENT_ROWS], are_new=are_new, but=but))


def _key(row: WrittenRow, space: Space) -> dict[str, Any]:
    return {"owner_id": row.owner_id, "row_id": row.id, "space_id": space.id}


async def _present(
    session: AsyncSession, table: EmbeddedTable, rows: Sequence[WrittenRow], space: Space
) -> set[uuid.UUID]:
    kept = [row for row in rows if not row.is_new]
    if not kept:
        return set()
    embeddings = core_table(table.embeddings)
    same = _of_rows(embeddings, {row.owner_id for row in kept}, [row.id for row in kept])
    statement = select(embeddings.c.row_id).where(*same, embeddings.c.space_id == space.id)
    return set(await session.scalars(statement))


async def _settle_jobs(session: AsyncSession, jobs: Table, stored: Sequence[Mapping[str, Any]], space: Space) -> None:
    same = _of_rows(jobs, {row["owner_id"] for row in stored}, [row["row_id"] for row in stored])
    await session.execute(delete(jobs).where(*same, jobs.c.space_id == space.id))


def _of_rows(table: Table, owners: set[str], ids: Sequence[uuid.UUID]) -> tuple[ColumnElement[bool], ...]:
    # The owners spare the other partitions.
    return any_of(table.c.owner_id, list(owners)), any_of(table.c.row_id, ids)


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
