"""Clients that send their last messages each turn: what of a window is new, and whether it edits what was said."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, cast

from sqlalchemy import Row, Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from ..errors import LLMStackError
from .errors import HistoryEdited
from .forking import fork_thread
from .models import Message, Thread
from .opening import OpenThread, open_threads
from .queries import living
from .records import AppendedMessage, AppendResult, PreparedThread
from .writer import append_to

OnEdit = Literal["conflict", "branch"]
Hashes = Sequence[bytes]
"""Messages by their content_hash: role, content and the ids of tool calls."""


def overlap(history: Hashes, window: Hashes) -> int:
    """The longest suffix of the history that is a prefix of the window."""
    most = min(len(history), len(window))
    # The last one first: to compare them all at each length would take the square of a long window.
    lengths = (length for length in range(most, 0, -1) if window[length - 1] == history[-1])
    return next((length for length in lengths if history[len(history) - length :] == window[:length]), 0)


def edited_at(history: Hashes, window: Hashes) -> tuple[int, int] | None:
    """Where a window without overlap leaves the history: messages of the history before it, and of the window.

    None for one that is new. It shows an edited history where two messages or more stand at the same distance as
    there, or where it begins as the history does.
    """
    places = defaultdict(list)
    for place, said in enumerate(history):
        places[said].append(place)
    alike = Counter(here - there for there, said in enumerate(window) for here in places[said] if here >= there)
    start, matches = max(alike.items(), key=lambda found: (found[1], found[0]), default=(0, 0))
    if matches < 2:
        start = 0
        if not history or not window or history[0] != window[0]:
            return None
    shared = common(history[start:], window)
    return start + shared, shared


def common(history: Hashes, window: Hashes) -> int:
    """The length of their common prefix."""
    pairs = enumerate(zip(history, window, strict=False))
    return next((place for place, (here, there) in pairs if here != there), min(len(history), len(window)))


async def write_window(session: AsyncSession, thread: PreparedThread, *, branches: bool) -> AppendResult:
    """Append what is new of a window; an edited history is HistoryEdited, or a branch."""
    opened = (await open_threads(session, [thread]))[thread.owner_id, thread.ref]
    if isinstance(opened, LLMStackError):
        raise opened
    window = [message.content_hash for message in thread.messages]
    said = await _said(session, opened, last=len(window))
    known = overlap([row.content_hash for row in said], window)
    if known or not said:
        return await _append_rest(session, thread, opened, said[len(said) - known :])
    said = await _said(session, opened, last=None)
    left = edited_at([row.content_hash for row in said], window)
    if left is None:
        return await append_to(session, thread, opened)
    place, shared = left
    seq = said[place - 1].seq if place else 0
    if not branches:
        raise HistoryEdited(seq)
    return await _branch(session, thread, opened, seq=seq, shared=shared)


async def _said(session: AsyncSession, thread: OpenThread, *, last: int | None) -> list[Row[Any]]:
    """The living messages of the thread's end, in order."""
    statement: Any = select(Message.id, Message.seq, Message.content_hash).where(living(thread.id))
    ordered = cast(Select[Any], statement).order_by(Message.seq.desc()).limit(last)
    return list((await session.execute(ordered)).all())[::-1]


async def _append_rest(
    session: AsyncSession, thread: PreparedThread, opened: OpenThread, known: Sequence[Row[Any]]
) -> AppendResult:
    rest = replace(thread, messages=thread.messages[len(known) :])
    done = await append_to(session, rest, opened)
    return replace(done, messages=(*(AppendedMessage(row.id, row.seq, is_new=False) for row in known), *done.messages))


async def _branch(
    session: AsyncSession, thread: PreparedThread, opened: OpenThread, *, seq: int, shared: int
) -> AppendResult:
    """Fork the thread where the window leaves it, and append there what the window goes on with."""
    source = await session.get_one(Thread, opened.id, populate_existing=True)
    fork = await fork_thread(session, source, at_seq=seq)
    branch = (await open_threads(session, [replace(thread, ref=fork.id)]))[thread.owner_id, fork.id]
    if isinstance(branch, LLMStackError):
        raise branch
    done = await _append_rest(session, thread, branch, await _said(session, branch, last=shared))
    return replace(done, is_new=True, branch_of=opened.id)
