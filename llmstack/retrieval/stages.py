"""What becomes of the ranked rows inside the search's statement: aged, cut, grouped, and shown with their texts."""

from __future__ import annotations

from typing import Any

from sqlalchemy import CTE, ColumnElement, Float, Select, Subquery, cast, func, literal, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import aliased

from ..search import VectorSource
from ..search.vectors import NAN
from .corpus import Corpus, Expression, Group, Sequel
from .request import Recency, Shape

_HALVINGS_AT_MOST = 1000.0
"""PostgreSQL raises where a power comes out too small for its type."""


def top(corpus: Corpus[Any, Any], ranked: Select[Any], shape: Shape) -> CTE:
    """The rows that are returned; grouped ones say how many passages each stands for."""
    if not shape.chooses and shape.min_score is None:
        return ranked.cte("top")
    rows: Any = corpus.rows
    found = ranked.subquery("ranked_rows")
    score: ColumnElement[float] = found.c.score
    if shape.recency is not None and corpus.moment is not None:
        score = decayed(score, corpus.moment, shape.recency)
    group = None if shape.group_by is None else corpus.groups[shape.group_by]
    others = [column for column in found.c if column.name != "score"]
    aged = select(*others, score.label("score"), *_keys(group)).join(rows, rows.id == found.c.id)
    if shape.recency is not None:
        aged = corpus.reach(aged)
    known = aged.subquery("aged")
    kept = select(known)
    if shape.min_score is not None:
        kept = kept.where(known.c.score >= cast(shape.min_score, Float))
    best = (kept if group is None else _best_of_each(kept, known)).subquery("best")
    return select(best).order_by(best.c.score.desc(), best.c.id).limit(shape.rows).cte("top")


def decayed(score: ColumnElement[float], moment: Expression, recency: Recency) -> ColumnElement[float]:
    """The score less what the row's age costs; a moment in the future costs nothing."""
    seconds = func.greatest(func.extract("epoch", func.now() - moment), 0)
    halvings = cast(seconds, Float) / cast(recency.half_life.total_seconds(), Float)
    remaining = func.power(cast(0.5, Float), func.least(halvings, cast(_HALVINGS_AT_MOST, Float)))
    return score + cast(recency.weight, Float) * (remaining - 1.0)


def _keys(group: Group | None) -> list[Any]:
    if group is None:
        return []
    shown = [] if group.shown is None else [group.shown.label("shown_id")]
    return [group.by.label("group_key"), *shown]


def _best_of_each(kept: Select[Any], found: Subquery) -> Select[Any]:
    place = func.row_number().over(partition_by=found.c.group_key, order_by=(found.c.score.desc(), found.c.id))
    passages = func.count().over(partition_by=found.c.group_key).label("passages")
    grouped = kept.add_columns(place.label("place"), passages).subquery("grouped")
    columns = (column for column in grouped.c if column.name not in ("place", "group_key"))
    return select(*columns).where(grouped.c.place == 1)


def with_texts(corpus: Corpus[Any, Any], hit: CTE, shape: Shape) -> Select[Any]:
    """The chosen rows with what a hit shows, in the same statement and order."""
    shown: Any = aliased(corpus.rows, name="shown")
    shown_id = hit.c.shown_id if "shown_id" in hit.c else hit.c.id
    statement = (
        select(
            *(column for column in hit.c if column.name not in ("id", "shown_id")),
            hit.c.id.label("ranked_id"),
            shown.id,
            shown.content,
            shown.context,
        )
        .select_from(hit)
        .join(shown, shown.id == shown_id)
        .order_by(hit.c.score.desc(), hit.c.id)
    )
    statement = corpus.show(statement, shown)
    if shape.neighbours and corpus.sequel is not None:
        statement = statement.add_columns(
            _around(corpus, corpus.sequel, shown, shape.neighbours, before=True).label("before"),
            _around(corpus, corpus.sequel, shown, shape.neighbours, before=False).label("after"),
        )
    if shape.similarities:
        source = corpus.source(shape.space)
        statement = statement.add_columns(_similarities(corpus, hit, source).label("similarities"))
    return statement


def _around(corpus: Corpus[Any, Any], sequel: Sequel, shown: Any, number: int, *, before: bool) -> ColumnElement[Any]:
    """The contents of the rows before or after one, in reading order."""
    other: Any = aliased(corpus.rows)
    place, here = getattr(other, sequel.place), getattr(shown, sequel.place)
    near = (
        select(other.content, place.label("place"))
        .where(
            *(getattr(other, name) == getattr(shown, name) for name in sequel.within),
            sequel.where(other),
            place < here if before else place > here,
        )
        .correlate(shown)
        .order_by(place.desc() if before else place)
        .limit(number)
        .subquery()
    )
    return select(func.array_agg(aggregate_order_by(near.c.content, near.c.place))).scalar_subquery()


def _similarities(corpus: Corpus[Any, Any], hit: CTE, source: VectorSource | None) -> ColumnElement[Any]:
    """The cosine similarity of a row to each row: of their vectors, or of their words where there is no vector leg."""
    vectors = _vectors(corpus, hit, source).cte("vectors").prefix_with("MATERIALIZED")
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


def _vectors(corpus: Corpus[Any, Any], hit: CTE, source: VectorSource | None) -> Select[Any]:
    rows: Any = corpus.rows
    if source is None:
        return select(hit.c.id, hit.c.score, rows.lexical.label("vector")).join(rows, rows.id == hit.c.id)
    owner = select(rows.owner_id).where(rows.id == hit.c.id).scalar_subquery()
    same = (source.id == hit.c.id) & (source.owner_id == owner)
    for condition in source.scope:
        same = same & condition
    vector = source.embedding.label("vector")
    return select(hit.c.id, hit.c.score, vector).select_from(hit.outerjoin(source.id.table, same))
