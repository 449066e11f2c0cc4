"""Lines of text and the JSON in them; every error says what is wrong with its line."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator
from typing import Any, Literal

from ...errors import ValidationError

Format = Literal["jsonl", "openai"]
FORMATS: tuple[Format, ...] = ("jsonl", "openai")
_BREAKS = str.maketrans({"\u0085": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})
"""What some readers take for the end of a line, and JSON does not."""
_MARKS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},]')


def check_format(format: str) -> None:
    """One of those that are written and read."""
    if format not in FORMATS:
        raise ValidationError("format", f"{format!r:.60} is unknown; known are {', '.join(FORMATS)}")


def written(value: Any) -> str:
    """The value as one line of JSON."""
    return json.dumps(value, ensure_ascii=False, default=_shown).translate(_BREAKS)


def _shown(value: Any) -> str:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON")


def parsed(text: str) -> Any:
    """The JSON of a text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValidationError("line", f"it is not JSON: {error.msg} at character {error.pos + 1}") from None
    except (ValueError, RecursionError) as error:
        raise ValidationError("line", f"it is JSON that cannot be read: {error}") from None


def moment(field: str, value: object) -> dt.datetime:
    """A moment with its offset."""
    try:
        found = dt.datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        found = None
    if found is None or found.utcoffset() is None:
        raise ValidationError(
            field, f"{value!r:.60} is no ISO 8601 moment with an offset, such as 2026-03-01T12:00:00+00:00"
        )
    return found


class ArrayReader:
    """Tells the elements of one JSON array apart, however many lines it takes, and holds one of them at a time."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.is_closed = False
        self._depth = 0
        self._begun: list[str] = []
        self._begun_on = line

    def feed(self, number: int, line: str) -> Iterator[tuple[int, str]]:
        """The elements that end on this line, each with the line that it began on."""
        start = 0
        # A string of JSON has no line break in it.
        for mark in _MARKS.finditer(line):
            if self._depth == 1 and mark[0] in ",]":
                yield from self._end(number, line[start : mark.start()])
                start = mark.end()
            if self._follow(mark[0]):
                start = mark.end()
        self._add(number, line[start:])

    def _follow(self, mark: str) -> bool:
        """Keep count of what is open; True for the bracket that opens the array itself."""
        self._depth += (mark in "[{") - (mark in "]}")
        self.is_closed = self.is_closed or self._depth == 0
        return self._depth == 1 and mark == "[" and not self._begun

    def _add(self, number: int, text: str) -> None:
        if text.strip():
            self._begun_on = self._begun_on if self._begun else number
            self._begun.append(text)

    def _end(self, number: int, text: str) -> Iterator[tuple[int, str]]:
        self._add(number, text)
        if self._begun:
            yield self._begun_on, "\n".join(self._begun)
        self._begun = []

    @property
    def error(self) -> str | None:
        """Why what was read so far is no array."""
        if not self.is_closed:
            return "line: the array that it is a part of does not end"
        return "line: something follows the end of the array" if self._begun else None
