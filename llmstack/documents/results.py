"""What becomes of the ranked rows inside the search's statement: aged, cut, grouped, and shown with their passages."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import CTE, ColumnElement, Float, Select, Subquery, cast, func, literal, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import aliased

from ..errors import ValidationError
from ..search import VectorSource
from ..search.vectors import NAN
from .models import Chunk, Document

GroupBy = Literal["document", "parent"]
MAX_NEIGHBOURS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Recency:
    """Old documents lose score: score + weight * (0.5 ** (age / half_life) - 1), by document_date or else created_at.

    `weight` is on the scale of the score: fused z-scores differ by a few units, cosine similarities by tenths.
    """

    half_life: dt.timedelta
    weight: float = 0.5

    def __post_init__(self) -> None:
        if self.half_life <= dt.timedelta(0):
            raise ValidationError("half_life", "it must be above 0")
        if not 0.0 <= self.weight < math.inf:
            raise ValidationError("weight", "the weight of recency must be 0 or more")

    def decayed(self, score: ColumnElement[float]) -> ColumnElement[float]:
        """The score less what the document's age costs; a date in the future costs nothing."""
        moment = func.coalesce(Document.document_date, Document.created_at)
        seconds = func.greatest(func.extract("epoch", func.now() - moment), 0)
        halvings = cast(seconds, Float) / cast(self.half_life.total_seconds(), Float)
        # PostgreSQL raises where a power comes out too small for its type.
        remaining = func.power(cast(0.5, Float), func.least(halvings, cast(1000.0, Float)))
        return score + cast(self.weight, Float) * (remaining - 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultOptions:
    """What is done with the ranked rows, in this order: recency, minimum score, grouping, neighbours.

    `group_by`: of the passages of one document, or of one parent, the best stands for all; for a parent the parent
    itself is shown. `similarities`: each row brings its similarity to every row, in their order.
    """

    group_by: GroupBy | None = None
    neighbours: int = 0
    recency: Recency | None = None
    min_score: float | None = None
    similarities: bool = False

    def __post_init__(self) -> None:
        if self.group_by not in (None, "document", "parent"):
            raise ValidationError("group_by", f"{self.group_by!r:.60} is unknown; use document or parent")
        if not isinstance(self.neighbours, int) or not 0 <= self.neighbours <= MAX_NEIGHBOURS:
            raise ValidationError("neighbours", f"it must be from 0 to {MAX_NEIGHBOURS}")
        if self.min_score is not None and not math.isfinite(self.min_score):
            raise ValidationError("min_score", "it must be a finite number")

    @property
    def chooses(self) -> bool:
        """Whether rows beyond the first page can come into it."""
        return self.group_by is not None or self.recency is not None


PLAIN = ResultOptions()


def top(ranked: Select[Any], options: ResultOptions, *, limit: int) -> CTE:
    """The rows that are returned; grouped ones say how many passages each stands for."""
    if not options.chooses and options.min_score is None:
        return ranked.cte("top")
    rows = ranked.subquery("ranked_rows")
    score = rows.c.score if options.recency is None else options.recency.decayed(rows.c.score)
    others = [column for column in rows.c if column.name != "score"]
    aged = select(*others, score.label("score"), Chunk.document_id, Chunk.parent_id).join(Chunk, Chunk.id == rows.c.id)
    if options.recency is not None:
        aged = aged.join(Document, Document.id == Chunk.document_id)
    found = aged.subquery("aged")
    kept = select(found)
    if options.min_score is not None:
        kept = kept.where(found.c.score >= cast(options.min_score, Float))
    best = kept if options.group_by is None else _best_of_each(kept, found, options.group_by)
    listed = best.subquery("best")
    return select(listed).order_by(listed.c.score.desc(), listed.c.id).limit(limit).cte("top")


def _best_of_each(kept: Select[Any], found: Subquery, group_by: GroupBy) -> Select[Any]:
    group = found.c.document_id if group_by == "document" else func.coalesce(found.c.parent_id, found.c.id)
    place = func.row_number().over(partition_by=group, order_by=(found.c.score.desc(), found.c.id))
    grouped = kept.add_columns(place.label("place"), func.count().over(partition_by=group).label("passages")).subquery(
        "grouped"
    )
    return select(*(column for column in grouped.c if column.name != "place")).where(grouped.c.place == 1)


def with_passages(hit: CTE, options: ResultOptions, source: VectorSource | None) -> Select[Any]:
    """The chosen rows with what a hit shows, in the same statement and order."""
    shown, parent = aliased(Chunk, name="shown"), aliased(Chunk, name="parent")
    shown_id = func.coalesce(hit.c.parent_id, hit.c.id) if options.group_by == "parent" else hit.c.id
    statement = (
        select(
            *(column for column in hit.c if column.name not in ("id", "document_id", "parent_id")),
            hit.c.id.label("leaf_id"),
            shown.id,
            shown.document_id,
            shown.content,
            shown.context,
            shown.position,
            shown.start_offset,
            shown.end_offset,
            Document.id_at_origin,
            Document.name,
            Document.document_type,
            Document.document_date,
            Document.metadata_.label("metadata"),
            parent.content.label("parent_content"),
        )
        .select_from(hit)
        .join(shown, shown.id == shown_id)
        .join(Document, Document.id == shown.document_id)
        .outerjoin(parent, parent.id == shown.parent_id)
        .order_by(hit.c.score.desc(), hit.c.id)
    )
    if options.neighbours:
        statement = statement.add_columns(
            _around(shown, options.neighbours, before=True).label("before"),
            _around(shown, options.neighbours, before=False).label("after"),
        )
    if options.similarities:
        statement = statement.add_columns(_similarities(hit, source).label("similarities"))
    return statement


def _around(shown: Any, number: int, *, before: bool) -> ColumnElement[Any]:
    """The contents of the passages of the same level before or after one, in reading order."""
    other = aliased(Chunk)
    nearest = other.position.desc() if before else other.position
    near = (
        select(other.content, other.position)
        .where(
            other.document_id == shown.document_id,
            other.level == shown.level,
            other.deleted_at.is_(None),
            other.position < shown.position if before else other.position > shown.position,
        )
        .correlate(shown)
        .order_by(nearest)
        .limit(number)
        .subquery()
    )
    return select(func.array_agg(aggregate_order_by(near.c.content, near.c.position))).scalar_subquery()


def _similarities(hit: CTE, source: VectorSource | None) -> ColumnElement[Any]:
    """The cosine similarity of a row to each row: of their vectors, or of their words where there is no vector leg."""
    vectors = _vectors(hit, source).cte("vectors").prefix_with("MATERIALIZED")
    one, other = vectors.alias("one"), vectors.alias("other")
    similarity = func.coalesce(1.0 - one.c.vector.op("<=>", return_type=Float())(other.c.vector), 0.0)
    # Words of no weight have no direction: NaN.
    finite = func.coalesce(func.nullif(similarity, NAN), 0.0)
    return (
        select(func.array_agg(aggregate_order_by(finite, other.c.score.desc(), other.c.id)))
        .select_from(one)
        .join(other, literal(True))
        .where(one.c.id == hit.c.id)
        .correlate(hit)
        .scalar_subquery()
    )


def _vectors(hit: CTE, source: VectorSource | None) -> Select[Any]:
    if source is None:
        return select(hit.c.id, hit.c.score, Chunk.lexical.label("vector")).join(Chunk, Chunk.id == hit.c.id)
    owner = select(Chunk.owner_id).where(Chunk.id == hit.c.id).scalar_subquery()
    same = (source.id == hit.c.id) & (source.owner_id == owner)
    for condition in source.scope:
        same = same & condition
    vector = source.embedding.label("vector")
    return select(hit.c.id, hit.c.score, vector).select_from(hit.outerjoin(source.id.table, same))
