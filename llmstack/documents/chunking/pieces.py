"""What a chunker gives and takes: pieces, and sizes by document type."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from llmstack.errors import ValidationError

CHUNKING_STRATEGIES: tuple[str, ...] = ("hierarchical", "fixed_size", "sliding_window", "semantic", "none")

MAX_PIECE_TOKENS = 8000
"""No piece is larger: embedding models read about 8,192 tokens, and a tsvector keeps 16,383 positions."""

_SHORT, _LONG = 1_000, 50_000


@dataclass(frozen=True, slots=True)
class ChunkPiece:
    """A stretch of the text: `content == text[start:end]`, in characters."""

    content: str
    start: int
    end: int
    level: int = 0
    """0 is a leaf, which search ranks; 1 is a parent of leaves, shown as their context."""
    parent: int | None = None
    """Index of the parent in the list that holds this piece."""
    section: tuple[str, ...] = ()
    """Headings that the whole piece is under, outermost first."""
    token_count: int = 0


Chunker = Callable[[str], Iterable[ChunkPiece | str]]


@dataclass(frozen=True, slots=True)
class ChunkingConfig:
    """Sizes in tokens; what is None follows from the type and the length of the document."""

    chunk_size: int | None = None
    overlap: int | None = None
    parent_size: int | None = None
    parent_overlap: int | None = None


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes in tokens, all decided."""

    parent: int
    leaf: int
    parent_overlap: int
    overlap: int


_COMMON = Sizes(600, 300, 0, 25)
_DENSE = Sizes(800, 400, 0, 30)
_BY_TYPE = {
    "pdf": _DENSE,
    "markdown": _COMMON,
    "code": _DENSE,
    "text": _COMMON,
    "html": _COMMON,
    "docx": Sizes(700, 350, 0, 25),
    "email": Sizes(300, 150, 0, 15),
    "report": _COMMON,
    "chat": Sizes(200, 100, 0, 10),
    "presentation": Sizes(400, 200, 0, 15),
    "legal_document": Sizes(500, 250, 0, 20),
    "technical_doc": _DENSE,
    "business_report": _COMMON,
    "unknown": _COMMON,
}

DOCUMENT_TYPES: tuple[str, ...] = tuple(_BY_TYPE)


def sizes_for(document_type: str, *, length: int, config: ChunkingConfig | None = None) -> Sizes:
    """Take sizes from `config`, else by type; short texts get halves, long ones more.

    A chunk size without a parent size moves the parent size along, and the other way round.
    """
    config = config or ChunkingConfig()
    usual = _usual(document_type, length=length)
    leaf = config.chunk_size
    if leaf is None:
        leaf = usual.leaf if config.parent_size is None else max(1, min(usual.leaf, config.parent_size // 2))
    parent = config.parent_size
    if parent is None:
        parent = min(max(usual.parent, 2 * leaf), MAX_PIECE_TOKENS)
    overlap = min(usual.overlap, leaf // 4) if config.overlap is None else config.overlap
    return _checked(Sizes(parent, leaf, config.parent_overlap or 0, overlap))


def _usual(document_type: str, *, length: int) -> Sizes:
    sizes = _BY_TYPE[document_type]
    if length < _SHORT:
        return Sizes(sizes.parent // 2, sizes.leaf // 2, 0, sizes.overlap // 2)
    if length > _LONG:
        parent, leaf = min(sizes.parent * 3 // 2, 1200), min(sizes.leaf * 6 // 5, 500)
        return Sizes(parent, leaf, 0, sizes.overlap)
    return sizes


def _checked(sizes: Sizes) -> Sizes:
    for field, size in (("chunk_size", sizes.leaf), ("parent_size", sizes.parent)):
        if not 1 <= size <= MAX_PIECE_TOKENS:
            raise ValidationError(field, f"{size} is not between 1 and {MAX_PIECE_TOKENS} tokens")
    if sizes.parent < sizes.leaf:
        raise ValidationError("parent_size", f"{sizes.parent} is smaller than the chunk size {sizes.leaf}")
    _check_overlap("overlap", sizes.overlap, sizes.leaf)
    _check_overlap("parent_overlap", sizes.parent_overlap, sizes.parent)
    return sizes


def _check_overlap(field: str, overlap: int, size: int) -> None:
    if not 0 <= overlap < size:
        raise ValidationError(field, f"{overlap} is not between 0 and {size - 1}, one less than the size")
