"""Read histories from their end, and what of them fits into a budget of tokens."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import Select, and_, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from . import queries
from .formats import tool_calls_of
from .history import MESSAGE_TOKENS, Context, Counter, History, cost_of, fitting, told_by, unanswerable
from .models import Message, Thread
from .queries import living
from .summaries import current_summary

READ_AT_ONCE = 200
"""Messages that are read at a time until a budget is spent."""
MAX_HISTORY = 100_000
"""Messages of one history."""


async def read_history(
    session: AsyncSession,
    statement: Select[Any],
    *,
    most: int,
    tokens: int | None,
    counter: Counter,
    whole: bool = True,
) -> History:
    """The last of a thread's messages in order, so many or what fits; `whole` cuts no result from its call."""
    if tokens is None:
        return await _last(session, statement, most)
    found, left = History(), tokens
    while len(found) < most:
        older = statement if not found else statement.where(Message.seq < found[0].seq)
        page = await _last(session, older, min(READ_AT_ONCE, most - len(found)))
        taken, left = await asyncio.to_thread(fitting, page, left, counter)
        found = History([*page[len(page) - taken :], *found])
        if taken < READ_AT_ONCE:
            break
    return await _whole(session, found) if whole else found


async def read_context(session: AsyncSession, thread: Thread, *, tokens: int, counter: Counter) -> Context:
    """All that was said where it fits, else the thread's summary and what fits beside it."""
    statement = queries.messages_of(thread.owner_id, thread.id)
    recent = await read_history(session, statement, most=MAX_HISTORY, tokens=tokens, counter=counter)
    if len(recent) == thread.message_count:
        return Context(messages=recent, summary=None, tokens=cost_of(recent, counter), left_out=0)
    summary = await current_summary(session, thread.id)
    told = 0 if summary is None else counter(told_by(summary)) + MESSAGE_TOKENS
    if told > tokens:
        summary, told = None, 0
    taken, _ = await asyncio.to_thread(fitting, recent, tokens - told, counter)
    recent = await _whole(session, History(recent[len(recent) - taken :]))
    covered = 0 if summary is None else summary.last_seq
    first = recent[0].seq if recent else thread.last_seq + 1
    between = and_(living(thread.id), Message.seq > covered, Message.seq < first)
    left_out = await session.scalar(select(func.count()).where(between))
    spent = told + cost_of(recent, counter)
    return Context(messages=recent, summary=summary, tokens=spent, left_out=left_out or 0)


async def _last(session: AsyncSession, statement: Select[Any], most: int) -> History:
    rows: list[Message] = list(await session.scalars(statement.order_by(Message.seq.desc()).limit(most)))
    return History(rows[::-1])


async def _whole(session: AsyncSession, found: History) -> History:
    """Without the results at the beginning whose calls are left out; one whose call was never made stays."""
    if not found or not (results := unanswerable(found)):
        return found
    earlier = (
        select(Message.parts)
        .where(living(found[0].thread_id), Message.seq < found[0].seq, Message.parts.is_not(None))
        .order_by(Message.seq.desc())
        .limit(READ_AT_ONCE)
    )
    made = {call for parts in await session.scalars(earlier) for call in tool_calls_of(parts)}
    cut = [place for call, place in results.items() if call in made]
    return await _whole(session, History(found[max(cut) + 1 :])) if cut else found
