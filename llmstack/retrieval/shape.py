"""What of a search decides its statement, apart from its values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..embeddings import Space
from ..search import SearchOptions
from ..search.fusion import Fusion
from .hits import Mode
from .request import Recency, Search


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

    @classmethod
    def of(cls, search: Search[Any], *, mode: Mode, space: Space | None, options: SearchOptions) -> Shape:
        """The shape of a search whose legs are known."""
        return cls(
            mode=mode,
            space=space if mode != "text" else None,
            limit=search.limit,
            rows=max(options.candidates, search.limit) if search.reorders else search.limit,
            fusion=search.fusion,
            options=options,
            recency=search.recency,
            # A threshold is one on the scores that order: the reranker's, where there is one.
            min_score=search.min_score if search.reranker is None else None,
            group_by=search.group_by,
            neighbours=search.neighbours,
            similarities=search.diversity > 0.0,
        )

    @property
    def chooses(self) -> bool:
        """Whether rows beyond the first page can come into it."""
        return self.group_by is not None or self.recency is not None
