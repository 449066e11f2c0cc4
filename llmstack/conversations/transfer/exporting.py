"""Write threads as lines, in bounded memory."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from ...db.checks import any_of, check_owner, each
from ...db.database import Service
from ..corpus import ThreadFilter, check_threads
from ..errors import ThreadNotFound
from ..formats import as_messages
from ..models import Message, Thread, ThreadSummary
from ..preparation import check_thread
from ..queries import living, owned
from ..records import ThreadRef
from .lines import Format, check_format, written

THREADS_AT_ONCE = 100
"""Threads of one snapshot."""
MESSAGES_AT_ONCE = 200
THREAD_FIELDS = ("id_at_origin", "user_id", "agent_id", "session_id", "title", "language", "metadata", "created_at")
MESSAGE_FIELDS = (
    "seq", "role", "content", "parts", "name", "tool_call_id", "user_id", "agent_id", "provider", "model",
    "tokens_input", "tokens_output", "important", "client_key", "metadata", "created_at",
)  # fmt: skip
SUMMARY_FIELDS = (
    "is_current", "first_seq", "last_seq", "token_count", "model", "content", "metadata", "created_at",
)  # fmt: skip
BESIDE_MESSAGES = ("tools", "parallel_tool_calls", "functions")
"""What a chat of OpenAI's has beside its messages; a thread keeps it in its metadata."""

Write = Callable[[AsyncSession, Thread, bool], AsyncIterator[str]]


async def export_threads(
    service: Service,
    *,
    owner_id: str,
    threads: Iterable[ThreadRef] | None,
    where: ThreadFilter | None,
    format: Format,
) -> AsyncGenerator[str, None]:
    """The lines of the living threads that are named and match, in the order of their id_at_origin."""
    check_format(format)
    write: Write = _records if format == "jsonl" else _chat
    conditions = [owned(check_owner(owner_id))]
    if threads is not None:
        conditions.append(await service.read(lambda session: _named(session, owner_id, list(each("threads", threads)))))
    if where is not None:
        conditions += check_threads(where).on_threads()
    page: Sequence[Thread] | None = None
    while page is None or len(page) == THREADS_AT_ONCE:
        async with _snapshot(service) as session:
            page = await _page(session, conditions, page[-1] if page else None)
            summarised = await _summarised(session, page)
            for thread in page:
                async for line in write(session, thread, thread.id in summarised):
                    yield line


@contextlib.asynccontextmanager
async def _snapshot(service: Service) -> AsyncIterator[AsyncSession]:
    """A session that sees one moment, for as long as whoever takes the lines needs."""
    async with service.session() as session:
        moment = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        await session.connection(execution_options=moment)
        await session.execute(select(func.set_config("idle_in_transaction_session_timeout", "0", True)))
        yield session


async def _named(session: AsyncSession, owner_id: str, threads: Sequence[ThreadRef]) -> ColumnElement[bool]:
    """The condition on threads of these names; ThreadNotFound for the first that is not there."""
    wanted = [check_thread(thread) for thread in threads]
    ids = [thread for thread in wanted if isinstance(thread, uuid.UUID)]
    names = [thread for thread in wanted if isinstance(thread, str)]
    condition = or_(any_of(Thread.id, ids), any_of(Thread.id_at_origin, names))
    rows = await session.execute(select(Thread.id, Thread.id_at_origin).where(owned(owner_id), condition))
    there = {name for row in rows for name in row}
    for thread in wanted:
        if thread not in there:
            raise ThreadNotFound(thread)
    return condition


async def _page(
    session: AsyncSession, conditions: Sequence[ColumnElement[bool]], after: Thread | None
) -> Sequence[Thread]:
    behind = [] if after is None else [Thread.id_at_origin > after.id_at_origin]
    page = select(Thread).where(*conditions, *behind).order_by(Thread.id_at_origin).limit(THREADS_AT_ONCE)
    return (await session.scalars(page)).all()


async def _summarised(session: AsyncSession, threads: Sequence[Thread]) -> set[uuid.UUID]:
    ids = [thread.id for thread in threads]
    found = select(ThreadSummary.thread_id).where(any_of(ThreadSummary.thread_id, ids)).distinct()
    return set(await session.scalars(found))


async def _records(session: AsyncSession, thread: Thread, is_summarised: bool) -> AsyncIterator[str]:
    """A line for the thread, one for each message, and one for each version of its summary."""
    named = {"thread": thread.id_at_origin}
    yield written({"kind": "thread"} | {name: getattr(thread, _attribute(name)) for name in THREAD_FIELDS})
    async for message in _messages(session, thread):
        yield written({"kind": "message"} | named | dict(zip(MESSAGE_FIELDS, message, strict=True)))
    if is_summarised:
        for summary in await _summaries(session, thread):
            yield written({"kind": "summary"} | named | dict(zip(SUMMARY_FIELDS, summary, strict=True)))


async def _chat(session: AsyncSession, thread: Thread, _: bool) -> AsyncIterator[str]:
    """A line for the thread, none for one without messages."""
    messages: list[Any] = [message async for message in _messages(session, thread)]
    if not messages:
        return
    own = {name: getattr(thread, _attribute(name)) for name in THREAD_FIELDS}
    metadata = own.pop("metadata")
    beside = {name: metadata[name] for name in BESIDE_MESSAGES if name in metadata}
    about = {name: value for name, value in own.items() if value is not None}
    yield written({"messages": as_messages(messages, "openai"), **beside, "metadata": about})


async def _messages(session: AsyncSession, thread: Thread) -> AsyncIterator[Row[Any]]:
    columns = [_column(Message, name) for name in MESSAGE_FIELDS]
    page: Sequence[Row[Any]] | None = None
    while page is None or len(page) == MESSAGES_AT_ONCE:
        behind = page[-1].seq if page else 0
        wanted = select(*columns).where(living(thread.id), Message.seq > behind).order_by(Message.seq)
        page = (await session.execute(wanted.limit(MESSAGES_AT_ONCE))).all()
        for row in page:
            yield row


async def _summaries(session: AsyncSession, thread: Thread) -> Sequence[Row[Any]]:
    columns = [_column(ThreadSummary, name) for name in SUMMARY_FIELDS]
    wanted = select(*columns).where(ThreadSummary.thread_id == thread.id, ThreadSummary.deleted_at.is_(None))
    order = (ThreadSummary.created_at, ThreadSummary.last_seq, ThreadSummary.first_seq, ThreadSummary.content)
    return (await session.execute(wanted.order_by(*order))).all()


def _attribute(name: str) -> str:
    return "metadata_" if name == "metadata" else name


def _column(model: type[Any], name: str) -> InstrumentedAttribute[Any]:
    column: InstrumentedAttribute[Any] = getattr(model, _attribute(name))
    return column
