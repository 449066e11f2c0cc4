"""Fusion: two ranked legs become one total order; a row of one leg alone is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import CTE, ColumnElement, Float, FromClause, Subquery, case, cast, func, literal_column, select

from ..errors import ValidationError

_ZERO: ColumnElement[float] = literal_column("0.0::float8", Float())
_ONE: ColumnElement[float] = literal_column("1.0::float8", Float())


@dataclass(frozen=True, slots=True)
class Weighted:
    """`alpha` times the vector leg's normalised score plus `1 - alpha` times the text leg's.

    `zscore`: (s - mean) / deviation over the leg's candidates; a row absent from a leg gets that leg's
    lowest. Where all scores of a leg are equal they count 0, and absent is -1.
    `minmax`: (s - min) / (max - min), 1 where all are equal; absent is 0.
    """

    alpha: float = 0.5
    normalize: Literal["zscore", "minmax"] = "zscore"

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha <= 1.0:
            raise ValidationError("alpha", "it is the weight of the vector leg, from 0.0 to 1.0")
        if self.normalize not in ("zscore", "minmax"):
            raise ValidationError("normalize", "use 'zscore' or 'minmax'")

    @property
    def shares(self) -> tuple[float, float]:
        """The weights of the text and the vector leg."""
        return 1.0 - self.alpha, self.alpha

    def part(self, score: ColumnElement[float], rank: ColumnElement[int]) -> ColumnElement[float]:
        """A row's normalised score within its leg."""
        low, high = func.min(score).over(), func.max(score).over()
        if self.normalize == "minmax":
            return case((high > low, (score - low) / (high - low)), else_=_ONE)
        # Rounding gives equal scores a deviation that is not quite zero.
        return case((high > low, (score - func.avg(score).over()) / func.stddev_pop(score).over()), else_=_ZERO)

    def absent(self, leg: CTE) -> ColumnElement[float]:
        """What a row counts in a leg that did not return it."""
        if self.normalize == "minmax":
            return _ZERO
        lowest = func.min(leg.c.part)
        # Among equals no row is lower than found; one found alone must still beat those not found.
        return select(func.coalesce(case((lowest == _ZERO, -_ONE), else_=lowest), _ZERO)).scalar_subquery()


@dataclass(frozen=True, slots=True)
class RRF:
    """Reciprocal rank fusion, the sum of weight / (k + rank) over the legs (Cormack et al. 2009).

    `weights` are those of the text and the vector leg.
    """

    k: float = 60.0
    weights: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if not 0 < self.k < math.inf:
            raise ValidationError("k", "it must be above 0")
        if not all(0 <= weight < math.inf for weight in self.weights) or max(self.weights) == 0:
            raise ValidationError("weights", "none may be negative, one must be above 0")

    @property
    def shares(self) -> tuple[float, float]:
        """The weights of the text and the vector leg."""
        return self.weights

    def part(self, score: ColumnElement[float], rank: ColumnElement[int]) -> ColumnElement[float]:
        """A row's reciprocal rank within its leg."""
        return _ONE / (cast(self.k, Float) + cast(rank, Float))

    def absent(self, leg: CTE) -> ColumnElement[float]:
        """What a row counts in a leg that did not return it."""
        return _ZERO


Fusion = Weighted | RRF


@dataclass(frozen=True, slots=True)
class RankedLeg:
    """A numbered leg, the name that its columns carry, and what it counts in the fusion."""

    name: str
    rows: CTE
    share: ColumnElement[float]


def numbered(leg: CTE, name: str) -> CTE:
    """The leg with its ranks from 1, ties broken by id."""
    rank = func.row_number().over(order_by=(leg.c.score.desc(), leg.c.id))
    return select(leg.c.id, leg.c.score, rank.label("rank")).cte(name)


def fuse(legs: Sequence[RankedLeg], *, fusion: Fusion) -> Subquery:
    """(id, score) and, for each leg, (<leg>_score, <leg>_rank), of every row of any leg."""
    parts = [
        select(*leg.rows.c, fusion.part(leg.rows.c.score, leg.rows.c.rank).label("part")).cte(f"{leg.rows.name}_parts")
        for leg in legs
    ]
    joined: FromClause = parts[0]
    id_: ColumnElement[Any] = parts[0].c.id
    for part in parts[1:]:
        joined = joined.join(part, id_ == part.c.id, full=True)
        id_ = func.coalesce(id_, part.c.id)
    score = sum(
        (leg.share * func.coalesce(part.c.part, fusion.absent(part)) for leg, part in zip(legs, parts, strict=True)),
        start=_ZERO,
    )
    places = [
        column.label(f"{leg.name}_{column.name}")
        for leg, part in zip(legs, parts, strict=True)
        for column in (part.c.score, part.c.rank)
    ]
    return select(id_.label("id"), score.label("score"), *places).select_from(joined).subquery("fused")
