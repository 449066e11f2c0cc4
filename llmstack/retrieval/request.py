"""A search as one value, checked before anything is embedded for it, and what of it decides its statement."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..db.checks import check_limit, check_owner
from ..embeddings import Space
from ..errors import ValidationError
from ..search import SearchOptions
from ..search.fusion import Fusion
from ..settings import Settings
from .expansion import Expander
from .filters import Filter
from .hits import Mode
from .rerankers import Reranker

Where = TypeVar("Where", bound=Filter)

MAX_NEIGHBOURS = 50
"""Rows shown before a hit, and as many after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recency:
    """Old rows lose score: score + weight * (0.5 ** (age / half_life) - 1), by the moment that their corpus names.

    `weight` is on the scale of the score: fused z-scores differ by a few units, cosine similarities by tenths.
    """

    half_life: dt.timedelta
    weight: float = 0.5

    def __post_init__(self) -> None:
        if self.half_life <= dt.timedelta(0):
            raise ValidationError("half_life", "it must be above 0")
        if not 0.0 <= self.weight < math.inf:
            raise ValidationError("weight", "the weight of recency must be 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Search(Generic[Where]):
    """What is asked. ValidationError for what no corpus can answer; what one cannot, it says itself.

    Without a `mode` it is hybrid, or text where there is no working embedder. In the query `"..."` is required and
    `-word` forbidden unless `operators` is off. Each leg hands on `candidates` rows, and what follows happens in this
    order, each only where it is asked for: `expand` adds wordings to the same statement; `recency` and `min_score`;
    `group_by` leaves one hit for each group of the corpus; `neighbours` brings the texts around a hit; `reranker`
    orders all `candidates` rows anew, unless it fails or takes too long; `diversity` (0.0 to 1.0) is the weight
    against hits like those before them.
    """

    owner_id: str
    query: str
    mode: Mode | None = None
    limit: int = 10
    where: Where | None = None
    fusion: Fusion | None = None
    operators: bool = True
    candidates: int | None = None
    expand: Expander | Sequence[str] | None = None
    recency: Recency | None = None
    min_score: float | None = None
    group_by: str | None = None
    neighbours: int = 0
    reranker: Reranker | None = None
    diversity: float = 0.0
    explain: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.query, str) or not self.query.strip():
            raise ValidationError("query", "it is empty")
        check_owner(self.owner_id)
        check_limit(self.limit)
        if self.mode not in (None, "hybrid", "vector", "text"):
            raise ValidationError("mode", f"{self.mode!r:.60} is unknown; use hybrid, vector or text")
        if self.candidates is not None:
            check_limit(self.candidates, field="candidates")
        if not isinstance(self.neighbours, int) or not 0 <= self.neighbours <= MAX_NEIGHBOURS:
            raise ValidationError("neighbours", f"it must be from 0 to {MAX_NEIGHBOURS}")
        if self.min_score is not None and not math.isfinite(self.min_score):
            raise ValidationError("min_score", "it must be a finite number")
        if not 0.0 <= self.diversity <= 1.0:
            raise ValidationError("diversity", "it is a share, from 0.0 to 1.0")
        if self.reranker is not None and not hasattr(self.reranker, "rerank"):
            raise ValidationError("reranker", "it has no method `rerank`; wrap a function in CallableReranker")

    @property
    def reorders(self) -> bool:
        """Whether a stage after the statement chooses among more rows than a page."""
        return self.reranker is not None or self.diversity > 0.0

    def shape(self, *, mode: Mode, space: Space | None, options: SearchOptions) -> Shape:
        """What decides its statement, once its legs are known."""
        return Shape(
            mode=mode,
            space=space if mode != "text" else None,
            limit=self.limit,
            rows=max(options.candidates, self.limit) if self.reorders else self.limit,
            fusion=self.fusion,
            options=options,
            recency=self.recency,
            # A threshold is one on the scores that order: the reranker's, where there is one.
            min_score=self.min_score if self.reranker is None else None,
            group_by=self.group_by,
            neighbours=self.neighbours,
            similarities=self.diversity > 0.0,
        )

    def options(self, settings: Settings) -> SearchOptions:
        """How much each leg may look at."""
        return SearchOptions(
            candidates=self.candidates or settings.search_candidates,
            budget=settings.lexical_budget,
            exact_rows=settings.exact_rows,
            ef_search=settings.ef_search,
            operators=self.operators,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Searches of one shape, without filters, are one statement with other values.

    `rows` come back: more than a page of `limit` where a stage after the statement chooses among them.
    """

    mode: Mode
    space: Space | None
    limit: int
    rows: int
    fusion: Fusion | None
    options: SearchOptions
    recency: Recency | None
    min_score: float | None
    group_by: str | None
    neighbours: int
    similarities: bool

    @property
    def chooses(self) -> bool:
        """Whether rows beyond the first page can come into it."""
        return self.group_by is not None or self.recency is not None
