"""Write messages into threads, each behind the last: few in one statement, many by COPY."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    DateTime,
    Integer,
    Select,
    Text,
    Uuid,
    and_,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import Insert
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.dml import Update
from sqlalchemy.types import TypeEngine

from ..db.arrays import given_rows, row_values
from ..db.copy import copy_rows
from ..embeddings.models import EmbeddingSpace
from ..embeddings.tables import core_table
from ..embeddings.writing import WrittenRow, owe_elsewhere
from ..errors import LLMStackError
from .embedding import EMBEDDED_MESSAGES
from .formats import results_of, tool_calls_of
from .models import Message, Thread
from .opening import OpenThread, open_threads
from .records import AppendResult, PreparedMessage, PreparedThread

COPIED = 200
"""Messages from which on they are written by COPY."""
_CALLS_LOOKED_AT = 50
"""Turns with tool calls, from the end of a thread, among which those that are answered are looked for."""

_MESSAGES, _THREADS = core_table(Message), core_table(Thread)
_COLUMNS = {
    "id": "uuid", "owner_id": "text", "thread_id": "uuid", "seq": "integer", "role": "text", "content": "text",
    "context": "text", "further_words": "text", "language": "text", "parts": "jsonb", "name": "text",
    "tool_call_id": "text", "user_id": "text", "agent_id": "text", "provider": "text", "model": "text",
    "tokens_input": "integer", "tokens_output": "integer", "important": "boolean", "client_key": "text",
    "content_hash": "bytea", "metadata": "jsonb", "created_at": "timestamptz",
}  # fmt: skip
"""As OpenThread writes its rows."""
_COUNTED: dict[str, TypeEngine[Any]] = {
    "id": Uuid(), "last_seq": Integer(), "messages": Integer(), "tokens_input": BigInteger(),
    "tokens_output": BigInteger(), "last_message_at": DateTime(timezone=True),
}  # fmt: skip


async def write_threads(session: AsyncSession, threads: Sequence[PreparedThread]) -> list[AppendResult | LLMStackError]:
    """Append the messages of each thread, all of them or none; results, or why it was refused, in the given order."""
    opened = await open_threads(session, threads)
    targets = [opened[thread.owner_id, thread.ref] for thread in threads]
    return await _append(session, list(zip(threads, targets, strict=True)))


async def append_to(session: AsyncSession, thread: PreparedThread, opened: OpenThread) -> AppendResult:
    """Append messages to a thread that is open."""
    (result,) = await _append(session, [(thread, opened)])
    if isinstance(result, LLMStackError):
        raise result
    return result


async def _append(
    session: AsyncSession, pairs: Sequence[tuple[PreparedThread, OpenThread | LLMStackError]]
) -> list[AppendResult | LLMStackError]:
    opened = [(thread, target) for thread, target in pairs if isinstance(target, OpenThread)]
    await _know_keys(session, opened)
    await _know_places(session, opened)
    unmatched = await _without_call(session, opened)
    results = [
        target if isinstance(target, LLMStackError) else _placed(thread, target, unmatched.get(id(thread), []))
        for thread, target in pairs
    ]
    await write_rows(session, list({target.id: target for _, target in opened}.values()))
    return results


def _placed(thread: PreparedThread, target: OpenThread, without_call: Sequence[str]) -> AppendResult | LLMStackError:
    is_new, target.is_new = target.is_new, False
    try:
        messages = target.place(thread.messages)
    except LLMStackError as error:
        return error
    return AppendResult(
        owner_id=target.owner_id,
        thread_id=target.id,
        id_at_origin=target.id_at_origin,
        is_new=is_new,
        messages=tuple(messages),
        cleaned=any(message.cleaned for message in thread.messages),
        without_call=tuple(without_call),
    )


async def write_rows(session: AsyncSession, threads: Sequence[OpenThread]) -> None:
    """Store what was placed, owe its vectors, and count it."""
    rows = [row for thread in threads for row in thread.rows]
    if not rows:
        return
    counts = row_values(
        _COUNTED,
        (
            (
                thread.id, thread.last_seq, len(thread.rows), thread.tokens_input, thread.tokens_output,
                thread.last_message_at,
            )
            for thread in threads
            if thread.rows
        ),
        name="counts",
    )  # fmt: skip
    if len(rows) < COPIED:
        await session.execute(_writing(), {**row_values(_COLUMNS, rows), **counts})
        return
    await copy_rows(session, _MESSAGES, _COLUMNS, rows)
    written = [WrittenRow(row[1], row[0], None, is_new=True) for row in rows]
    await owe_elsewhere(session, EMBEDDED_MESSAGES, written, space=None)
    await session.execute(_counting(), counts)


@functools.cache
def _writing() -> Insert:
    """The rows, their jobs in every living space, and the counts of their threads."""
    rows = given_rows({name: _MESSAGES.c[name].type for name in _COLUMNS})
    written = (
        insert(_MESSAGES)
        .from_select(list(_COLUMNS), select(*rows.c))
        .returning(_MESSAGES.c.owner_id, _MESSAGES.c.id, _MESSAGES.c.search_vector.is_not(None).label("is_searched"))
        .cte("written")
    )
    owed = (
        select(written.c.owner_id, written.c.id, EmbeddingSpace.id)
        .join_from(written, EmbeddingSpace, EmbeddingSpace.state != "retired")
        .where(written.c.is_searched)
        # Whoever makes jobs makes them in this order.
        .order_by(written.c.id, EmbeddingSpace.id)
    )
    jobs = core_table(EMBEDDED_MESSAGES.jobs)
    counted = _counting().returning(_THREADS.c.id).cte("counted")
    return postgresql_insert(jobs).from_select(["owner_id", "row_id", "space_id"], owed).add_cte(counted)


@functools.cache
def _counting() -> Update:
    counts = given_rows(_COUNTED, name="counts")
    return (
        update(_THREADS)
        .where(_THREADS.c.id == counts.c.id)
        .values(
            last_seq=counts.c.last_seq,
            message_count=_THREADS.c.message_count + counts.c.messages,
            tokens_input=_THREADS.c.tokens_input + counts.c.tokens_input,
            tokens_output=_THREADS.c.tokens_output + counts.c.tokens_output,
            last_message_at=counts.c.last_message_at,
            updated_at=func.now(),
        )
    )


async def _know_keys(session: AsyncSession, pairs: Sequence[tuple[PreparedThread, OpenThread]]) -> None:
    """Tell each thread which of its messages' client keys it has already."""
    keys = [
        (target.owner_id, target.id, message.given.client_key)
        for thread, target in pairs
        if not target.is_new
        for message in thread.messages
        if message.given.client_key is not None
    ]
    if not keys:
        return
    threads = {target.id: target for _, target in pairs}
    for row in await session.execute(_keyed(), row_values(("owner_id", "thread_id", "client_key"), keys)):
        threads[row.thread_id].known[row.client_key] = row


@functools.cache
def _keyed() -> Select[Any]:
    keys = given_rows({"owner_id": Text(), "thread_id": Uuid(), "client_key": Text()})
    same = (getattr(Message, name) == keys.c[name] for name in ("owner_id", "thread_id", "client_key"))
    known: Any = select(Message.thread_id, Message.client_key, Message.id, Message.seq, Message.content_hash)
    # The client key a second time: the index holds those that are given alone.
    known = known.join(keys, and_(*same)).where(Message.client_key.is_not(None), Message.deleted_at.is_(None))
    return cast(Select[Any], known)


async def _know_places(session: AsyncSession, pairs: Sequence[tuple[PreparedThread, OpenThread]]) -> None:
    """Tell each thread what stands where messages of an import want to; what was deleted still has its place."""
    places = [
        (target.id, message.seq)
        for thread, target in pairs
        if not target.is_new
        for message in thread.messages
        if message.seq is not None
    ]
    if not places:
        return
    threads = {target.id: target for _, target in pairs}
    for row in await session.execute(_placed_before(), row_values(("thread_id", "seq"), places)):
        threads[row.thread_id].taken[row.seq] = row


@functools.cache
def _placed_before() -> Select[Any]:
    places = given_rows({"thread_id": Uuid(), "seq": Integer()})
    same = and_(Message.thread_id == places.c.thread_id, Message.seq == places.c.seq)
    there: Any = select(Message.thread_id, Message.seq, Message.id, Message.content_hash).join(places, same)
    return cast(Select[Any], there)


async def _without_call(
    session: AsyncSession, pairs: Sequence[tuple[PreparedThread, OpenThread]]
) -> dict[int, list[str]]:
    """For each input the answers to tool calls that neither it, nor one before it, nor its thread's last turns made."""
    made: dict[uuid.UUID, set[str]] = {}
    unmatched: dict[int, list[str]] = {}
    for thread, target in pairs:
        known = made.setdefault(target.id, set())
        left = [call for call in unanswered(thread.messages) if call not in known]
        if left and not target.is_new:
            for parts in await session.scalars(_last_parts(target.id)):
                known.update(tool_calls_of(parts))
        unmatched[id(thread)] = [call for call in left if call not in known]
        known.update(call for message in thread.messages for call in tool_calls_of(message.parts))
    return unmatched


def unanswered(messages: Iterable[PreparedMessage]) -> list[str]:
    """Answers among these messages to calls that none before them made."""
    made: set[str] = set()
    found: list[str] = []
    for message in messages:
        made.update(tool_calls_of(message.parts))
        found.extend(call for call in results_of(message) if call not in made)
    return found


def _last_parts(thread_id: uuid.UUID) -> Select[Any]:
    living = and_(Message.thread_id == thread_id, Message.deleted_at.is_(None), Message.parts.is_not(None))
    return select(Message.parts).where(living).order_by(Message.seq.desc()).limit(_CALLS_LOOKED_AT)
