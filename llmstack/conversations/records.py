"""What goes into the conversations service and what comes out of it."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .models import Thread

ThreadRef = uuid.UUID | str
"""A thread by its id, a UUID, or by its id_at_origin, a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageInput:
    """A message as its client supplies it: `content` or `parts`, or both.

    `parts` are tool calls, tool results, images, files and reasoning as they were given, a JSON object each. A message
    of a `client_key` is stored once in its thread, however often it is sent. Without `created_at` it is now.
    """

    role: str
    content: str = ""
    parts: Sequence[Mapping[str, Any]] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    user_id: str | None = None
    agent_id: str | None = None
    provider: str | None = None
    model: str | None = None
    tokens_input: int | None = None
    tokens_output: int | None = None
    important: bool = False
    client_key: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    created_at: dt.datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadInput:
    """Messages for a thread; one that is named by no `thread`, or by an id_at_origin that is new, is made.

    What is not about messages counts for a thread that is made, and changes nothing of one that is there.
    """

    owner_id: str
    messages: Sequence[MessageInput | Mapping[str, Any]]
    thread: ThreadRef | None = None
    user_id: str | None = None
    agent_id: str | None = None
    session_id: str | None = None
    title: str | None = None
    language: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    created_at: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class AppendedMessage:
    """Where a message is; `is_new` is False for one whose client_key was known."""

    id: uuid.UUID
    seq: int
    is_new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendResult:
    """What became of the messages of one thread, in their order.

    `is_new`: the thread was made. `cleaned`: NUL characters or lone surrogates were removed. `without_call` are ids of
    tool calls that are answered, but were not made in this thread. `branch_of` is the thread that this one was forked
    from where a window had edited its history. `error` says why `append_many` refused it.
    """

    owner_id: str
    thread_id: uuid.UUID | None = None
    id_at_origin: str | None = None
    is_new: bool = False
    messages: Sequence[AppendedMessage] = ()
    cleaned: bool = False
    without_call: Sequence[str] = ()
    branch_of: uuid.UUID | None = None
    error: str | None = None

    @property
    def appended(self) -> int:
        """How many messages were stored now."""
        return sum(message.is_new for message in self.messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """What became of a thread of an import, which began on this line, or of a line that was refused, by its `error`.

    A long thread comes in parts, each with its own numbers. `messages` and `summaries` were stored now, `known`
    messages were there. `cleaned`: NUL characters or lone surrogates were removed.
    """

    line: int
    id_at_origin: str | None = None
    thread_id: uuid.UUID | None = None
    is_new: bool = False
    messages: int = 0
    known: int = 0
    summaries: int = 0
    cleaned: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True)
class AppendProgress:
    """Threads and messages that append_many has dealt with so far."""

    threads: int
    messages: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadPreview:
    """A thread of a list, with the beginning of its last message; None for a thread without messages."""

    thread: Thread
    last_role: str | None
    last_content: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationStatistics:
    """What an owner has that is not deleted; tokens are those that the messages name.

    `embedded` maps a space's name to the number of messages with a vector in it.
    """

    threads: int
    messages: int
    summaries: int
    tokens_input: int
    tokens_output: int
    by_role: Mapping[str, int]
    by_model: Mapping[str, int]
    embedded: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedMessage:
    """A message that was checked and cleaned; one of an import has the seq that it had where it came from."""

    given: MessageInput
    role: str
    content: str
    parts: list[dict[str, Any]] | None
    metadata: dict[str, Any]
    content_hash: bytes
    created_at: dt.datetime | None
    cleaned: bool
    seq: int | None = None

    @property
    def tool_call_id(self) -> str | None:
        return self.given.tool_call_id


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedThread:
    """Messages on their way into a thread; one that was not named has an id_at_origin that is new."""

    given: ThreadInput
    owner_id: str
    ref: ThreadRef
    language: str
    metadata: dict[str, Any]
    begun_at: dt.datetime | None
    messages: Sequence[PreparedMessage]
