"""Cut a stretch of text at its best boundaries into spans of bounded tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias

from ...providers.tokens import count_tokens

Span: TypeAlias = tuple[int, int]

_WINDOW = 64_000
_CHARACTERS_PER_TOKEN = 16
_GAP = re.compile(r"(?<!\s)\s{500,}")


class _Splitter(Protocol):
    def chunk_indices(self, text: str) -> list[tuple[int, str]]: ...


def spans(text: str, within: Span, *, size: int, overlap: int = 0, markdown: bool = False) -> list[Span]:
    """Cut at headings, paragraphs, sentences, words or, if need be, characters; trim white space.

    No span exceeds `size`, except a single character that takes more tokens. The splitter's work grows with
    the square of an unbroken text, so it sees one window at a time and the last span, which the window may
    have cut, is found again by the next.
    """
    from semantic_text_splitter import MarkdownSplitter, TextSplitter

    kind = MarkdownSplitter if markdown else TextSplitter
    splitter = kind.from_callback(_measure(size), size, overlap=overlap)
    width = max(_WINDOW, 4 * _CHARACTERS_PER_TOKEN * size)
    return [span for stretch in _stretches(text, within) for span in _windows(text, stretch, splitter, width)]


def _stretches(text: str, within: Span) -> Iterator[Span]:
    """Leave out long white space; the splitter would look at each of its lines again and again."""
    start, end = within
    for gap in _GAP.finditer(text, start, end):
        yield start, gap.start()
        start = gap.end()
    yield start, end


def _windows(text: str, within: Span, splitter: _Splitter, width: int) -> Iterator[Span]:
    start, end = within
    while start < end:
        stop = min(start + width, end)
        pieces = splitter.chunk_indices(text[start:stop])
        found = [(start + at, start + at + len(piece)) for at, piece in pieces if not piece.isspace()]
        start = found.pop()[0] if stop < end and len(found) > 1 else stop
        yield from found


def trimmed(text: str, span: Span) -> Span:
    """Leave white space at both ends out."""
    content = text[slice(*span)]
    start = span[0] + len(content) - len(content.lstrip())
    return start, max(start, span[0] + len(content.rstrip()))


def _measure(size: int) -> Callable[[str], int]:
    """Count no further than it takes to know that a text is too large."""
    reach = size * _CHARACTERS_PER_TOKEN

    def measure(text: str) -> int:
        if len(text) > reach and (tokens := count_tokens(text[:reach])) > size:
            return tokens
        return count_tokens(text)

    return measure
