"""Hide threads and messages, bring them back, and delete them for good, always with what was made of them.

A thread that is deleted gives its moment to what goes with it: what was deleted before it stays so when it returns.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.checks import any_of
from ..db.copy import STATEMENT_ROWS
from ..embeddings import EmbeddedTable
from ..embeddings.writing import hide, show
from ..errors import ValidationError
from .embedding import EMBEDDED_MESSAGES, EMBEDDED_SUMMARIES
from .models import Message, Thread, ThreadSummary
from .queries import owned

THREADS_AT_ONCE = 1_000
"""Threads whose ids are held at a time, however many are deleted."""
_UNSYNCHRONIZED = {"synchronize_session": False}
_AGES_AGO = dt.timedelta(days=365_000)
_JUST_BEFORE = func.now() - dt.timedelta(microseconds=1)
"""When messages are taken out of a thread: they stay so if it is deleted in the same transaction, and restored."""
_PARTS: tuple[EmbeddedTable, ...] = (EMBEDDED_MESSAGES, EMBEDDED_SUMMARIES)


async def delete_threads(session: AsyncSession, owner_id: str, *conditions: ColumnElement[bool]) -> tuple[int, int]:
    """Hide the living threads that match with their messages and summaries; (threads, messages)."""
    threads = messages = 0
    async for ids in locked_threads(session, owned(owner_id), *conditions):
        gone = update(Thread).where(any_of(Thread.id, ids)).values(deleted_at=func.now())
        await session.execute(gone, execution_options=_UNSYNCHRONIZED)
        for table in _PARTS:
            rows = await _hide(session, table, owner_id, any_of(table.rows.thread_id, ids), moment=func.now())
            messages += rows if table is EMBEDDED_MESSAGES else 0
        threads += len(ids)
    return threads, messages


async def restore_threads(session: AsyncSession, owner_id: str, *conditions: ColumnElement[bool]) -> tuple[int, int]:
    """Bring deleted threads back, with what was deleted with them; (threads, messages)."""
    threads = messages = 0
    async for ids in locked_threads(session, owned(owner_id, deleted=True), *conditions):
        for table in _PARTS:
            rows = table.rows
            moment = select(Thread.deleted_at).where(Thread.id == rows.thread_id).scalar_subquery()
            back = await _ids(session, rows, any_of(rows.thread_id, ids), rows.deleted_at == moment)
            await _change(session, table, owner_id, back, moment=None)
            messages += len(back) if table is EMBEDDED_MESSAGES else 0
        returned = update(Thread).where(any_of(Thread.id, ids)).values(deleted_at=None)
        await session.execute(returned, execution_options=_UNSYNCHRONIZED)
        threads += len(ids)
    return threads, messages


async def take_out(session: AsyncSession, owner_id: str, *conditions: ColumnElement[bool]) -> int:
    """Hide the living messages that match, whose thread stays; return how many."""
    return await _hide(session, EMBEDDED_MESSAGES, owner_id, *conditions, moment=_JUST_BEFORE)


async def _hide(
    session: AsyncSession, table: EmbeddedTable, owner_id: str, *conditions: ColumnElement[bool], moment: Any
) -> int:
    ids = await _ids(session, table.rows, table.rows.deleted_at.is_(None), *conditions)
    await _change(session, table, owner_id, ids, moment=moment)
    return len(ids)


async def retire_summary(session: AsyncSession, owner_id: str, thread_id: uuid.UUID, *, from_seq: int) -> None:
    """Let the summary of a thread be current no longer if it speaks of this message or a later one; it stays."""
    current: Any = ThreadSummary.is_current
    ids = await _ids(
        session, ThreadSummary, ThreadSummary.thread_id == thread_id, current, ThreadSummary.last_seq >= from_seq
    )
    retired = update(ThreadSummary).where(any_of(ThreadSummary.id, ids)).values(is_current=False)
    await session.execute(retired, execution_options=_UNSYNCHRONIZED)
    await hide(session, EMBEDDED_SUMMARIES, owner_id=owner_id, row_ids=ids)


async def purge_deleted(session: AsyncSession, owner_id: str, older_than: dt.timedelta) -> tuple[int, int]:
    """Delete for good what was deleted at least this long ago: (threads, messages taken out of living ones)."""
    if older_than < dt.timedelta(0):
        raise ValidationError("older_than", "it lies in the future")
    until = func.now() - min(older_than, _AGES_AGO)
    threads = 0
    async for ids in locked_threads(session, owned(owner_id, deleted=True), Thread.deleted_at <= until):
        for table in _PARTS:
            await _erase(session, table.rows, await _ids(session, table.rows, any_of(table.rows.thread_id, ids)))
        await _erase(session, Thread, ids)
        threads += len(ids)
    mine = (Message.owner_id == owner_id, Message.deleted_at <= until)
    of_living = Message.thread_id.in_(select(Thread.id).where(owned(owner_id)))
    messages = await _ids(session, Message, *mine, of_living)
    await _erase(session, Message, messages)
    return threads, len(messages)


async def locked_threads(session: AsyncSession, *conditions: ColumnElement[bool]) -> AsyncIterator[Sequence[uuid.UUID]]:
    """The threads that match, a page at a time, with their rows locked."""
    statement = select(Thread.id).where(*conditions).order_by(Thread.id)
    page = statement.limit(THREADS_AT_ONCE).with_for_update()
    while ids := (await session.scalars(page)).all():
        yield ids
        page = statement.where(Thread.id > ids[-1]).limit(THREADS_AT_ONCE).with_for_update()


async def _ids(session: AsyncSession, rows: Any, *conditions: ColumnElement[bool]) -> Sequence[uuid.UUID]:
    return (await session.scalars(select(rows.id).where(*conditions).order_by(rows.id))).all()


async def _change(
    session: AsyncSession, table: EmbeddedTable, owner_id: str, ids: Sequence[uuid.UUID], *, moment: Any
) -> None:
    for part in _in_parts(ids):
        changed = update(table.rows).where(any_of(table.rows.id, part)).values(deleted_at=moment)
        await session.execute(changed, execution_options=_UNSYNCHRONIZED)
        await (show if moment is None else hide)(session, table, owner_id=owner_id, row_ids=part)


async def _erase(session: AsyncSession, rows: Any, ids: Sequence[uuid.UUID]) -> None:
    for part in _in_parts(ids):
        await session.execute(delete(rows).where(any_of(rows.id, part)), execution_options=_UNSYNCHRONIZED)


def _in_parts(ids: Sequence[uuid.UUID]) -> Sequence[Sequence[uuid.UUID]]:
    """Parts that one statement can change in time."""
    return [ids[start : start + STATEMENT_ROWS] for start in range(0, len(ids), STATEMENT_ROWS)]
