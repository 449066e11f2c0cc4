"""Statements of the conversations domain beside its search, as values."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import (
    ColumnElement,
    Select,
    Update,
    Uuid,
    and_,
    func,
    literal,
    literal_column,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.orm import aliased

from ..db.paging import Keyset
from ..embeddings import EmbeddingSpace
from .models import Message, MessageEmbedding, Thread, ThreadSummary
from .records import ThreadRef

PREVIEW_CHARACTERS = 200
"""What a list shows of the last message."""

RECENCY = Keyset("last_message_at", (Thread.last_message_at, Thread.id))
"""The order of a list of threads; those of the same moment are told apart by their id."""


def owned(owner_id: str, *, deleted: bool = False) -> ColumnElement[bool]:
    """The owner's threads: the living, or the deleted."""
    state = Thread.deleted_at.is_not(None) if deleted else Thread.deleted_at.is_(None)
    return and_(Thread.owner_id == owner_id, state)


def named(thread: ThreadRef) -> ColumnElement[bool]:
    """The thread of this id, or of this id_at_origin."""
    return Thread.id == thread if isinstance(thread, uuid.UUID) else Thread.id_at_origin == thread


def living(thread_id: Any) -> ColumnElement[bool]:
    """The messages of a thread that are not deleted."""
    return and_(Message.thread_id == thread_id, Message.deleted_at.is_(None))


def page_of_threads(
    owner_id: str, conditions: Sequence[ColumnElement[bool]], *, limit: int, cursor: str | None, deleted: bool
) -> Select[Any]:
    """(total, Thread, last_role, last_content) rows, one more than the limit; a page without rows has its total."""
    wanted = [owned(owner_id, deleted=deleted), *conditions]
    total = select(func.count().label("total")).select_from(Thread).where(*wanted).subquery()
    behind = RECENCY.after(cursor)
    rows = select(Thread).where(*wanted, *behind).order_by(*RECENCY.order()).limit(limit + 1).subquery()
    page = aliased(Thread, rows)
    # Messages of a deleted thread are deleted, too.
    last = (
        select(Message.role, func.left(Message.content, PREVIEW_CHARACTERS).label("content"))
        .where(Message.thread_id == page.id, true() if deleted else Message.deleted_at.is_(None))
        .order_by(Message.seq.desc())
        .limit(1)
        .lateral("last")
    )
    statement: Any = (
        select(total.c.total, page, last.c.role.label("last_role"), last.c.content.label("last_content"))
        .select_from(total)
        .outerjoin(page, true())
        .outerjoin(last, true())
        .order_by(*RECENCY.order((page.last_message_at, page.id)))
    )
    return cast(Select[Any], statement)


def messages_of(owner_id: str, thread: ThreadRef) -> Select[Any]:
    """The living messages of a living thread, in no order."""
    # Not a join: the index gives the end of one thread in its order, else all of it is read and sorted.
    of = select(Thread.id).where(owned(owner_id), named(thread)).scalar_subquery()
    said: Any = select(Message).where(living(of), Message.owner_id == owner_id)
    return cast(Select[Any], said)


def recount(thread_id: uuid.UUID) -> Update:
    """Count a thread by its living messages; its last seq stays."""
    said = (
        select(
            literal(thread_id, Uuid()).label("thread_id"),
            func.count().label("messages"),
            func.coalesce(func.sum(Message.tokens_input), 0).label("tokens_input"),
            func.coalesce(func.sum(Message.tokens_output), 0).label("tokens_output"),
            func.max(Message.created_at).label("last_message_at"),
        )
        .where(living(thread_id))
        .cte("said")
    )
    return (
        update(Thread)
        .where(Thread.id == said.c.thread_id)
        .values(
            message_count=said.c.messages,
            tokens_input=said.c.tokens_input,
            tokens_output=said.c.tokens_output,
            last_message_at=func.coalesce(said.c.last_message_at, Thread.created_at),
            updated_at=func.now(),
        )
    )


def statistics_of(owner_id: str) -> Select[Any]:
    """(kind, name, number) rows: totals, and counts by role, model and embedding space."""
    threads = select(Thread).where(owned(owner_id)).subquery()
    said = and_(Message.owner_id == owner_id, Message.deleted_at.is_(None))
    current = and_(ThreadSummary.owner_id == owner_id, ThreadSummary.is_current, ThreadSummary.deleted_at.is_(None))

    def row(kind: str, name: Any, number: Any) -> Select[Any]:
        return select(
            literal_column(f"'{kind}'").label("kind"), name.label("name"), func.coalesce(number, 0).label("number")
        )

    nameless: ColumnElement[str] = literal_column("''")
    vectors = and_(MessageEmbedding.owner_id == owner_id, MessageEmbedding.searchable)
    return select(literal_column("*")).select_from(
        union_all(
            row("threads", nameless, func.count(threads.c.id)),
            row("messages", nameless, func.sum(threads.c.message_count)),
            row("tokens_input", nameless, func.sum(threads.c.tokens_input)),
            row("tokens_output", nameless, func.sum(threads.c.tokens_output)),
            row("summaries", nameless, func.count()).select_from(ThreadSummary).where(current),
            row("role", Message.role, func.count()).where(said).group_by(Message.role),
            row("model", Message.model, func.count()).where(said, Message.model.is_not(None)).group_by(Message.model),
            row("embedded", EmbeddingSpace.name, func.count())
            .join_from(MessageEmbedding, EmbeddingSpace, MessageEmbedding.space_id == EmbeddingSpace.id)
            .where(vectors)
            .group_by(EmbeddingSpace.name),
        ).subquery()
    )
