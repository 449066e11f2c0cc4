"""The chunking strategies."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator

from llmstack.errors import ValidationError

from ...providers.tokens import count_tokens
from .custom import custom_pieces
from .pieces import (
    CHUNKING_STRATEGIES,
    DOCUMENT_TYPES,
    MAX_PIECE_TOKENS,
    Chunker,
    ChunkingConfig,
    ChunkPiece,
    Sizes,
    sizes_for,
)
from .splitting import Span, spans, trimmed
from .structure import Part, Sections, chat_turns, email_parts, markdown_sections, with_bodies

_MARKDOWN = frozenset({"markdown", "html", "docx"})
_PERHAPS_MARKDOWN = frozenset(DOCUMENT_TYPES) - _MARKDOWN - {"text", "code", "email", "chat"}
_HEADING = re.compile(r"(?m)^#{1,6} \S")
_SURROGATE = re.compile("[\ud800-\udfff]")
_REGION = 64_000


@dataclasses.dataclass(frozen=True, slots=True)
class _Source:
    """A text with what its type says of it; `text` has the length of the original and can be encoded."""

    text: str
    document_type: str
    sizes: Sizes
    markdown: bool


_Family = tuple[Span | None, list[Span], tuple[str, ...] | None]


def chunk(
    text: str, *, document_type: str, strategy: str | Chunker, config: ChunkingConfig | None = None
) -> list[ChunkPiece]:
    """Cut the text into pieces in reading order, a parent directly before its children.

    Parents do not overlap unless `parent_overlap` says so; leaves of one parent do, by `overlap`. A parent
    that would hold a single leaf is left out. Every character but white space is in a leaf.
    """
    if document_type not in DOCUMENT_TYPES:
        raise ValidationError("document_type", f"{document_type!r} is not one of {', '.join(DOCUMENT_TYPES)}")
    if callable(strategy):
        return custom_pieces(text, strategy)
    if not isinstance(strategy, str) or strategy not in _STRATEGIES:
        raise ValidationError("chunking", f"{strategy!r} is not one of {', '.join(CHUNKING_STRATEGIES)}")
    clean = _SURROGATE.sub("\ufffd", text)
    sizes = _sizes(strategy, document_type, length=len(text), config=config or ChunkingConfig())
    source = _Source(clean, document_type, sizes, _is_markdown(clean, document_type))
    sections = Sections(markdown_sections(clean)) if source.markdown else Sections([])
    return list(_pieces(text, _STRATEGIES[strategy](source), sections)) if clean.strip() else []


def _is_markdown(text: str, document_type: str) -> bool:
    return document_type in _MARKDOWN or (document_type in _PERHAPS_MARKDOWN and _HEADING.search(text) is not None)


def _sizes(strategy: str, document_type: str, *, length: int, config: ChunkingConfig) -> Sizes:
    if strategy == "none":
        config = dataclasses.replace(config, chunk_size=config.chunk_size or MAX_PIECE_TOKENS)
    if strategy in ("fixed_size", "none") and config.overlap:
        raise ValidationError("overlap", f"{strategy} has none; sliding_window has")
    sizes = sizes_for(document_type, length=length, config=config)
    if config.overlap is None and strategy != "hierarchical":
        overlap = sizes.leaf // 5 if strategy == "sliding_window" else 0
        return dataclasses.replace(sizes, overlap=overlap)
    return sizes


def _pieces(text: str, families: Iterable[_Family], sections: Sections) -> Iterator[ChunkPiece]:
    """Number the families; a parent of one leaf is that leaf."""
    index = 0
    for parent, leaves, section in families:
        above = None
        if parent is not None and len(leaves) > 1:
            yield _piece(text, parent, section, sections, level=1)
            above, index = index, index + 1
        for leaf in leaves:
            yield _piece(text, leaf, section, sections, parent=above)
        index += len(leaves)


def _piece(
    text: str,
    span: Span,
    section: tuple[str, ...] | None,
    sections: Sections,
    *,
    level: int = 0,
    parent: int | None = None,
) -> ChunkPiece:
    content = text[slice(*span)]
    path = sections.of(*span) if section is None else section
    return ChunkPiece(content, *span, level, parent, path, count_tokens(content))


def _hierarchical(source: _Source) -> Iterator[_Family]:
    for region in _regions(source):
        yield from _nested(source, region, None)


def _nested(source: _Source, within: Span, section: tuple[str, ...] | None) -> Iterator[_Family]:
    sizes, markdown = source.sizes, source.markdown
    for parent in spans(source.text, within, size=sizes.parent, overlap=sizes.parent_overlap, markdown=markdown):
        yield parent, _leaves(source, parent), section


def _leaves(source: _Source, within: Span) -> list[Span]:
    sizes = source.sizes
    return spans(source.text, within, size=sizes.leaf, overlap=sizes.overlap, markdown=source.markdown)


def _regions(source: _Source) -> Iterator[Span]:
    """Group whole sections, so that no window of the splitter begins inside a fenced block."""
    if not source.markdown:
        yield 0, len(source.text)
        return
    start = 0
    for part in markdown_sections(source.text):
        if part.end - start > _REGION and part.start > start:
            yield start, part.start
            start = part.start
    yield start, len(source.text)


def _flat(source: _Source) -> Iterator[_Family]:
    for region in _regions(source):
        yield None, _leaves(source, region), None


def _whole(source: _Source) -> Iterator[_Family]:
    """Keep one piece, without the white space at its ends; a text over the limit of a piece is cut at it."""
    yield None, _leaves(source, (0, len(source.text))), None


def _semantic(source: _Source) -> Iterator[_Family]:
    if source.document_type == "chat" and (turns := chat_turns(source.text)):
        yield from _conversation(source, turns)
    elif source.document_type == "email":
        yield from _parts(source, email_parts(source.text))
    elif source.markdown:
        yield from _parts(source, with_bodies(source.text, markdown_sections(source.text)))
    else:
        yield from _flat(source)


def _parts(source: _Source, parts: list[Part]) -> Iterator[_Family]:
    for part in parts:
        yield from _nested(source, (part.start, part.end), part.section)


def _conversation(source: _Source, turns: list[Part]) -> Iterator[_Family]:
    """Make a leaf of each turn and a parent of as many turns as fit."""
    group: list[Span] = []
    tokens = 0
    for turn in turns:
        span = trimmed(source.text, (turn.start, turn.end))
        size = count_tokens(source.text[slice(*span)]) + 1
        if group and tokens + size > source.sizes.parent:
            yield _exchange(source, group)
            group, tokens = [], 0
        if size > source.sizes.parent:
            yield from _nested(source, span, ())
            continue
        group.append(span)
        tokens += size
    if group:
        yield _exchange(source, group)


def _exchange(source: _Source, turns: list[Span]) -> _Family:
    leaves = [leaf for turn in turns for leaf in _leaves(source, turn)]
    return (turns[0][0], turns[-1][1]), leaves, ()


_STRATEGIES: dict[str, Callable[[_Source], Iterator[_Family]]] = {
    "hierarchical": _hierarchical,
    "fixed_size": _flat,
    "sliding_window": _flat,
    "semantic": _semantic,
    "none": _whole,
}
