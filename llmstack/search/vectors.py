"""The vector leg: exact where few rows match, HNSW where many do, and never a short page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import CTE, ColumnElement, FromClause, String, and_, bindparam, cast, func, literal_column, or_, select, true, union_all
from sqlalchemy.types import Float, TypeEngine

_EXACT, _GUARD, _INDEX = (literal_column(f"'{path}'", String()) for path in ("exact", "guard", "index"))
OPERATORS = {"cosine": "<=>", "inner_product": "<#>", "l2": "<->"}


def vector_text(vector: Sequence[float]) -> str:
    """The text form of a vector or halfvec."""
    return "[" + ",".join(map(repr, map(float, vector))) + "]"


@dataclass(frozen=True, slots=True)
class VectorSource:
    """Where vectors live: their row's id and owner, the (cast) vector, and what else every row must meet.

    `embedding` must be the very expression that the index was made with.
    """

    id: ColumnElement[Any]
    owner_id: ColumnElement[str]
    embedding: ColumnElement[Any]
    distance: str = "cosine"
    where: tuple[ColumnElement[bool], ...] = field(default=())


def distance_to(source: VectorSource, vector: Sequence[float]) -> ColumnElement[float]:
    """The distance of each row from the vector, in the source's own measure."""
    type_: TypeEngine[Any] = source.embedding.type
    target = cast(bindparam("vector", vector_text(vector), String), type_)
    return source.embedding.op(OPERATORS[source.distance], return_type=Float())(target)


def similarity(distance: ColumnElement[float], measure: str) -> ColumnElement[float]:
    """Larger is nearer: 1 - distance for cosine, the inner product itself, the negated l2 distance."""
    return 1.0 - distance if measure == "cosine" else -distance


def vector_arm(
    source: VectorSource,
    vector: Sequence[float],
    *,
    owner_id: str,
    joined: FromClause | None,
    where: Sequence[ColumnElement[bool]],
    candidates: int,
    exact_rows: int,
    ef_search: int,
) -> tuple[CTE, ColumnElement[str]]:
    """A CTE of (id, score), nearest first, and the path that the statement took: exact, index or guard.

    The number of matching rows, counted up to `exact_rows` + 1, decides inside the statement which arm runs; an
    index scan that returns fewer rows than asked is replaced by the exact scan.
    """
    origin = joined if joined is not None else source.id.table  # type: ignore[attr-defined]
    scope = (source.owner_id == bindparam("owner_id", owner_id), *source.where, *where)
    distance = distance_to(source, vector)
    reach = (
        select(func.count().label("rows"))
        .select_from(select(literal_column("1")).select_from(origin).where(*scope).limit(exact_rows + 1).subquery())
        .cte("reach")
        .prefix_with("MATERIALIZED")
    )
    few = select(reach.c.rows).scalar_subquery() <= exact_rows
    settings = _settings(max(ef_search, candidates))
    near = (
        select(source.id.label("id"), distance.label("distance"))
        .select_from(origin)
        .where(*scope, ~few, select(settings.c.ready).scalar_subquery())
        .order_by(distance)
        .limit(candidates)
        .cte("near")
        .prefix_with("MATERIALIZED")
    )
    short = select(func.count()).select_from(near).scalar_subquery() < candidates
    # Adding zero keeps the planner from answering this arm by the index.
    plain = distance + 0.0
    exact = (
        select(source.id.label("id"), plain.label("distance"))
        .select_from(origin)
        .where(*scope, or_(few, short))
        .order_by(plain, source.id)
        .limit(candidates)
        .cte("exact")
        .prefix_with("MATERIALIZED")
    )
    nearest = union_all(
        select(exact.c.id, exact.c.distance), select(near.c.id, near.c.distance).where(~short)
    ).subquery()
    arm = select(nearest.c.id, similarity(nearest.c.distance, source.distance).label("score")).cte("vec")
    path = func.coalesce(
        select(_EXACT).where(few).scalar_subquery(),
        select(_GUARD).where(short).scalar_subquery(),
        _INDEX,
    )
    return arm.prefix_with("MATERIALIZED"), path


def _settings(ef_search: int) -> CTE:
    # Executed inside the statement, before the index scan asks for them; local to its transaction.
    applied = and_(
        func.set_config(literal_column("'hnsw.ef_search'"), str(min(ef_search, 1000)), true()).is_not(None),
        func.set_config(literal_column("'hnsw.iterative_scan'"), literal_column("'strict_order'"), true()).is_not(None),
        func.set_config(literal_column("'ivfflat.iterative_scan'"), literal_column("'relaxed_order'"), true()).is_not(None),
    )
    return select(applied.label("ready")).cte("settings").prefix_with("MATERIALIZED")
