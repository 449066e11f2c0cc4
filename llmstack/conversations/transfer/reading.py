"""From the lines of an import to threads that can be written; holds what is not handed on yet. Touches no database."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from ...db.checks import each
from ...errors import ValidationError
from ...settings import Settings
from ..preparation import MAX_TOKENS, prepare_message, prepare_messages, prepare_thread
from ..records import ImportResult, PreparedMessage, PreparedThread, ThreadInput
from .lines import ArrayReader, Format, moment, parsed
from .records import PreparedSummary, message_of, prepare_summary, thread_of

_ABOUT = ("user_id", "agent_id", "session_id", "title", "language")
"""What the metadata of a chat may say of its thread, beside its name and its moment."""


@dataclass(slots=True)
class Source:
    """A thread that lines are read for; what follows of one that is refused is passed over."""

    line: int
    given: ThreadInput
    is_refused: bool = False
    last_seq: int = 0

    @property
    def name(self) -> str:
        return str(self.given.thread)


@dataclass(frozen=True, slots=True)
class Piece:
    """A thread, or a part of one, that is written all or none; `lines` are those of its messages, by their seq."""

    source: Source
    thread: PreparedThread
    summaries: list[PreparedSummary] = field(default_factory=list)
    lines: Mapping[int, int] = field(default_factory=dict)


class Reader(Protocol):
    """Reads one line after another; `pause` hands on what was read, `end` tells what is missing."""

    def read(self, number: int, line: str) -> Iterator[Piece | ImportResult]: ...
    def pause(self) -> Iterator[Piece | ImportResult]: ...
    def end(self, number: int) -> Iterator[Piece | ImportResult]: ...


class RecordReader:
    """Reads lines of a thread, its messages and its summaries."""

    def __init__(self, owner_id: str, language: str | None, settings: Settings) -> None:
        self._owner_id, self._language, self._settings = owner_id, language, settings
        self._source: Source | None = None
        self._unread: int | None = None
        self._messages: list[tuple[int, PreparedMessage]] = []
        self._summaries: list[PreparedSummary] = []
        self._is_new = False

    def read(self, number: int, line: str) -> Iterator[Piece | ImportResult]:
        """What the line ends, and why it is refused."""
        try:
            record = parsed(line)
            kind = record.pop("kind", None) if isinstance(record, dict) else None
            kinds = {"thread": self._thread, "message": self._message, "summary": self._summary}
            if kind not in kinds:
                said = "it is missing" if kind is None else f"{kind!r:.60} is unknown"
                raise ValidationError("kind", f"{said}; use one of {', '.join(kinds)}")
        except ValidationError as error:
            self._unread = number
            yield ImportResult(line=number, error=str(error))
            return
        if kind == "thread":
            yield from self.pause()
        yield from self._refusing(number, record, kinds[kind])

    def _refusing(
        self, number: int, record: dict[str, Any], read: Callable[[int, dict[str, Any]], None]
    ) -> Iterator[ImportResult]:
        try:
            read(number, record)
        except ValidationError as error:
            yield ImportResult(line=number, id_at_origin=self._name_of(record), error=str(error))

    def _name_of(self, record: dict[str, Any]) -> str | None:
        """The thread that a line names, or else the one that it follows."""
        name = record.get("id_at_origin", record.get("thread"))
        if name is None and self._source is not None and self._unread is None:
            name = self._source.given.thread
        return name if isinstance(name, str) and name else None

    def _thread(self, number: int, record: dict[str, Any]) -> None:
        self._unread = None
        named = ThreadInput(owner_id=self._owner_id, messages=(), thread=str(record.get("id_at_origin") or ""))
        self._source = Source(number, named, is_refused=True)
        given = thread_of(self._owner_id, record, self._language)
        prepare_thread(given, (), self._settings)
        self._source, self._is_new = Source(number, given), True

    def _message(self, number: int, record: dict[str, Any]) -> None:
        if (source := self._found(record)).is_refused:
            return
        seq = source.last_seq = _next_seq(source, record.pop("seq", None))
        message = prepare_message(message_of(record), self._settings)
        self._messages.append((number, replace(message, seq=seq)))

    def _summary(self, number: int, record: dict[str, Any]) -> None:
        if not self._found(record).is_refused:
            self._summaries.append(prepare_summary(record, self._settings))

    def _found(self, record: dict[str, Any]) -> Source:
        """The thread that a line is of."""
        name = record.get("thread")
        if self._source is None:
            raise ValidationError("thread", "no line of a thread stands before it")
        if name is not None and name != self._source.name:
            raise ValidationError("thread", f"the line of {name!r:.200} does not stand before it")
        if name is None and self._unread is not None:
            raise ValidationError("thread", f"line {self._unread} cannot be read, and may have begun its thread")
        return self._source

    def pause(self) -> Iterator[Piece | ImportResult]:
        """What was read of the thread so far."""
        source, messages, summaries = self._source, self._messages, self._summaries
        if source is None or source.is_refused or not (self._is_new or messages or summaries):
            return
        self._messages, self._summaries, self._is_new = [], [], False
        try:
            thread = prepare_thread(source.given, [message for _, message in messages], self._settings)
        except ValidationError as error:
            source.is_refused = True
            yield ImportResult(line=source.line, id_at_origin=source.name, error=str(error))
            return
        yield Piece(source, thread, summaries, {message.seq or 0: line for line, message in messages})

    def end(self, number: int) -> Iterator[Piece | ImportResult]:
        """Nothing is missing."""
        return iter(())


def _next_seq(source: Source, seq: object) -> int:
    if seq is None:
        return source.last_seq + 1
    if not isinstance(seq, int) or isinstance(seq, bool) or not source.last_seq < seq <= MAX_TOKENS:
        raise ValidationError("seq", f"{seq!r:.60} is no whole number above {source.last_seq}, that of the one before")
    return seq


class ChatReader:
    """Reads chats as OpenAI has them: an object or a list of messages on each line, or arrays of these."""

    def __init__(self, owner_id: str, language: str | None, settings: Settings) -> None:
        self._owner_id, self._language, self._settings = owner_id, language, settings
        self._array: ArrayReader | None = None
        self._single: list[Any] = []

    def read(self, number: int, line: str) -> Iterator[Piece | ImportResult]:
        """The chats that end on this line."""
        if self._array is None and not line.lstrip().startswith("["):
            yield from self._refusing(number, lambda: self._chat(number, parsed(line)))
            return
        self._array = self._array or ArrayReader(number)
        for begun, text in self._array.feed(number, line):
            yield from self._refusing(begun, partial(self._element, begun, text))
        if self._array.is_closed:
            yield from self.end(number)

    def _refusing(self, number: int, read: Callable[[], Piece | None]) -> Iterator[Piece | ImportResult]:
        try:
            found = read()
        except ValidationError as error:
            yield ImportResult(line=number, error=str(error))
        else:
            if found is not None:
                yield found

    def _element(self, number: int, text: str) -> Piece | None:
        value = parsed(text)
        if isinstance(value, dict) and "role" in value and "messages" not in value:
            self._single.append(value)
            return None
        return self._chat(number, value)

    def _chat(self, number: int, value: object) -> Piece:
        chat = {"messages": value} if isinstance(value, list) else value
        if not isinstance(chat, dict) or not chat.get("messages"):
            raise ValidationError("messages", "there are none; a chat is an object with messages, or a list of them")
        messages = [_dated(place, message) for place, message in enumerate(each("messages", chat.pop("messages")))]
        given = _thread_of_chat(self._owner_id, chat, messages, self._language)
        prepared = prepare_messages(messages, self._settings)
        numbered = [replace(message, seq=seq) for seq, message in enumerate(prepared, 1)]
        return Piece(Source(number, given), prepare_thread(given, numbered, self._settings))

    def pause(self) -> Iterator[Piece | ImportResult]:
        """Nothing waits but the messages of a single chat, whose end is not known."""
        return iter(())

    def end(self, number: int) -> Iterator[Piece | ImportResult]:
        """The chat whose messages were the array, and what the array lacks."""
        if (array := self._array) is None:
            return
        if messages := self._single:
            yield from self._refusing(array.line, lambda: self._chat(array.line, messages))
        self._array, self._single = None, []
        if error := array.error:
            yield ImportResult(line=number, error=error)


def _dated(place: int, message: Any) -> Any:
    if isinstance(message, Mapping) and message.get("created_at") is not None:
        return {**message, "created_at": moment(f"messages[{place}].created_at", message["created_at"])}
    return message


def _thread_of_chat(owner_id: str, chat: dict[str, Any], messages: list[Any], language: str | None) -> ThreadInput:
    """The thread of a chat: what its metadata says of one, and the rest of it as metadata."""
    about = chat.pop("metadata", None) or {}
    if not isinstance(about, dict):
        raise ValidationError("metadata", f"it must be an object, not {type(about).__name__}")
    own = {name: about.pop(name) for name in _ABOUT if about.get(name) is not None}
    begun = about.pop("created_at", None)
    return ThreadInput(
        owner_id=owner_id,
        messages=(),
        thread=about.pop("id_at_origin", None) or _name_of(messages),
        metadata={**chat, **about},
        created_at=None if begun is None else moment("metadata.created_at", begun),
        **{"language": language, **own},
    )


def _name_of(messages: list[Any]) -> str:
    """The same name for the same chat, whenever and from wherever it is read."""
    text = json.dumps(messages, sort_keys=True, default=str)
    return f"import:{hashlib.sha256(text.encode()).hexdigest()[:32]}"


READERS: dict[Format, Callable[[str, str | None, Settings], Reader]] = {"jsonl": RecordReader, "openai": ChatReader}
