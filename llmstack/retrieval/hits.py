"""What a search answers: its hits, and why they were found."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

Mode = Literal["hybrid", "vector", "text"]


@dataclass(frozen=True, slots=True)
class Leg:
    """A hit's place in one leg of the search: its score there, and its rank from 1."""

    score: float
    rank: int


@dataclass(frozen=True, slots=True)
class MatchedTerm:
    """A lexeme of the query in a row: idf times query frequency times `weight` is its part of the text score."""

    lexeme: str
    idf: float
    frequency: int
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchHit:
    """A row that was found; `legs` has "text" and "vector" where that leg found it, and "text_2" for a variant.

    `ranked_id` is the row that was ranked; it differs from `id` where another is shown in its place. `score` is what
    orders the hits: the reranker's where one answered, else `fused_score`. `passages` is how many rows a grouped hit
    stands for; `before` and `after` are its neighbours in reading order. `matched` and `similarities` are filled
    where they are asked for.
    """

    id: uuid.UUID
    ranked_id: uuid.UUID
    content: str
    context: str
    score: float
    fused_score: float
    legs: Mapping[str, Leg]
    passages: int = 1
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    matched: tuple[MatchedTerm, ...] = ()
    similarities: tuple[float, ...] = field(default=(), repr=False)


Hit = TypeVar("Hit", bound=SearchHit)


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


class SearchHits(list[Hit], Generic[Hit]):
    """The hits of one search, best first, and how they were found.

    `mode`: the legs that answered. `vector_path`: how the vector leg was answered (`exact`, `index`, or `guard` where
    the index came short and an exact scan replaced it); None without that leg or without hits. `reranked`: whether a
    reranker gave the order. `explanation` where it was asked for. `search_id` names the search in the search log; None
    where none is kept.
    """

    def __init__(
        self,
        hits: Iterable[Hit] = (),
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
