"""Threads and messages inside the caller's session."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.checks import any_of, as_uuid, check_date, check_limit, check_metadata, check_owner, listed
from ..db.paging import Page
from ..errors import LLMStackError, ValidationError
from ..providers.tokens import count_tokens
from ..settings import Settings
from . import queries
from .corpus import ThreadFilter, check_threads
from .errors import MessageNotFound, ThreadNotFound
from .forking import fork_thread
from .history import Context, Counter, History
from .models import Message, Thread, ThreadSummary
from .preparation import check_name, check_role, check_thread, check_title, prepared
from .queries import living, named, owned
from .reading import MAX_HISTORY, read_context, read_history
from .records import (
    AppendResult,
    ConversationStatistics,
    MessageInput,
    ThreadInput,
    ThreadPreview,
    ThreadRef,
)
from .removal import delete_threads, purge_deleted, restore_threads, retire_summary, take_out
from .summaries import DueSummary, characters, due
from .windows import OnEdit, write_window
from .writer import write_threads

_UNSYNCHRONIZED = {"synchronize_session": False}


class ConversationRepository:
    """Reads and changes conversations inside the caller's transaction; another owner's are as good as absent.

    A thread is named by its id, a UUID, or by its id_at_origin, a text. `changed_rows` counts the messages that were
    written, hidden or shown through it: term statistics do not know them yet, and vectors may be owed.
    """

    def __init__(self, session: AsyncSession, *, settings: Settings | None = None) -> None:
        self._session = session
        self._settings = settings or Settings()
        self.changed_rows = 0

    async def append(
        self,
        *,
        owner_id: str,
        messages: Sequence[MessageInput | Mapping[str, Any]],
        thread: ThreadRef | None = None,
        user_id: str | None = None,
        agent_id: str | None = None,
        session_id: str | None = None,
        title: str | None = None,
        language: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> AppendResult:
        """Add messages behind the last one, all or none; a thread of a new name, or of none, is made.

        Its row stays locked until the transaction ends. What is given of the thread counts for one that is made.
        `language` may be "auto". ThreadNotFound for an id that is not there, ThreadDeleted for a deleted name,
        ClientKeyReused where a client_key stands for another message.
        """
        given = ThreadInput(
            owner_id=owner_id,
            messages=messages,
            thread=thread,
            user_id=user_id,
            agent_id=agent_id,
            session_id=session_id,
            title=title,
            language=language,
            metadata={} if metadata is None else metadata,
        )
        (result,) = await write_threads(self._session, [await prepared(given, self._settings)])
        if isinstance(result, LLMStackError):
            raise result
        self.changed_rows += result.appended
        return result

    async def append_window(
        self,
        *,
        owner_id: str,
        thread: ThreadRef,
        messages: Sequence[MessageInput | Mapping[str, Any]],
        on_edit: OnEdit = "conflict",
        user_id: str | None = None,
        agent_id: str | None = None,
        session_id: str | None = None,
        title: str | None = None,
        language: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> AppendResult:
        """Add what is new of the last messages that a client sends each turn.

        The longest end of the history that the window begins with is recognised, by role, content and the ids of tool
        calls; the rest is appended. A window that shows the history with a change raises HistoryEdited, or with
        `on_edit="branch"` goes into a fork of the thread at that message, which says so in its metadata.
        """
        if on_edit not in ("conflict", "branch"):
            raise ValidationError("on_edit", f'{on_edit!r:.60} is unknown; use "conflict" or "branch"')
        given = ThreadInput(
            owner_id=owner_id,
            messages=messages,
            thread=check_thread(thread),
            user_id=user_id,
            agent_id=agent_id,
            session_id=session_id,
            title=title,
            language=language,
            metadata={} if metadata is None else metadata,
        )
        window = await prepared(given, self._settings)
        result = await write_window(self._session, window, branches=on_edit == "branch")
        # All of a branch is new, and it is numbered from 1.
        self.changed_rows += result.appended if result.branch_of is None else result.messages[-1].seq
        return result

    async def fork(
        self,
        *,
        owner_id: str,
        thread: ThreadRef,
        at_seq: int | None = None,
        id_at_origin: str | None = None,
        title: str | None = None,
    ) -> Thread:
        """Copy a thread up to a message, or all of it, into a new one, which says so in its metadata.

        Nothing is embedded anew. Messages are numbered from 1; Conflict where the new name is taken.
        """
        source = await self._lock(owner_id, thread)
        origin = None if id_at_origin is None else str(check_thread(id_at_origin))
        made = await fork_thread(
            self._session,
            source,
            at_seq=source.last_seq if at_seq is None else _check_seq("at_seq", at_seq),
            id_at_origin=origin,
            title=check_title(title),
        )
        self.changed_rows += made.message_count
        return made

    async def find(self, *, owner_id: str, thread: ThreadRef) -> Thread | None:
        """The living thread of this name, if there is one."""
        statement = select(Thread).where(owned(check_owner(owner_id)), named(check_thread(thread)))
        return (await self._session.scalars(statement)).one_or_none()

    async def get(self, *, owner_id: str, thread: ThreadRef) -> Thread:
        """The living thread, or ThreadNotFound."""
        found = await self.find(owner_id=owner_id, thread=thread)
        if found is None:
            raise ThreadNotFound(thread)
        return found

    async def list_threads(
        self,
        *,
        owner_id: str,
        user_id: str | None = None,
        agent_id: str | None = None,
        session_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        since: dt.datetime | None = None,
        limit: int = 50,
        cursor: str | None = None,
        deleted: bool = False,
    ) -> Page[ThreadPreview]:
        """One page and the total, in one statement, what was written to last first; new threads shift no page.

        `since` is the earliest last message.
        """
        where = ThreadFilter(user_id=user_id, agent_id=agent_id, session_id=session_id, metadata=metadata, since=since)
        statement = queries.page_of_threads(
            check_owner(owner_id), where.on_threads(), limit=check_limit(limit), cursor=cursor, deleted=deleted
        )
        rows = (await self._session.execute(statement)).all()
        found = [
            ThreadPreview(thread=thread, last_role=role, last_content=content)
            for _, thread, role, content in rows
            if thread is not None
        ]
        items = found[:limit]
        more = None
        if len(found) > limit:
            last = items[-1].thread
            more = queries.RECENCY.cursor(last.last_message_at, last.id)
        return Page(items=items, total=rows[0].total, cursor=more)

    async def message(self, *, owner_id: str, message_id: uuid.UUID | str) -> Message:
        """The living message, or MessageNotFound."""
        key = as_uuid("message_id", message_id)
        mine = and_(Message.owner_id == check_owner(owner_id), Message.id == key, Message.deleted_at.is_(None))
        message = (await self._session.scalars(select(Message).where(mine))).one_or_none()
        if message is None:
            raise MessageNotFound(key)
        return message

    async def history(
        self,
        *,
        owner_id: str,
        thread: ThreadRef,
        last: int | None = None,
        before: int | None = None,
        after: int | None = None,
        since: dt.datetime | None = None,
        roles: str | Sequence[str] | None = None,
        tokens: int | None = None,
        counter: Counter = count_tokens,
    ) -> History:
        """The messages of a thread in order: all, the `last` so many, or what fits into `tokens` from the end.

        `before` and `after` are seqs, both exclusive; `since` a moment. A budget never cuts between a tool call and
        its result: both are in or out, unless `roles` choose among them. `counter` counts the tokens of a text, by
        cl100k_base unless it is given.
        """
        statement = queries.messages_of(check_owner(owner_id), check_thread(thread))
        if before is not None:
            statement = statement.where(Message.seq < _check_seq("before", before))
        if after is not None:
            statement = statement.where(Message.seq > _check_seq("after", after))
        if since is not None:
            statement = statement.where(Message.created_at >= check_date("since", since))
        if roles is not None:
            statement = statement.where(
                any_of(Message.role, [check_role(role, field="roles") for role in listed("roles", roles)])
            )
        most = MAX_HISTORY if last is None else check_limit(last, field="last", most=MAX_HISTORY)
        budget = None if tokens is None else _check_tokens(tokens)
        found = await read_history(
            self._session, statement, most=most, tokens=budget, counter=counter, whole=roles is None
        )
        if not found:
            await self.get(owner_id=owner_id, thread=thread)
        return found

    async def context(
        self, *, owner_id: str, thread: ThreadRef, tokens: int, counter: Counter = count_tokens
    ) -> Context:
        """What a chat call is told of a thread within a budget: all of it, or its summary and the recent turns."""
        opened = await self.get(owner_id=owner_id, thread=thread)
        return await read_context(self._session, opened, tokens=_check_tokens(tokens), counter=counter)

    async def versions(self, *, owner_id: str, thread: ThreadRef) -> Sequence[ThreadSummary]:
        """Every version of a thread's summary, the newest first; the first is current, unless none is."""
        opened = await self.get(owner_id=owner_id, thread=thread)
        versions = select(ThreadSummary).where(ThreadSummary.thread_id == opened.id)
        newest = versions.order_by(ThreadSummary.created_at.desc(), ThreadSummary.id.desc())
        return (await self._session.scalars(newest)).all()

    async def due_summaries(self, *, owner_id: str | None = None, limit: int = 50) -> Sequence[DueSummary]:
        """Threads whose summary is due, the most important first; of every owner without an `owner_id`."""
        owner = None if owner_id is None else check_owner(owner_id)
        found = await self._session.execute(due(self._settings, owner_id=owner, limit=check_limit(limit)))
        return [
            DueSummary(
                owner_id=row.owner_id,
                thread_id=row.thread_id,
                importance=row.importance,
                characters=characters(row.importance, self._settings),
            )
            for row in found
        ]

    async def update(
        self,
        *,
        owner_id: str,
        thread: ThreadRef,
        title: str | None = None,
        user_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        replace: bool = False,
    ) -> Thread:
        """Give the thread a title or a user, and merge keys into its metadata, or `replace` it."""
        limit = self._settings.max_metadata_bytes
        values: dict[str, Any] = {"updated_at": func.now()}
        if title is not None:
            values["title"] = check_title(title)
        if user_id is not None:
            values["user_id"] = check_name("user_id", user_id)
        if metadata is not None:
            checked = check_metadata(metadata, limit=limit)
            values["metadata_"] = checked if replace else Thread.metadata_.concat(checked)
        statement = (
            update(Thread)
            .where(owned(check_owner(owner_id)), named(check_thread(thread)))
            .values(values)
            .returning(Thread)
            .execution_options(populate_existing=True, **_UNSYNCHRONIZED)
        )
        found = (await self._session.scalars(statement)).one_or_none()
        if found is None:
            raise ThreadNotFound(thread)
        check_metadata(found.metadata_, limit=limit)
        return found

    async def important(self, *, owner_id: str, message_id: uuid.UUID | str, important: bool = True) -> Message:
        """Mark a message as important, or not; MessageNotFound."""
        key = as_uuid("message_id", message_id)
        statement = (
            update(Message)
            .where(Message.owner_id == check_owner(owner_id), Message.id == key, Message.deleted_at.is_(None))
            .values(important=bool(important))
            .returning(Message)
            .execution_options(populate_existing=True, **_UNSYNCHRONIZED)
        )
        message = (await self._session.scalars(statement)).one_or_none()
        if message is None:
            raise MessageNotFound(key)
        return message

    async def pop(self, *, owner_id: str, thread: ThreadRef) -> Message | None:
        """Take the last message out of a thread, to try it again; None where there is none. `purge` deletes it."""
        opened = await self._lock(owner_id, thread)
        statement = select(Message).where(living(opened.id)).order_by(Message.seq.desc()).limit(1)
        message = (await self._session.scalars(statement)).one_or_none()
        if message is not None:
            await self._take_out(owner_id, opened, Message.id == message.id)
        return message

    async def clear(self, *, owner_id: str, thread: ThreadRef) -> int:
        """Take every message out of a thread, which stays and goes on behind them; `purge` deletes them."""
        opened = await self._lock(owner_id, thread)
        return await self._take_out(owner_id, opened, living(opened.id))

    async def _lock(self, owner_id: str, thread: ThreadRef) -> Thread:
        mine = select(Thread).where(owned(check_owner(owner_id)), named(check_thread(thread)))
        locking = mine.with_for_update(key_share=True).execution_options(populate_existing=True)
        found = (await self._session.scalars(locking)).one_or_none()
        if found is None:
            raise ThreadNotFound(thread)
        return found

    async def _take_out(self, owner_id: str, thread: Thread, *messages: ColumnElement[bool]) -> int:
        """Hide messages of a locked thread, count it anew, and retire a summary that speaks of them."""
        earliest = await self._session.scalar(select(func.min(Message.seq)).where(*messages))
        if earliest is None:
            return 0
        number = await take_out(self._session, owner_id, *messages)
        await retire_summary(self._session, owner_id, thread.id, from_seq=earliest)
        await self._session.execute(queries.recount(thread.id), execution_options=_UNSYNCHRONIZED)
        await self._session.refresh(thread)
        self.changed_rows += number
        return number

    async def delete(self, *, owner_id: str, thread: ThreadRef) -> int:
        """Hide a thread with its messages and summaries until it is restored or purged; 0 when there is none."""
        return await self._delete(owner_id, named(check_thread(thread)))

    async def delete_many(self, *, owner_id: str, where: ThreadFilter) -> int:
        """Hide every thread that matches; refuses a filter that asks for nothing."""
        conditions = check_threads(where).on_threads()
        if not conditions:
            raise ValidationError("where", "an empty filter would delete every thread; name a condition")
        return await self._delete(owner_id, *conditions)

    async def _delete(self, owner_id: str, *conditions: ColumnElement[bool]) -> int:
        threads, messages = await delete_threads(self._session, check_owner(owner_id), *conditions)
        self._forget(threads, messages)
        return threads

    async def restore(self, *, owner_id: str, thread: ThreadRef) -> int:
        """Bring a deleted thread back with what was deleted with it; 0 when there is none."""
        named_so = named(check_thread(thread))
        threads, messages = await restore_threads(self._session, check_owner(owner_id), named_so)
        self._forget(threads, messages)
        return threads

    async def purge(self, *, owner_id: str, older_than: dt.timedelta = dt.timedelta(0)) -> int:
        """Delete for good what was deleted, popped or cleared at least this long ago; return how many threads went."""
        threads, messages = await purge_deleted(self._session, check_owner(owner_id), older_than)
        self._forget(threads + messages, 0)
        return threads

    def _forget(self, changed: int, rows: int) -> None:
        self.changed_rows += rows
        if changed:
            self._session.expire_all()

    async def statistics(self, *, owner_id: str) -> ConversationStatistics:
        """What the owner has, in one statement."""
        counted: dict[str, dict[str, int]] = {}
        for kind, name, number in await self._session.execute(queries.statistics_of(check_owner(owner_id))):
            counted.setdefault(kind, {})[name] = int(number)
        return ConversationStatistics(
            threads=counted["threads"][""],
            messages=counted["messages"][""],
            summaries=counted["summaries"][""],
            tokens_input=counted["tokens_input"][""],
            tokens_output=counted["tokens_output"][""],
            by_role=counted.get("role", {}),
            by_model=counted.get("model", {}),
            embedded=counted.get("embedded", {}),
        )


def _check_seq(field: str, value: int) -> int:
    return check_limit(value, field=field, least=0, most=2**31 - 1)


def _check_tokens(tokens: int) -> int:
    return check_limit(tokens, field="tokens", least=0, most=2**31 - 1)
