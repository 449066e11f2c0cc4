"""Messages and summaries as corpora: which a filter means, and what a hit shows of them."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Select, Text, null, select, type_coerce
from sqlalchemy.orm import InstrumentedAttribute

from ..db.checks import any_of, as_uuid, check_date, each, listed
from ..errors import ValidationError
from ..retrieval import Corpus, Filter, Group, SearchHit, Sequel
from ..search import metadata_filter
from ..search.languages import spoken_in
from .embedding import EMBEDDED_MESSAGES, EMBEDDED_SUMMARIES
from .models import MESSAGES, SUMMARIES, Message, Thread, ThreadSummary
from .preparation import check_role


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadFilter(Filter):
    """Which threads; every part that is given must hold. `since` and `until` are those of the last message.

    Dates are inclusive and need a time zone; `metadata` is the threads' own.
    """

    thread_ids: Sequence[uuid.UUID] | None = None
    id_at_origin: str | Sequence[str] | None = None
    user_id: str | Sequence[str] | None = None
    agent_id: str | Sequence[str] | None = None
    session_id: str | Sequence[str] | None = None
    metadata: Mapping[str, Any] | None = None
    since: dt.datetime | None = None
    until: dt.datetime | None = None

    def on_threads(self) -> list[ColumnElement[bool]]:
        """The filter on `Thread`; raises ValidationError on bad values."""
        return [*self._named(), *_between(Thread.last_message_at, self.since, self.until)]

    def _named(self) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = []
        if self.thread_ids is not None:
            ids = [as_uuid("thread_ids", value) for value in each("thread_ids", self.thread_ids)]
            found.append(any_of(Thread.id, ids))
        for column in (Thread.id_at_origin, Thread.user_id, Thread.agent_id, Thread.session_id):
            if (wanted := getattr(self, column.key)) is not None:
                found.append(any_of(column, listed(column.key, wanted)))
        if self.metadata is not None and self.metadata != {}:
            found.append(metadata_filter(Thread.metadata_, self.metadata))
        return found

    def _within(self, thread_id: InstrumentedAttribute[uuid.UUID], owner_id: str) -> list[ColumnElement[bool]]:
        if not (found := self._named()):
            return []
        return [thread_id.in_(select(Thread.id).where(Thread.owner_id == owner_id, *found))]


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageFilter(ThreadFilter):
    """Which messages, by their threads and by themselves; `since` and `until` are when they were said."""

    roles: str | Sequence[str] | None = None
    important: bool | None = None

    def conditions(self, owner_id: str) -> list[ColumnElement[bool]]:
        """The filter on `Message`."""
        found = [*self._within(Message.thread_id, owner_id), *_between(Message.created_at, self.since, self.until)]
        if self.roles is not None:
            found.append(
                any_of(Message.role, [check_role(role, field="roles") for role in listed("roles", self.roles)])
            )
        if self.important is not None:
            found.append(Message.important.is_(bool(self.important)))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryFilter(ThreadFilter):
    """Which summaries, by their threads; `since` and `until` are when they were made."""

    def conditions(self, owner_id: str) -> list[ColumnElement[bool]]:
        """The filter on `ThreadSummary`."""
        made = _between(ThreadSummary.created_at, self.since, self.until)
        return [*self._within(ThreadSummary.thread_id, owner_id), *made]


def _between(
    moment: InstrumentedAttribute[dt.datetime], since: dt.datetime | None, until: dt.datetime | None
) -> list[ColumnElement[bool]]:
    found = []
    if (earliest := check_date("since", since)) is not None:
        found.append(moment >= earliest)
    if (latest := check_date("until", until)) is not None:
        found.append(moment <= latest)
    return found


def check_threads(where: object) -> ThreadFilter:
    """A filter of threads; ValidationError for a mapping, which would be none."""
    if type(where) is not ThreadFilter:
        raise ValidationError("where", f"it is a ThreadFilter, not {type(where).__name__}")
    return where


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationHit(SearchHit):
    """A message that was found, or a summary, which has no role, with its thread.

    `seq` is the message's, or the last that the summary covers; `first_seq` the first. `metadata` is the message's.
    """

    thread_id: uuid.UUID
    id_at_origin: str
    title: str | None
    seq: int
    first_seq: int
    role: str | None
    name: str | None
    user_id: str | None
    agent_id: str | None
    created_at: dt.datetime
    metadata: Mapping[str, Any]


def _show_message(statement: Select[Any], message: Any) -> Select[Any]:
    return statement.add_columns(
        message.thread_id,
        Thread.id_at_origin,
        Thread.title,
        message.seq,
        message.seq.label("first_seq"),
        message.role,
        message.name,
        message.user_id,
        message.agent_id,
        message.created_at,
        message.metadata_.label("metadata"),
    ).join(Thread, Thread.id == message.thread_id)


def _show_summary(statement: Select[Any], summary: Any) -> Select[Any]:
    nothing = (type_coerce(null(), Text).label(name) for name in ("role", "name", "user_id", "agent_id"))
    return statement.add_columns(
        summary.thread_id,
        Thread.id_at_origin,
        Thread.title,
        summary.last_seq.label("seq"),
        summary.first_seq,
        *nothing,
        summary.created_at,
        summary.metadata_.label("metadata"),
    ).join(Thread, Thread.id == summary.thread_id)


def _spoken(owner_id: str | BindParameter[str]) -> Select[Any]:
    return spoken_in(Thread.language, owned=Thread.owner_id == owner_id)


MESSAGE_CORPUS = Corpus(
    name=MESSAGES,
    rows=Message,
    vectors=EMBEDDED_MESSAGES,
    hit=ConversationHit,
    where=MessageFilter,
    show=_show_message,
    languages=_spoken,
    moment=Message.created_at,
    groups={"thread": Group(by=Message.thread_id)},
    sequel=Sequel(within=("thread_id",), place="seq", where=lambda message: message.deleted_at.is_(None)),
)
"""Messages as they are searched, each with the end of the turn before it."""

SUMMARY_CORPUS = Corpus(
    name=SUMMARIES,
    rows=ThreadSummary,
    vectors=EMBEDDED_SUMMARIES,
    hit=ConversationHit,
    where=SummaryFilter,
    show=_show_summary,
    languages=_spoken,
    moment=ThreadSummary.created_at,
    groups={"thread": Group(by=ThreadSummary.thread_id)},
    terms=MESSAGES,
)
"""The current summaries of threads."""
