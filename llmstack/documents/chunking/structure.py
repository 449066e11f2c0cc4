"""Find the parts that a text has by nature: sections, e-mail parts, chat turns."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

_ATX = re.compile(r" {0,3}(#{1,6})(?=\s|$)")
_CLOSING_HASHES = re.compile(r"(?:^|[ \t])#+$")
_SETEXT = re.compile(r" {0,3}(=+|-{2,})\s*$")
_NOT_A_TITLE = re.compile(r"\s|[-*+>|#=]|\d+[.)]\s")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_LONGEST_TITLE = 500

_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]*:(?:\s|$)")
_MAIL_HEADER = re.compile(r"(?im)^(?:from|to|subject|date|message-id):")
_QUOTE = re.compile(
    r"\s*>|On\s.{4,200}\swrote:\s*$|Am\s.{4,200}\sschrieb.{0,80}:\s*$"
    r"|-{2,}\s*(?:original|forwarded) message\s*-{2,}|begin forwarded message:",
    re.IGNORECASE,
)
_SIGNATURE = re.compile(r"--\s*$|sent from my\s", re.IGNORECASE)
_TURN = re.compile(
    r"(?:\[[^\]\n]{1,40}\]\s*|\(?\d[\d:./, T-]{3,24}(?:\s?[ap]m)?\)?\s*-?\s*)?"
    r"[@*<\w](?:[^:\s]|[ ](?=\S)){0,39}:\*{0,2}\s",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of the text and the headings that it is under."""

    start: int
    end: int
    section: tuple[str, ...] = ()


def markdown_sections(text: str) -> list[Part]:
    """Tile the text by its headings; a `#` in a fenced block or in front matter is none."""
    parts: list[Part] = []
    path: list[tuple[int, str]] = []
    start = 0
    for at, level, title in _headings(text):
        parts.append(Part(start, at, tuple(name for _, name in path)))
        path = [entry for entry in path if entry[0] < level]
        if title:
            path.append((level, title))
        start = at
    parts.append(Part(start, len(text), tuple(name for _, name in path)))
    return [part for part in parts if part.start < part.end]


def markdown_headings(text: str) -> Iterator[tuple[int, str]]:
    """Give level and title of each heading."""
    return ((level, title) for _, level, title in _headings(text) if title)


def with_bodies(text: str, parts: list[Part]) -> list[Part]:
    """Join a heading that has no text of its own to the section after it."""
    joined: list[Part] = []
    start: int | None = None
    for part in parts:
        start = part.start if start is None else start
        if _has_body(text, part):
            joined.append(Part(start, part.end, part.section))
            start = None
    if start is not None:
        joined.append(Part(start, parts[-1].end, parts[-1].section))
    return joined


class Sections:
    """Answers which headings a whole span is under."""

    def __init__(self, parts: list[Part]) -> None:
        self._parts = parts
        self._starts = [part.start for part in parts]

    def of(self, start: int, end: int) -> tuple[str, ...]:
        """Give the path that all sections in the span have in common."""
        first = max(0, bisect_right(self._starts, start) - 1)
        last = bisect_right(self._starts, end - 1)
        paths = [part.section for part in self._parts[first:last]]
        if not paths:
            return ()
        shared = itertools.takewhile(lambda names: len(set(names)) == 1, zip(*paths, strict=False))
        return tuple(names[0] for names in shared)


def email_parts(text: str) -> list[Part]:
    """Tile a message by headers, own words, quoted words and signature; the subject is their section."""
    headers = _header_end(text)
    subject = re.search(r"(?im)^subject:[ \t]*(\S.*?)\s*$", text[: min(headers, 100_000)])
    section = (subject[1],) if subject else ()
    parts = [Part(0, headers, section)] if headers else []
    runs = itertools.groupby(_mail_lines(text, headers), key=lambda line: line[1])
    starts = [next(run)[0] for _, run in runs]
    ends = [*starts[1:], len(text)]
    return parts + [Part(start, end, section) for start, end in zip(starts, ends, strict=True)]


def chat_turns(text: str) -> list[Part]:
    """Tile a conversation by its turns, `name: text` or `[time] name: text`; fewer than two are none."""
    starts = [at for at, line in _lines(text) if _TURN.match(line)]
    if len(starts) < 2:
        return []
    starts[0] = 0
    return [Part(start, end) for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


def _lines(text: str, start: int = 0) -> Iterator[tuple[int, str]]:
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield start, text[start:end]
        start = end


def _headings(text: str) -> Iterator[tuple[int, int, str]]:
    """Give offset, level and title."""
    fence = before = previous = ""
    previous_at = 0
    for at, line in _lines(text, _front_matter_end(text)):
        was_inside, fence = bool(fence), _fence_after(line, fence)
        if was_inside or fence or len(line) > _LONGEST_TITLE:
            line = "\\"
        elif heading := _ATX.match(line):
            title = _CLOSING_HASHES.sub("", line[heading.end() :].strip())
            yield at, len(heading[1]), title.strip("*` \t")
            line = ""
        elif (underline := _SETEXT.match(line)) and not before.strip() and _is_title(previous):
            yield previous_at, 1 if underline[1][0] == "=" else 2, previous.strip("*` \t\r\n")
            line = ""
        before, previous, previous_at = previous, line, at


def _is_title(line: str) -> bool:
    return line != "\\" and bool(line.strip()) and not _NOT_A_TITLE.match(line)


def _fence_after(line: str, fence: str) -> str:
    """Give the marker of the fenced block that is open after the line, or nothing."""
    found = _FENCE.match(line) if len(line) <= _LONGEST_TITLE else None
    if found is None:
        return fence
    marker, rest = found[1], found[2].strip()
    if not fence:
        return "" if marker[0] == "`" and "`" in rest else marker
    return "" if marker.startswith(fence) and not rest else fence


def _front_matter_end(text: str) -> int:
    if not re.match(r"---[ \t]*\r?\n", text):
        return 0
    for at, line in itertools.islice(_lines(text), 1, 200):
        if line.rstrip() in ("---", "..."):
            return at + len(line)
    return 0


def _has_body(text: str, part: Part) -> bool:
    lines = (line for _, line in _lines(text[part.start : part.end]) if line.strip())
    first = next(lines, "")
    if part.section and _ATX.match(first):
        return next(lines, None) is not None
    return any(not _SETEXT.match(line) for line in lines) if part.section else bool(first)


def _header_end(text: str) -> int:
    """Find where the body of a message begins; 0 if there are no headers."""
    end = 0
    for at, line in _lines(text):
        if not line.strip() or not (_HEADER.match(line) or (at and line[0] in " \t")):
            break
        end = at + len(line)
    return end if _MAIL_HEADER.search(text, 0, min(end, 100_000)) else 0


def _mail_lines(text: str, start: int) -> Iterator[tuple[int, str]]:
    """Name each line's part; blank lines stay with the part before them."""
    kind = "body"
    forwarded = False
    for at, line in _lines(text, start):
        head = line[:300]
        if _QUOTE.match(head):
            # What follows the line of a forwarded message belongs to it, whatever it looks like.
            kind, forwarded = "quoted", forwarded or head.startswith("--") or "forwarded" in head
        elif _SIGNATURE.match(head) and not forwarded:
            kind = "signature"
        elif head.strip() and kind == "quoted" and not forwarded:
            kind = "body"
        yield at, kind
