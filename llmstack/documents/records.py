"""What goes into the documents service and what comes out of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .chunking import ChunkingConfig, ChunkPiece
from .models import Document

Chunking = str | Callable[[str], Any]
ContextMode = Literal["full", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentInput:
    """A document as its owner supplies it; (owner_id, id_at_origin) is its identity.

    `context` says whether name and section are searched and embedded with each passage, "full" or "none"; without it
    that is the setting `document_context`.
    """

    owner_id: str
    id_at_origin: str
    content: str
    document_name: str | None = None
    document_type: str = "unknown"
    document_date: dt.datetime | None = None
    language: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    chunking: Chunking = "hierarchical"
    chunking_config: ChunkingConfig | None = None
    context: ContextMode | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AddResult:
    """What became of one document; `error` says why it was refused, and is None for `add`.

    `is_new`: there was none of this identity, or only a deleted one. `cleaned`: NUL characters or lone surrogates
    were removed. `embedding_error`: why vectors are pending.
    """

    owner_id: str
    id_at_origin: str
    document: Document | None = None
    is_new: bool = False
    unchanged: bool = False
    cleaned: bool = False
    chunks_created: int = 0
    chunks_kept: int = 0
    chunks_deleted: int = 0
    embeddings_created: int = 0
    embeddings_pending: int = 0
    elapsed: dt.timedelta = dt.timedelta(0)
    embedding_error: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class AddProgress:
    """Documents and chunks that add_many has dealt with so far."""

    documents: int
    chunks: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentStatistics:
    """What an owner has; chunks, tokens and coverage count leaves, bytes the UTF-8 text of the documents.

    `embedded` maps a space's name to the number of leaves with a vector in it.
    """

    documents: int
    chunks: int
    tokens: int
    bytes: int
    by_type: Mapping[str, int]
    by_language: Mapping[str, int]
    embedded: Mapping[str, int]

    def coverage(self, space: str) -> float:
        """The share of leaves with a vector in the space; 1.0 when there are none."""
        return self.embedded.get(space, 0) / self.chunks if self.chunks else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedChunk:
    """A piece with everything that its row needs; `parent` is an index into the document's chunks."""

    piece: ChunkPiece
    context: str
    content_hash: bytes
    further_words: str

    @property
    def is_leaf(self) -> bool:
        return self.piece.level == 0

    @property
    def embedded_text(self) -> str:
        return f"{self.context}\n{self.piece.content}" if self.context else self.piece.content


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedDocument:
    """A validated and cleaned document; with its chunks it is ready to be written."""

    owner_id: str
    id_at_origin: str
    name: str
    document_type: str
    document_date: dt.datetime | None
    language: str
    content: str
    content_hash: bytes
    content_bytes: int
    chunking: Mapping[str, Any]
    metadata: Mapping[str, Any]
    cleaned: bool
    chunks: Sequence[PreparedChunk] = ()

    @property
    def identity(self) -> tuple[str, str]:
        return self.owner_id, self.id_at_origin
