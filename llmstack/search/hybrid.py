"""Hybrid search as one statement: both legs, the filters, the fusion and the total order, in one snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    CTE,
    BindParameter,
    ColumnElement,
    Float,
    Select,
    String,
    Text,
    bindparam,
    cast,
    func,
    join,
    literal,
    null,
    select,
    union_all,
)
from sqlalchemy.types import BigInteger

from ..errors import ValidationError
from .columns import SearchableMixin
from .fusion import Fusion, Weighted, fuse, numbered
from .lexical import ParsedQuery, lexical_query, parse_query, required_clause
from .vectors import VectorSource, check_vector, vector_arm, vector_text

MAX_LIMIT = 1000
MAX_OPTION = 1_000_000_000


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How much each leg may look at: rows handed to the fusion, rows scored, rows compared exactly.

    `operators`: whether quotes and a leading minus in the query mean required and forbidden.
    """

    candidates: int = 100
    budget: int = 2000
    exact_rows: int = 10_000
    ef_search: int = 200
    operators: bool = True

    def __post_init__(self) -> None:
        for name, least in (("candidates", 1), ("budget", 0), ("exact_rows", 0), ("ef_search", 1)):
            if not least <= getattr(self, name) <= MAX_OPTION:
                raise ValidationError(name, f"it must be from {least} to {MAX_OPTION}")


def languages_cte(languages: Sequence[str] | Select[Any]) -> CTE:
    """The text search configurations under which the query is read."""
    if not isinstance(languages, Select):
        rows = [select(cast(literal(language), Text).label("language")) for language in languages or ("simple",)]
        languages = select(union_all(*rows).subquery()) if len(rows) > 1 else rows[0]
    return languages.cte("languages").prefix_with("MATERIALIZED")


def hybrid(
    model: type[SearchableMixin],
    *,
    corpus: str,
    owner_id: str | BindParameter[str],
    query: str | BindParameter[str] | None = None,
    vector: Sequence[float] | BindParameter[str] | None = None,
    source: VectorSource | None = None,
    languages: Sequence[str] | Select[Any] = ("english",),
    where: Sequence[ColumnElement[bool]] = (),
    limit: int = 10,
    fusion: Fusion | None = None,
    options: SearchOptions | None = None,
) -> Select[Any]:
    """Select (id, score, text_score, text_rank, vector_score, vector_rank, vector_path), best first.

    Give `query` for the text leg, `vector` with its `source` for the vector leg, or both; `score` is then the
    fused one, else the leg's own. `where` holds conditions on `model`. `model` needs an `id`. Rows of other
    owners are never touched. Execute it in a transaction or in AUTOCOMMIT: index settings are local to it.

    Bind parameters in place of `owner_id`, `query` and `vector` make a statement that can be kept: the query is then
    taken without operators, the vector in PostgreSQL's text form.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise ValidationError("limit", f"it must be from 1 to {MAX_LIMIT}, not {limit}")
    if query is None and vector is None:
        raise ValidationError("query", "give a query, a vector, or both")
    options = options or SearchOptions()
    target = _target(source, vector)
    parsed = (
        ParsedQuery("") if isinstance(query, BindParameter) else parse_query(query or "", operators=options.operators)
    )
    legs = _Legs(
        model=model,
        # Unique, so that a host's own parameters, or another search beside it, cannot take its place.
        owner=owner_id if isinstance(owner_id, BindParameter) else bindparam("owner_id", owner_id, Text, unique=True),
        where=tuple(where),
        limit=limit,
        candidates=max(options.candidates, limit),
        options=options,
        languages=languages_cte(languages),
        parsed=parsed,
        words=query if isinstance(query, BindParameter) else bindparam("words", parsed.words, Text, unique=True),
    )
    if target is None:
        return _single(legs.text(corpus=corpus), limit=limit, text=True)
    nearest, path = legs.vector(*target)
    if query is None:
        return _single(nearest, limit=limit, text=False, path=path)
    return _fused(legs.text(corpus=corpus), nearest, path, fusion=fusion or Weighted(), limit=limit)


def _target(
    source: VectorSource | None, vector: Sequence[float] | BindParameter[str] | None
) -> tuple[VectorSource, BindParameter[str]] | None:
    if source is not None and vector is not None:
        if isinstance(vector, BindParameter):
            return source, vector
        text = vector_text(check_vector(source, vector))
        return source, bindparam("vector", text, String, unique=True)
    if source is None and vector is None:
        return None
    raise ValidationError("vector", "give a vector together with its source")


class _Legs:
    """Both legs of one search, under the same conditions."""

    def __init__(
        self,
        *,
        model: type[SearchableMixin],
        owner: BindParameter[str],
        where: tuple[ColumnElement[bool], ...],
        limit: int,
        candidates: int,
        options: SearchOptions,
        languages: CTE,
        parsed: ParsedQuery,
        words: BindParameter[str],
    ) -> None:
        self._model: Any = model
        self._owner = owner
        self._limit = limit
        self._candidates = candidates
        self._options = options
        self._languages = languages
        self._words = words
        required = required_clause(parsed, languages=languages)
        self._where = where if required is None else (*where, _meets(self._model.search_vector, required))

    def text(self, *, corpus: str) -> CTE:
        lexical = lexical_query(
            self._words,
            corpus=corpus,
            owner=self._owner,
            languages=self._languages,
            budget=self._options.budget,
            floor=self._candidates,
        )
        matches = self._model.search_vector.op("@@")
        first = self._scored(lexical.weights, (matches(lexical.candidates),), "budgeted")
        # The budget is an estimate, made before the filters: a short page is filled from all terms.
        short = select(func.count()).select_from(first).scalar_subquery() < self._limit
        wide = self._scored(lexical.weights, (short, matches(lexical.everything)), "unbudgeted")
        filled = union_all(select(first.c.id, first.c.score).where(~short), select(wide.c.id, wide.c.score)).subquery()
        return select(filled.c.id, filled.c.score).cte("text").prefix_with("MATERIALIZED")

    def _scored(self, weights: Any, conditions: Sequence[Any], name: str) -> CTE:
        model = self._model
        distance = model.lexical.op("<#>", return_type=Float())(weights)
        best = (
            select(model.id.label("id"), distance.label("distance"))
            # Not `=`: GIN knows the owner; a bitmap of all of the owner's rows would only be added to it.
            .where(model.owner_id.is_not_distinct_from(self._owner), *conditions, *self._where)
            .order_by(distance, model.id)
            .limit(self._candidates)
            .subquery()
        )
        return select(best.c.id, (-best.c.distance).label("score")).cte(name).prefix_with("MATERIALIZED")

    def vector(self, source: VectorSource, vector: BindParameter[str]) -> tuple[CTE, ColumnElement[str]]:
        model = self._model
        where, joined = self._where, None
        if source.id.table is model.__table__:
            if model.__searchable__ is not None:
                where = (*where, model.search_vector.is_not(None))
        elif where:
            # Both parts of the key, so that one index serves the join.
            same = (model.id == source.id) & (model.owner_id == source.owner_id)
            joined = join(source.id.table, model, same)
        return vector_arm(
            source,
            vector,
            owner=self._owner,
            joined=joined,
            where=where,
            candidates=self._candidates,
            exact_rows=self._options.exact_rows,
            ef_search=self._options.ef_search,
        )


def _meets(search_vector: Any, required: ColumnElement[Any]) -> ColumnElement[bool]:
    # A clause of stop words only asks for nothing.
    met: ColumnElement[bool] = func.coalesce(search_vector.op("@@")(required), required.is_(None))
    return met


def _single(leg: CTE, *, limit: int, text: bool, path: ColumnElement[str] | None = None) -> Select[Any]:
    ranked = numbered(leg, "ranked")
    score, rank = ranked.c.score, ranked.c.rank
    nothing, nowhere = cast(null(), Float), cast(null(), BigInteger)
    return (
        select(
            ranked.c.id,
            score.label("score"),
            (score if text else nothing).label("text_score"),
            (rank if text else nowhere).label("text_rank"),
            (nothing if text else score).label("vector_score"),
            (nowhere if text else rank).label("vector_rank"),
            (cast(null(), Text) if path is None else path).label("vector_path"),
        )
        .order_by(score.desc(), ranked.c.id)
        .limit(limit)
    )


def _fused(text: CTE, vector: CTE, path: ColumnElement[str], *, fusion: Fusion, limit: int) -> Select[Any]:
    fused = fuse(numbered(text, "text_leg"), numbered(vector, "vector_leg"), fusion=fusion)
    return select(*fused.c, path.label("vector_path")).order_by(fused.c.score.desc(), fused.c.id).limit(limit)
