"""What goes into the documents service and what comes out of it."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from .chunking import ChunkingConfig, ChunkPiece
from .models import Document

Mode = Literal["hybrid", "vector", "text"]
Chunking = str | Callable[[str], Any]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentInput:
    """A document as its owner supplies it; (owner_id, id_at_origin) is its identity."""

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


@dataclass(frozen=True, slots=True)
class Leg:
    """A hit's place in one leg of the search: its score there, and its rank from 1."""

    score: float
    rank: int


@dataclass(frozen=True, slots=True)
class MatchedTerm:
    """A lexeme of the query in a passage: idf times query frequency times `weight` is its part of the text score."""

    lexeme: str
    idf: float
    frequency: int
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchHit:
    """A passage that was found; `legs` has "text" and "vector" where that leg found it, and "text_2" for a variant.

    `leaf_id` is the passage that was ranked; it differs from `chunk_id` where its parent is shown in its place.
    `score` is what orders the hits: the reranker's where one answered, else `fused_score`. `passages` is how many
    passages a grouped hit stands for; `before` and `after` are its neighbours in reading order. `matched` and
    `similarities` are filled where they are asked for.
    """

    chunk_id: uuid.UUID
    leaf_id: uuid.UUID
    document_id: uuid.UUID
    id_at_origin: str
    document_name: str
    document_type: str
    document_date: dt.datetime | None
    content: str
    context: str
    score: float
    fused_score: float
    legs: Mapping[str, Leg]
    position: int
    start_offset: int
    end_offset: int
    metadata: Mapping[str, Any]
    parent_content: str | None = None
    passages: int = 1
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    matched: tuple[MatchedTerm, ...] = ()
    similarities: tuple[float, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class QueryTerm:
    """A lexeme of the query in the corpus: rows that hold it, and rows of the owner that it is expected to add.

    `is_candidate`: it may bring rows into the text leg; the others only score, for they would exceed the budget.
    """

    lexeme: str
    idf: float
    frequency: int
    document_count: int
    estimated_rows: float
    is_candidate: bool


@dataclass(frozen=True, slots=True)
class PlanStep:
    """A scan of the plan that was executed: `part` is the part of the statement, `rows` all that it returned.

    `relation` is the table, or the function that rows came from.
    """

    part: str
    node: str
    relation: str
    index: str | None
    rows: int
    milliseconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchExplanation:
    """How a search was answered.

    `estimated_rows`, what the candidate terms are expected to bring, is kept within `budget`. `alpha` is the weight of
    the vector leg, None where another fusion was asked for. `milliseconds` by stage; those of the plan are of a second
    execution.
    """

    mode: str
    space: str | None
    wordings: Sequence[str]
    terms: Sequence[QueryTerm]
    budget: int
    estimated_rows: float
    alpha: float | None
    settings: Mapping[str, Any]
    plan: Sequence[PlanStep]
    planning_milliseconds: float
    execution_milliseconds: float
    milliseconds: Mapping[str, float]


class SearchHits(list[SearchHit]):
    """The hits of one search, best first, and how they were found.

    `mode`: the legs that answered. `vector_path`: how the vector leg was answered (`exact`, `index`, or `guard` where
    the index came short and an exact scan replaced it); None without that leg or without hits. `reranked`: whether a
    reranker gave the order. `explanation` where it was asked for. `search_id` names the search in the search log; None
    where none is kept.
    """

    def __init__(
        self,
        hits: Iterable[SearchHit] = (),
        *,
        mode: Mode | None = None,
        vector_path: str | None = None,
        reranked: bool = False,
        explanation: SearchExplanation | None = None,
    ) -> None:
        super().__init__(hits)
        self.mode = mode
        self.vector_path = vector_path
        self.reranked = reranked
        self.explanation = explanation
        self.search_id: uuid.UUID | None = None


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
