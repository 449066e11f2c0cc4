"""Open threads for writing: each row is locked, or made, and says where its next message comes.

Rows are locked in the order of their ids; writers of different threads never wait for one another.
"""

from __future__ import annotations

import datetime as dt
import functools
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from sqlalchemy import ColumnElement, DateTime, Row, Select, Text, Uuid, and_, bindparam, func, or_, select
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute, aliased
from sqlalchemy.sql.dml import ReturningInsert
from sqlalchemy.types import TypeEngine
from uuid_utils.compat import uuid7

from ..db.arrays import given_rows, row_values
from ..db.checks import any_of
from ..embeddings.tables import core_table
from ..errors import Conflict, LLMStackError
from ..search.analysis import stored_words
from .errors import ClientKeyReused, PlaceTaken, ThreadDeleted, ThreadNotFound
from .models import Message, Thread
from .preparation import CONTEXT_CHARACTERS, context_after
from .records import AppendedMessage, PreparedMessage, PreparedThread, ThreadRef

_ROUNDS = 5
"""Times that a thread may come and go between looking for it and making it."""


class Placed(Protocol):
    """Where a message of a client_key is, and what it says."""

    @property
    def id(self) -> uuid.UUID: ...
    @property
    def seq(self) -> int: ...
    @property
    def content_hash(self) -> bytes: ...


@dataclass(slots=True)
class OpenThread:
    """A thread whose row is locked, and what is about to be written into it."""

    id: uuid.UUID
    owner_id: str
    id_at_origin: str
    language: str
    last_seq: int
    last_message_at: dt.datetime
    is_empty: bool
    now: dt.datetime
    context: str = ""
    is_new: bool = False
    known: dict[str, Placed] = field(default_factory=dict)
    taken: dict[int, Placed] = field(default_factory=dict)
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    tokens_input: int = 0
    tokens_output: int = 0

    def place(self, messages: Sequence[PreparedMessage]) -> list[AppendedMessage]:
        """Give each message its seq; one whose client_key or own seq is known keeps its place.

        All, or ClientKeyReused or PlaceTaken.
        """
        for message in messages:
            self._check(message)
        return [self._place(message) for message in messages]

    def _check(self, message: PreparedMessage) -> None:
        key, known = message.given.client_key, self._known(message)
        if known is None or known.content_hash == message.content_hash:
            return
        raise PlaceTaken(known.seq) if key is None or key not in self.known else ClientKeyReused(key)

    def _known(self, message: PreparedMessage) -> Placed | None:
        key, seq = message.given.client_key, message.seq
        by_key = None if key is None else self.known.get(key)
        return by_key or (None if seq is None else self.taken.get(seq))

    def _place(self, message: PreparedMessage) -> AppendedMessage:
        if (known := self._known(message)) is not None:
            if message.seq is not None:
                # What is put into a gap of a thread answers what stands before the gap.
                self.context = context_after(message.content) or self.context
            return AppendedMessage(known.id, known.seq, is_new=False)
        made = _Written(uuid7(), message.seq or self.last_seq + 1, message.content_hash)
        self.last_seq = max(self.last_seq, made.seq)
        if message.given.client_key is not None:
            self.known[message.given.client_key] = made
        self.taken[made.seq] = made
        self._write(message, made)
        return AppendedMessage(made.id, made.seq, is_new=True)

    def _write(self, message: PreparedMessage, made: Placed) -> None:
        given = message.given
        created_at = message.created_at or self.now
        self.last_message_at = created_at if self.is_empty else max(self.last_message_at, created_at)
        self.is_empty = False
        self.rows.append((
            made.id, self.owner_id, self.id, made.seq, message.role, message.content, self.context,
            stored_words(self.context, message.content), self.language, message.parts, given.name,
            given.tool_call_id, given.user_id, given.agent_id, given.provider, given.model, given.tokens_input,
            given.tokens_output, given.important, given.client_key, message.content_hash, message.metadata,
            created_at,
        ))  # fmt: skip
        self.tokens_input += given.tokens_input or 0
        self.tokens_output += given.tokens_output or 0
        if message.content:
            self.context = context_after(message.content)


@dataclass(frozen=True, slots=True)
class _Written:
    """A message that was placed a moment ago."""

    id: uuid.UUID
    seq: int
    content_hash: bytes


Opened = dict[tuple[str, ThreadRef], OpenThread | LLMStackError]
"""Threads by owner and name; an error stands in the place of one that cannot be written."""


_Wanted = dict[tuple[str, ThreadRef], PreparedThread]


async def open_threads(session: AsyncSession, wanted: Sequence[PreparedThread]) -> Opened:
    """Lock the threads, and make those that are named by an id_at_origin and not there.

    ThreadNotFound or ThreadDeleted stands in the place of one that cannot be written.
    """
    by_id = [(thread.owner_id, thread.ref) for thread in wanted if isinstance(thread.ref, uuid.UUID)]
    opened: Opened = {key: ThreadNotFound(key[1]) for key in by_id}
    opened |= {
        key: thread
        for key, thread in (await _lock(session, by_id, Thread.id)).items()
        if not isinstance(thread, ThreadDeleted)
    }
    missing: _Wanted = {(thread.owner_id, thread.ref): thread for thread in wanted if isinstance(thread.ref, str)}
    for _ in range(_ROUNDS):
        opened |= await _lock(session, list(missing), Thread.id_at_origin)
        if missing := _without(missing, opened):
            opened |= await _make(session, list(missing.values()))
        if not (missing := _without(missing, opened)):
            return _each_once(opened)
    raise Conflict("other transactions made and purged the same threads meanwhile")


def _each_once(opened: Opened) -> Opened:
    """A thread that is named by its id and by its id_at_origin is one."""
    threads: dict[uuid.UUID, OpenThread] = {}
    return {
        key: threads.setdefault(thread.id, thread) if isinstance(thread, OpenThread) else thread
        for key, thread in opened.items()
    }


def _without(wanted: _Wanted, opened: Opened) -> _Wanted:
    return {key: thread for key, thread in wanted.items() if key not in opened}


async def _lock(
    session: AsyncSession, keys: Sequence[tuple[str, ThreadRef]], name: InstrumentedAttribute[Any]
) -> Opened:
    if not keys:
        return {}
    if len(keys) == 1:
        given: dict[str, Any] = dict(zip(("owner_id", "key"), keys[0], strict=True))
    else:
        given = row_values(("owner_id", "key"), keys)
    found = await session.execute(_locking(name, alone=len(keys) == 1), given)
    rows = found.all()
    # Whoever waited for the lock saw the messages from before; and the last one may be gone, or have no text.
    further = [row.id for row in rows if row.is_stale or (row.context is None and row.message_count)]
    contexts = {end.id: end.context for end in await session.execute(_ends_of(further))} if further else {}
    return {(row.owner_id, getattr(row, name.key)): _opened(row, contexts.get(row.id, row.context)) for row in rows}


def _opened(row: Row[Any], context: str | None) -> OpenThread | ThreadDeleted:
    if row.deleted_at is not None:
        return ThreadDeleted(row.id_at_origin)
    return OpenThread(
        id=row.id,
        owner_id=row.owner_id,
        id_at_origin=row.id_at_origin,
        language=row.language,
        last_seq=row.last_seq,
        last_message_at=row.last_message_at,
        is_empty=row.message_count == 0,
        now=row.now,
        context=context_after(context or ""),
    )


@functools.cache
def _locking(name: InstrumentedAttribute[Any], *, alone: bool) -> Select[Any]:
    """Of the threads that are given, or of one `alone`: a chat appends to one at a time, and arrays are dearer."""
    # It is read as of the beginning of the statement, the locked row as it is now.
    seen = aliased(Thread)
    columns = ((getattr(seen, name), getattr(Thread, name)) for name in ("last_seq", "message_count", "deleted_at"))
    changed = or_(*(before.is_distinct_from(now) for before, now in columns))
    is_stale = select(changed).where(seen.id == Thread.id).correlate(Thread).scalar_subquery()
    statement: Any = (
        select(
            Thread.id, Thread.owner_id, Thread.id_at_origin, Thread.language, Thread.last_seq, Thread.message_count,
            Thread.last_message_at, Thread.deleted_at, func.now().label("now"),
            is_stale.label("is_stale"), _end(Message.seq == Thread.last_seq).label("context"),
        )
        .order_by(Thread.id)
        .with_for_update(of=Thread, key_share=True)
    )  # fmt: skip
    if alone:
        one = (Thread.owner_id == bindparam("owner_id", type_=Text), name == bindparam("key", type_=name.type))
        return cast(Select[Any], statement.where(*one))
    keys = given_rows({"owner_id": Text(), "key": name.type})
    return cast(Select[Any], statement.join(keys, and_(Thread.owner_id == keys.c.owner_id, name == keys.c.key)))


def _ends_of(thread_ids: Sequence[uuid.UUID]) -> Select[Any]:
    statement: Any = select(Thread.id, _end().label("context")).where(any_of(Thread.id, thread_ids))
    return cast(Select[Any], statement)


def _end(*conditions: ColumnElement[bool]) -> ColumnElement[str | None]:
    """The end of the last living turn with a text; a character more than it, which tells where it was cut."""
    living = and_(Message.thread_id == Thread.id, Message.deleted_at.is_(None), Message.content != "")
    last = select(func.right(Message.content, CONTEXT_CHARACTERS + 1)).where(living, *conditions)
    return last.order_by(Message.seq.desc()).limit(1).correlate(Thread).scalar_subquery()


_MADE: dict[str, TypeEngine[Any]] = {
    "id": Uuid(), "owner_id": Text(), "id_at_origin": Text(), "user_id": Text(), "agent_id": Text(),
    "session_id": Text(), "title": Text(), "language": Text(), "metadata": JSONB(),
    "created_at": DateTime(timezone=True),
}  # fmt: skip


async def _make(session: AsyncSession, threads: Sequence[PreparedThread]) -> Opened:
    """Make the threads, but those that somebody else makes at this moment."""
    rows = [
        (
            uuid7(), thread.owner_id, thread.ref, thread.given.user_id, thread.given.agent_id,
            thread.given.session_id, thread.given.title, thread.language, thread.metadata, thread.begun_at,
        )
        for thread in sorted(threads, key=lambda thread: (thread.owner_id, thread.ref))
    ]  # fmt: skip
    made = await session.execute(_making(), row_values(_MADE, rows))
    return {
        (row.owner_id, row.id_at_origin): OpenThread(
            id=row.id,
            owner_id=row.owner_id,
            id_at_origin=row.id_at_origin,
            language=row.language,
            last_seq=0,
            last_message_at=row.last_message_at,
            is_empty=True,
            now=row.now,
            is_new=True,
        )
        for row in made
    }


@functools.cache
def _making() -> ReturningInsert[Any]:
    table = core_table(Thread)
    rows = given_rows(_MADE)
    values = {name: rows.c[name] for name in _MADE} | {"created_at": func.coalesce(rows.c.created_at, func.now())}
    values["last_message_at"] = values["created_at"]
    return (
        insert(table)
        .from_select(list(values), select(*values.values()))
        .on_conflict_do_nothing()
        .returning(
            table.c.id, table.c.owner_id, table.c.id_at_origin, table.c.language, table.c.last_message_at,
            func.now().label("now"),
        )
    )  # fmt: skip
