"""The vector leg: exact where few rows match, HNSW where many do, and never a short page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pgvector.sqlalchemy import HALFVEC
from sqlalchemy import (
    CTE,
    ColumnElement,
    FromClause,
    Select,
    String,
    and_,
    case,
    cast,
    func,
    literal_column,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY, BIT, REAL
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.types import Float

from ..errors import ValidationError

NAN = literal_column("'NaN'::float8", Float())
_EXACT, _GUARD, _INDEX = (literal_column(f"'{path}'", String()) for path in ("exact", "guard", "index"))
OPERATORS = {"cosine": "<=>", "inner_product": "<#>", "l2": "<->"}
LARGEST_HALF, LARGEST_SINGLE = 65504.0, 3.4e38
"""The largest numbers of 2 and of 4 bytes."""
MAX_EF_SEARCH = 1000
"""What pgvector allows."""
QUERY_VECTOR = ARRAY(REAL)
"""How the vector of a query is sent: in binary, which is written and read much faster than its text."""
OVERSAMPLING, MAX_OVERSAMPLING = 4, 100
"""Rows that are taken by their bits for each that is ranked by its vector: measured, and at the most."""
# Statistics lag behind: an owner may have lost rows since.
_FAR_MORE = 2
# So many rows for each distance among them are too many to be believed.
_EQUAL = 50
# A list of IVFFlat is made for about a thousand rows, so these are some tens of thousands of comparisons.
_PROBES, _MOST_PROBES = 20, 100


@dataclass(frozen=True, slots=True)
class VectorSource:
    """Where vectors live: their row's id and owner, the (cast) vector, and what else every row must meet.

    `embedding` must be the very expression that the index was made with. `scope` holds the conditions that the key's
    index can answer without the rows: an owner's rows are counted by them. Where the index holds bits instead,
    `bits` is its expression: `oversampling` times as many rows are then taken from it, and ranked by `embedding`.
    """

    id: ColumnElement[Any] | InstrumentedAttribute[Any]
    owner_id: ColumnElement[str] | InstrumentedAttribute[str]
    embedding: ColumnElement[Any] | InstrumentedAttribute[Any]
    distance: str = "cosine"
    scope: tuple[ColumnElement[bool], ...] = field(default=())
    where: tuple[ColumnElement[bool], ...] = field(default=())
    bits: ColumnElement[Any] | None = None
    oversampling: int = OVERSAMPLING

    def __post_init__(self) -> None:
        if self.distance not in OPERATORS:
            raise ValidationError("distance", f"{self.distance!r} is unknown; use one of {', '.join(OPERATORS)}")
        if not 1 <= self.oversampling <= MAX_OVERSAMPLING:
            raise ValidationError("oversampling", f"it must be from 1 to {MAX_OVERSAMPLING}")


def check_vector(source: VectorSource, vector: Sequence[float]) -> list[float]:
    """The query vector as numbers that the source's vectors can be compared with, or ValidationError."""
    numbers = [float(value) for value in vector]
    dimensions = getattr(source.embedding.type, "dim", None)
    if not numbers:
        raise ValidationError("vector", "it is empty")
    if dimensions is not None and len(numbers) != dimensions:
        raise ValidationError("vector", f"it has {len(numbers)} dimensions instead of {dimensions}")
    largest = max(map(abs, numbers)) if all(map(math.isfinite, numbers)) else math.inf
    if largest > (LARGEST_HALF if isinstance(source.embedding.type, HALFVEC) else LARGEST_SINGLE):
        raise ValidationError("vector", "it holds NaN, infinity or a number beyond the range of its type")
    if largest == 0.0 and source.distance == "cosine":
        raise ValidationError("vector", "it is zero, and a zero vector has no direction to compare")
    return numbers


def distance_to(source: VectorSource, vector: ColumnElement[Any]) -> ColumnElement[float]:
    """The distance of each row from the vector (an array of numbers), in the source's own measure."""
    return source.embedding.op(OPERATORS[source.distance], return_type=Float())(_read_once(source.embedding, vector))


def _read_once(
    embedding: ColumnElement[Any] | InstrumentedAttribute[Any], vector: ColumnElement[Any]
) -> ColumnElement[Any]:
    # A subquery, which is one for the whole statement: a kept plan would convert the array again for every row.
    return select(cast(vector, embedding.type)).scalar_subquery()


def binary(vectors: ColumnElement[Any] | InstrumentedAttribute[Any], dimensions: int) -> ColumnElement[Any]:
    """One bit for each dimension of the vectors: whether it is above zero."""
    return cast(func.binary_quantize(vectors), BIT(dimensions))


def similarity(distance: ColumnElement[float], measure: str) -> ColumnElement[float]:
    """Larger is nearer: 1 - distance for cosine, the inner product itself, the negated l2 distance."""
    return 1.0 - distance if measure == "cosine" else -distance


def vector_arm(
    source: VectorSource,
    vector: ColumnElement[Any],
    *,
    owner: ColumnElement[str],
    joined: FromClause | None,
    where: Sequence[ColumnElement[bool]],
    candidates: int,
    exact_rows: int,
    ef_search: int,
    believed: ColumnElement[int] | None = None,
    naming: str = "{}",
) -> tuple[CTE, ColumnElement[str]]:
    """A CTE of (id, score), nearest first, and the path that the statement took: exact, index or guard.

    The number of matching rows, counted up to `exact_rows` + 1, decides inside the statement which arm runs;
    an index scan that returns fewer rows than asked, or little but equal ones, is replaced by the exact scan.
    Where the owner is `believed` to have far more rows than that, and nothing else is asked of them, none are counted.
    """
    origin = joined if joined is not None else source.id.table
    counted = (source.owner_id == owner, *source.scope)
    scope = (*counted, *source.where, *where)
    # As many rows as are wanted are all returned anyway, so the index can only come after them.
    exact_rows = max(exact_rows, candidates)
    distance = distance_to(source, vector)
    rows: ColumnElement[int] = (
        select(func.count())
        .select_from(
            select(literal_column("1"))
            .select_from(origin)
            # Hidden rows may be counted along: the guard answers when they leave the index arm short.
            .where(*(scope if where else counted))
            .limit(exact_rows + 1)
            .subquery()
        )
        .scalar_subquery()
    )
    if believed is not None and not where:
        rows = case((believed >= _FAR_MORE * exact_rows, exact_rows + 1), else_=rows)
    reach = select(rows.label("rows")).cte(naming.format("reach")).prefix_with("MATERIALIZED")
    few = select(reach.c.rows).scalar_subquery() <= exact_rows
    taken = candidates if source.bits is None else candidates * source.oversampling
    settings = _settings(max(ef_search, taken), name=naming.format("settings"))
    found = (
        select(source.id.label("id"), distance.label("distance"))
        .select_from(origin)
        .where(*scope, ~few, select(settings.c.ready).scalar_subquery())
        .order_by(distance if source.bits is None else _hamming_distance(source.bits, source.embedding, vector))
        .limit(taken)
    )
    ranked = found if source.bits is None else _reranked(found, candidates)
    near = ranked.cte(naming.format("near")).prefix_with("MATERIALIZED")
    doubtful = select(_doubt(near, candidates, name=naming.format("doubt")).c.doubtful).scalar_subquery()
    # Adding zero keeps the planner from answering this arm by the index.
    plain = distance + 0.0
    exact = (
        select(source.id.label("id"), plain.label("distance"))
        .select_from(origin)
        .where(*scope, or_(few, doubtful))
        .order_by(plain, source.id)
        .limit(candidates)
        .cte(naming.format("exact"))
        .prefix_with("MATERIALIZED")
    )
    nearest = union_all(
        select(exact.c.id, exact.c.distance), select(near.c.id, near.c.distance).where(~doubtful)
    ).subquery()
    # A stored zero vector has no cosine distance: NaN, which sorts last here and would win as a score.
    arm = (
        select(nearest.c.id, similarity(nearest.c.distance, source.distance).label("score"))
        .where(nearest.c.distance != NAN)
        .cte(naming.format("vec"))
    )
    path = func.coalesce(
        select(_EXACT).where(few).scalar_subquery(),
        select(_GUARD).where(doubtful).scalar_subquery(),
        _INDEX,
    )
    return arm.prefix_with("MATERIALIZED"), path


def _doubt(near: CTE, candidates: int, *, name: str) -> CTE:
    """Whether the index arm is to be answered again: it is short, or nearly all of its rows are equally near.

    Equal vectors link to one another alone, and a graph scan that comes in among hundreds of them does not come out.
    """
    distances = func.count(near.c.distance.distinct())
    doubtful = or_(func.count() < candidates, distances <= (max(1, candidates // _EQUAL) if candidates > 1 else 0))
    return select(doubtful.label("doubtful")).select_from(near).cte(name).prefix_with("MATERIALIZED")


def _hamming_distance(
    bits: ColumnElement[Any], embedding: ColumnElement[Any] | InstrumentedAttribute[Any], vector: ColumnElement[Any]
) -> ColumnElement[float]:
    target = binary(_read_once(embedding, vector), getattr(bits.type, "length", None) or 1)
    return bits.op("<~>", return_type=Float())(target)


def _reranked(taken: Select[Any], candidates: int) -> Select[Any]:
    rows = taken.subquery("taken")
    return select(rows.c.id, rows.c.distance).order_by(rows.c.distance, rows.c.id).limit(candidates)


def _settings(ef_search: int, *, name: str) -> CTE:
    # Executed inside the statement, before the index scan asks for them; local to its transaction.
    values: dict[str, ColumnElement[str] | str] = {
        "hnsw.ef_search": str(min(ef_search, MAX_EF_SEARCH)),
        "hnsw.iterative_scan": literal_column("'strict_order'"),
        "ivfflat.probes": literal_column(f"'{_PROBES}'"),
        "ivfflat.iterative_scan": literal_column("'relaxed_order'"),
        # Beyond them an exact scan of the owner's own rows is cheaper than more of everybody's lists.
        "ivfflat.max_probes": literal_column(f"'{_MOST_PROBES}'"),
    }
    applied = and_(
        *(func.set_config(literal_column(f"'{name}'"), value, true()).is_not(None) for name, value in values.items())
    )
    return select(applied.label("ready")).cte(name).prefix_with("MATERIALIZED")
