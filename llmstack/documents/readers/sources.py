"""A file as it waits to be read, and as it was read."""

from __future__ import annotations

import mailbox
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import md5
from pathlib import Path
from typing import Any

from llmstack.errors import ValidationError

from ..errors import NothingToRead
from .formats import TEXTUAL, format_of, known_suffixes

_LONGEST_PART = 200


@dataclass(frozen=True, slots=True)
class Source:
    """A file that becomes a document, or one of the documents in it."""

    path: Path
    format: str
    part: str = ""
    """What tells this document from the others of the same file: a mail's Message-ID, or a hash."""
    data: bytes | None = None
    """The part's own bytes."""
    encoding: str | None = None
    max_bytes: int = 100_000_000

    @property
    def name(self) -> str:
        return f"{self.path}#{self.part}" if self.part else str(self.path)

    def read(self) -> bytes:
        return self.path.read_bytes() if self.data is None else self.data


@dataclass(frozen=True, slots=True)
class SourceText:
    """A file's text, ready to be added as a document."""

    text: str
    document_type: str
    title: str
    language: str | None = None
    """As the file itself declares it."""
    metadata: dict[str, Any] = field(default_factory=dict)


def sources(path: Path, *, encoding: str | None = None, max_bytes: int = 100_000_000) -> Iterator[Source]:
    """Give what becomes a document each: the file itself, or the messages of a mailbox one after another.

    `encoding` is that of plain text and HTML. A file that holds more than `max_bytes` of text, packed or not, is not
    read. Raises ValidationError for what is no regular file or of an unknown kind, and NothingToRead where it is empty.
    """
    found = format_of(path)
    if found is None:
        raise ValidationError("path", f"{path} is of an unknown kind; known are {known_suffixes()}")
    try:
        status = path.stat()
    except OSError as error:
        raise ValidationError("path", f"{path} cannot be read: {error.strerror or error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ValidationError("path", f"{path} is not a regular file")
    if not status.st_size:
        raise NothingToRead(f"{path} is empty")
    if found == "mbox":
        yield from _messages(path, max_bytes)
        return
    if found in TEXTUAL:
        check_size(str(path), status.st_size, max_bytes)
    yield Source(path, found, encoding=encoding, max_bytes=max_bytes)


def check_size(name: str, size: int, limit: int, what: str = "it holds") -> None:
    """Raise ValidationError for more bytes of text than a document could have."""
    if size > limit:
        said = f"{what} {size:,} bytes; {limit:,} are read, twice max_text_bytes (LLMSTACK_MAX_TEXT_BYTES)"
        raise ValidationError("path", f"{name} is too large: {said}")


def _messages(path: Path, max_bytes: int) -> Iterator[Source]:
    seen: dict[str, int] = {}
    box = mailbox.mbox(path, create=False)
    try:
        if not len(box):
            raise ValidationError("path", f"{path} is not a readable mailbox: no line in it begins a message")
        for key in box.iterkeys():
            data = box.get_bytes(key)
            part = _identity(data)
            seen[part] = seen.get(part, 0) + 1
            if seen[part] > 1:
                part = f"{part}~{seen[part]}"
            yield Source(path, "email", part, data, max_bytes=max_bytes)
    finally:
        box.close()


def _identity(message: bytes) -> str:
    """The Message-ID, which stays where other messages go; a hash where there is none."""
    head = message.partition(b"\n\n")[0].decode("ascii", "replace")
    for line in head.splitlines():
        name, _, value = line.partition(":")
        if name.lower() == "message-id" and 0 < len(said := value.strip().strip("<>")) <= _LONGEST_PART:
            return said
    return md5(message, usedforsecurity=False).hexdigest()
