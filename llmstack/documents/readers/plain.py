"""Files that are their own text: plain text, source code, Markdown."""

from __future__ import annotations

from typing import Any

from llmstack.errors import ValidationError

from .encodings import decode, is_binary
from .sources import Source, SourceText


def read_text(source: Source) -> SourceText:
    """Text and source code, as they are."""
    text, metadata = _decoded(source)
    return SourceText(text, source.format, source.path.name, metadata=metadata)


def read_markdown(source: Source) -> SourceText:
    """Markdown as it is; its first heading of level 1 is the title."""
    text, metadata = _decoded(source)
    return SourceText(text, "markdown", first_heading(text) or source.path.stem, metadata=metadata)


def first_heading(text: str) -> str | None:
    """The first heading of level 1 that no fence of code encloses."""
    from ..chunking.structure import markdown_headings

    return next((title for level, title in markdown_headings(text) if level == 1), None)


def encoding_of(encoding: str) -> dict[str, Any]:
    """The metadata that names an encoding other than the usual one."""
    return {} if encoding == "utf-8" else {"encoding": encoding}


def _decoded(source: Source) -> tuple[str, dict[str, Any]]:
    data = source.read()
    if is_binary(data[:4096], source.encoding):
        raise ValidationError("path", f"{source.name} is binary, not text")
    text, encoding = decode(data, source.encoding)
    return text, encoding_of(encoding)
