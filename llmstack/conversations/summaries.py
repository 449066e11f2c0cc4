"""Summaries of threads: which are due, what they are made of, and how a new one takes the place of the last."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import ColumnElement, Float, Select, and_, case, func, or_, select
from sqlalchemy import cast as sql_cast
from sqlalchemy.ext.asyncio import AsyncSession

from ..embeddings import queue
from ..providers.tokens import count_tokens
from ..settings import Settings
from .embedding import EMBEDDED_SUMMARIES
from .errors import HistoryChanged, ThreadNotFound
from .models import Message, Thread, ThreadSummary
from .queries import living, named, owned
from .records import ThreadRef
from .removal import retire_summary

TITLE_CHARACTERS = 200
"""What of a title is searched and embedded with the summary."""
_HIGH, _MEDIUM = 0.7, 0.4
"""Importance from which a summary is made anew sooner, and from the higher one is longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DueSummary:
    """A thread whose summary is due, how much it matters, and how long its summary may be."""

    owner_id: str
    thread_id: uuid.UUID
    importance: float
    characters: int


@dataclass(frozen=True, slots=True)
class Unsummarised:
    """What a summary of a thread is to be made of: its current one, and the messages after it."""

    thread: Thread
    current: ThreadSummary | None
    messages: Sequence[Message]
    importance: float

    @property
    def first_seq(self) -> int:
        return self.current.first_seq if self.current is not None else self.messages[0].seq


def importance(*, kept: Any, tier: Any, messages: Any, hours: Any) -> ColumnElement[float]:
    """How much a thread matters, from 0 to 1: what was kept of it, its tier, its length, and how fresh it is.

    .3 min(1, kept / 10) + .3 tier + .2 min(1, messages / 50) + .2 max(0, 1 - hours / 24), where `tier` is .4 for one
    and .2 for the next of the two upper tiers of memories.
    """
    made: ColumnElement[float] = (
        0.3 * func.least(1.0, sql_cast(kept, Float) / 10.0)
        + 0.3 * sql_cast(tier, Float)
        + 0.2 * func.least(1.0, sql_cast(messages, Float) / 50.0)
        + 0.2 * func.greatest(0.0, 1.0 - sql_cast(hours, Float) / 24.0)
    )
    return made


def importance_of_threads() -> ColumnElement[float]:
    """The importance of a `Thread`; what was kept of it are its messages that are marked as important."""
    kept = select(func.count()).where(living(Thread.id), Message.important).correlate(Thread).scalar_subquery()
    hours = func.extract("epoch", func.now() - Thread.last_message_at) / 3600.0
    return importance(kept=kept, tier=0.0, messages=Thread.message_count, hours=hours)


def due(settings: Settings, *, owner_id: str | None, limit: int) -> Select[Any]:
    """(owner_id, thread_id, importance) of threads with new messages, the most important first.

    A thread without a summary is due from `summary_least_messages` on; another one after 15, 30 or 60 minutes, the
    sooner the more important it is.
    """
    current = and_(ThreadSummary.thread_id == Thread.id, ThreadSummary.is_current, ThreadSummary.deleted_at.is_(None))
    threads = (
        select(
            Thread.owner_id,
            Thread.id.label("thread_id"),
            importance_of_threads().label("importance"),
            ThreadSummary.updated_at,
        )
        .outerjoin(ThreadSummary, current)
        .where(
            Thread.deleted_at.is_(None),
            Thread.message_count >= settings.summary_least_messages,
            Thread.last_seq > func.coalesce(ThreadSummary.last_seq, 0),
        )
    )
    if owner_id is not None:
        threads = threads.where(Thread.owner_id == owner_id)
    found = threads.subquery("found")
    waited = func.now() - found.c.updated_at
    pause = case(
        (found.c.importance > _HIGH, settings.summary_minutes_high),
        (found.c.importance > _MEDIUM, settings.summary_minutes_medium),
        else_=settings.summary_minutes_low,
    )
    is_due = or_(found.c.updated_at.is_(None), func.extract("epoch", waited) >= sql_cast(pause, Float) * 60.0)
    statement: Any = select(found.c.owner_id, found.c.thread_id, found.c.importance).where(is_due)
    return cast(Select[Any], statement.order_by(found.c.importance.desc(), found.c.thread_id).limit(limit))


def characters(importance: float, settings: Settings) -> int:
    """How long the summary of such a thread may be."""
    return settings.summary_characters_high if importance > _HIGH else settings.summary_characters


async def current_summary(session: AsyncSession, thread_id: uuid.UUID) -> ThreadSummary | None:
    """The summary of a living thread that stands."""
    statement = select(ThreadSummary).where(
        ThreadSummary.thread_id == thread_id, ThreadSummary.is_current, ThreadSummary.deleted_at.is_(None)
    )
    return (await session.scalars(statement)).one_or_none()


async def read_unsummarised(session: AsyncSession, *, owner_id: str, thread: ThreadRef) -> Unsummarised:
    """The thread with what its summary lacks; ThreadNotFound."""
    statement: Any = select(Thread, importance_of_threads()).where(owned(owner_id), named(thread))
    found = (await session.execute(statement)).one_or_none()
    if found is None:
        raise ThreadNotFound(thread)
    current = await current_summary(session, found[0].id)
    after = 0 if current is None else current.last_seq
    messages = select(Message).where(living(found[0].id), Message.seq > after).order_by(Message.seq)
    return Unsummarised(found[0], current, (await session.scalars(messages)).all(), found[1])


async def store_summary(session: AsyncSession, seen: Unsummarised, text: str, *, model: str | None) -> ThreadSummary:
    """Let the text be the current summary, unless another one came meanwhile: that is given then.

    HistoryChanged where messages that it speaks of were taken out meanwhile, or the thread was.
    """
    locking = select(Thread.title).where(Thread.id == seen.thread.id, Thread.deleted_at.is_(None))
    locked = (await session.execute(locking.with_for_update(key_share=True))).one_or_none()
    if locked is None:
        raise HistoryChanged(seen.thread.id)
    current = await current_summary(session, seen.thread.id)
    if current is not None and (seen.current is None or current.id != seen.current.id):
        return current
    said = Message.seq.between(seen.messages[0].seq, seen.messages[-1].seq)
    number = await session.scalar(select(func.count()).where(living(seen.thread.id), said))
    if number != len(seen.messages) or (current is None and seen.current is not None):
        raise HistoryChanged(seen.thread.id)
    if current is not None:
        await retire_summary(session, current.owner_id, current.thread_id, from_seq=current.last_seq)
    return await _add(session, seen, text, title=locked.title, model=model)


async def _add(
    session: AsyncSession, seen: Unsummarised, text: str, *, title: str | None, model: str | None
) -> ThreadSummary:
    context = (title or "")[:TITLE_CHARACTERS]
    summary = ThreadSummary(
        owner_id=seen.thread.owner_id,
        thread_id=seen.thread.id,
        language=seen.thread.language,
        context=context,
        content=text,
        first_seq=seen.first_seq,
        last_seq=seen.messages[-1].seq,
        token_count=count_tokens(text),
        model=model,
    )
    session.add(summary)
    await session.flush()
    await session.execute(queue.owe(EMBEDDED_SUMMARIES, [summary.id], are_new=True))
    return summary
