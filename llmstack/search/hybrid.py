"""Hybrid search as one statement: both legs, the filters, the fusion and the total order, in one snapshot."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import (
    CTE,
    BindParameter,
    ColumnElement,
    Float,
    Select,
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

from ..db.checks import MAX_LIMIT
from ..db.models import CorpusStatistics
from ..errors import ValidationError
from .columns import SearchableMixin, constant, current_weights, mixed
from .fusion import Fusion, RankedLeg, Weighted, fuse, numbered
from .lexical import LexicalQuery, ParsedQuery, QueryReading, lexical_query, owned_rows, parse_query, required_clause
from .vectors import QUERY_VECTOR, VectorSource, check_vector, vector_arm

MAX_VARIANTS = 16
"""Other wordings of a query: each adds two legs to the statement."""
MAX_OPTION = 1_000_000_000
"""What a LIMIT, and an integer of the server, can still hold."""
MAX_NAME = 40
"""Bytes of a search's name: a CTE's own name follows it, and PostgreSQL cuts names at 63."""
_NAME = re.compile(rf"[a-z0-9_]{{0,{MAX_NAME}}}")


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


@dataclass(frozen=True, slots=True)
class Variant:
    """Another wording of the query, with its vector in the same space; `weight` counts against the query's 1.0.

    Quotation marks and hyphens in it are only text.
    """

    query: str
    vector: Sequence[float] | None = None
    weight: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.weight < math.inf:
            raise ValidationError("weight", "the weight of a variant must be above 0")


def languages_cte(languages: Sequence[str] | Select[Any], *, naming: str = "{}") -> CTE:
    """The text search configurations under which the query is read."""
    if not isinstance(languages, Select):
        rows = [select(cast(literal(language), Text).label("language")) for language in languages or ("simple",)]
        languages = select(union_all(*rows).subquery()) if len(rows) > 1 else rows[0]
    return languages.cte(naming.format("languages")).prefix_with("MATERIALIZED")


def hybrid(
    model: type[SearchableMixin],
    *,
    corpus: str,
    terms: str | None = None,
    owner_id: str | BindParameter[str],
    query: str | BindParameter[str] | None = None,
    further_words: BindParameter[str] | None = None,
    vector: Sequence[float] | BindParameter[Any] | None = None,
    source: VectorSource | None = None,
    variants: Sequence[Variant] = (),
    languages: Sequence[str] | Select[Any] = ("english",),
    where: Sequence[ColumnElement[bool]] = (),
    limit: int = 10,
    rows: int | None = None,
    fusion: Fusion | None = None,
    options: SearchOptions | None = None,
    name: str = "",
) -> Select[Any]:
    """Select (id, score, text_score, text_rank, vector_score, vector_rank, vector_path), best first.

    Give `query` for the text leg, `vector` with its `source` for the vector leg, or both; `score` is then the
    fused one, else the leg's own. Each of the `variants` adds legs of the same kinds, with columns named
    `text_2_score` and so on, which share the weight of their kind. Without a `fusion` the weight of the vector leg is
    what the corpus was calibrated to, or one half. `where` holds conditions on `model`. `model` needs an `id`. Rows
    of other owners are never touched. `rows` returns more than a page of `limit`, for a stage that chooses among
    them. Execute it in a transaction or in AUTOCOMMIT: index settings are local to it.
    Where two searches stand in one statement, each has its own `name`. `terms` is the corpus whose counts weigh the
    words of the query, its own unless given: with the same counts the scores of two corpora are comparable.

    Bind parameters in place of `owner_id`, `query` and `vector` make a statement that can be kept: the query is then
    taken without operators, with what `further_query` finds in it as `further_words`, the vector of the type
    `ARRAY(REAL)`.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise ValidationError("limit", f"it must be from 1 to {MAX_LIMIT}, not {limit}")
    if query is None and vector is None:
        raise ValidationError("query", "give a query, a vector, or both")
    options = options or SearchOptions()
    naming = _naming(name)
    questions = _questions(query, further_words, vector, source, variants, options, naming)
    legs = _LegMaker(
        model=model,
        corpus=corpus,
        terms=corpus if terms is None else terms,
        # Unique, so that a host's own parameters, or another search beside it, cannot take its place.
        owner=owner_id if isinstance(owner_id, BindParameter) else bindparam("owner_id", owner_id, Text, unique=True),
        where=tuple(where),
        limit=limit,
        options=options,
        languages=languages_cte(languages, naming=naming),
        naming=naming,
        parsed=questions[0].parsed,
    )
    texts = [legs.text(question) for question in questions] if query is not None else []
    vectors = [legs.vector(question, source) for question in questions] if source is not None else []
    path = vectors[0][1] if vectors else cast(null(), Text)
    rows = limit if rows is None else rows
    if len(texts) + len(vectors) == 1:
        leg = texts[0] if texts else vectors[0][0]
        return _single(leg, limit=rows, text=bool(texts), path=path, naming=naming)
    shares = _shares(corpus, fusion, naming=naming) if texts and vectors else (1.0, 1.0)
    ranked = _weighed(questions, texts, [leg for leg, _ in vectors], shares)
    return _fused(ranked, path, fusion=fusion or Weighted(), limit=rows)


def _naming(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValidationError("name", f"it must be of at most {MAX_NAME} small letters, digits and underscores")
    return f"{name}_{{}}" if name else "{}"


@dataclass(frozen=True, slots=True)
class _Question:
    """One wording of the query with its parameters; `suffix` tells its columns apart, `naming` its CTEs."""

    words: BindParameter[str] | None
    further_words: ColumnElement[str]
    vector: BindParameter[Any] | None
    parsed: ParsedQuery
    naming: str
    weight: float = 1.0
    suffix: str = ""


def _questions(
    query: str | BindParameter[str] | None,
    further_words: BindParameter[str] | None,
    vector: Sequence[float] | BindParameter[Any] | None,
    source: VectorSource | None,
    variants: Sequence[Variant],
    options: SearchOptions,
    naming: str,
) -> list[_Question]:
    if (source is None) != (vector is None) or any((source is None) != (one.vector is None) for one in variants):
        raise ValidationError("vector", "give a vector together with its source, and one with each variant")
    if len(variants) > MAX_VARIANTS:
        raise ValidationError("variants", f"there are {len(variants)}; {MAX_VARIANTS} are the most")
    first = _question(query, further_words, vector, source, naming=naming, operators=options.operators)
    others = [
        replace(
            _question(
                None if query is None else one.query,
                None,
                one.vector,
                source,
                naming=f"{naming}_{number}",
                operators=False,
            ),
            weight=one.weight,
            suffix=f"_{number}",
        )
        for number, one in enumerate(variants, 2)
    ]
    return [first, *others]


def _question(
    query: str | BindParameter[str] | None,
    further_words: BindParameter[str] | None,
    vector: Sequence[float] | BindParameter[Any] | None,
    source: VectorSource | None,
    *,
    naming: str,
    operators: bool,
) -> _Question:
    parsed = ParsedQuery("")
    if isinstance(query, str):
        parsed = parse_query(query, operators=operators)
        query = bindparam("words", parsed.words, Text, unique=True)
        further_words = bindparam("further_words", parsed.further_words, Text, unique=True)
    if source is not None and vector is not None and not isinstance(vector, BindParameter):
        vector = bindparam("vector", check_vector(source, vector), QUERY_VECTOR, unique=True)
    assert vector is None or isinstance(vector, BindParameter)
    further = constant("") if further_words is None else further_words
    return _Question(words=query, further_words=further, vector=vector, parsed=parsed, naming=naming)


class _LegMaker:
    """All legs of one search, under the same conditions."""

    def __init__(
        self,
        *,
        model: type[SearchableMixin],
        corpus: str,
        terms: str,
        owner: BindParameter[str],
        where: tuple[ColumnElement[bool], ...],
        limit: int,
        options: SearchOptions,
        languages: CTE,
        naming: str,
        parsed: ParsedQuery,
    ) -> None:
        self._model: Any = model
        self._corpus = corpus
        self._terms = terms
        self._owner = owner
        self._limit = limit
        self._candidates = max(options.candidates, limit)
        self._options = options
        self._languages = languages
        required = required_clause(parsed, languages=languages, naming=naming)
        self._where = where if required is None else (*where, _meets(self._model.search_vector, required))

    def text(self, question: _Question) -> CTE:
        assert question.words is not None
        naming = question.naming
        reading = QueryReading(
            words=question.words,
            further_words=question.further_words,
            corpus=self._terms,
            owner=self._owner,
            languages=self._languages,
            budget=self._options.budget,
            floor=self._candidates,
        )
        lexical = lexical_query(reading, naming=naming)
        matches = self._model.search_vector.op("@@")
        first = self._scored(lexical, (matches(lexical.candidates),), naming.format("budgeted"))
        # The budget is an estimate, made before the filters: a short page is filled from all terms.
        short = select(func.count()).select_from(first).scalar_subquery() < self._limit
        wide = self._scored(lexical, (short, matches(lexical.everything)), naming.format("unbudgeted"))
        filled = union_all(select(first.c.id, first.c.score).where(~short), select(wide.c.id, wide.c.score)).subquery()
        return select(filled.c.id, filled.c.score).cte(naming.format("text")).prefix_with("MATERIALIZED")

    def _scored(self, query: LexicalQuery, conditions: Sequence[Any], name: str) -> CTE:
        model = self._model
        is_mixed = query.is_mixed if self._terms == self._corpus else mixed(self._corpus)
        stored = current_weights(model, self._corpus, is_mixed=is_mixed)
        distance = stored.op("<#>", return_type=Float())(query.weights)
        best = (
            select(model.id.label("id"), distance.label("distance"))
            # Not `=`: GIN knows the owner; a bitmap of all of the owner's rows would only be added to it.
            .where(model.owner_id.is_not_distinct_from(self._owner), *conditions, *self._where)
            .order_by(distance, model.id)
            .limit(self._candidates)
            .subquery()
        )
        return select(best.c.id, (-best.c.distance).label("score")).cte(name).prefix_with("MATERIALIZED")

    def vector(self, question: _Question, source: VectorSource) -> tuple[CTE, ColumnElement[str]]:
        assert question.vector is not None
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
            question.vector,
            owner=self._owner,
            joined=joined,
            where=where,
            candidates=self._candidates,
            exact_rows=self._options.exact_rows,
            ef_search=self._options.ef_search,
            believed=owned_rows(self._corpus, self._owner),
            naming=question.naming,
        )


def _meets(search_vector: Any, required: ColumnElement[Any]) -> ColumnElement[bool]:
    # A clause of stop words only asks for nothing.
    met: ColumnElement[bool] = func.coalesce(search_vector.op("@@")(required), required.is_(None))
    return met


def _single(leg: CTE, *, limit: int, text: bool, path: ColumnElement[str], naming: str) -> Select[Any]:
    ranked = numbered(leg, naming.format("ranked"))
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
            path.label("vector_path"),
        )
        .order_by(score.desc(), ranked.c.id)
        .limit(limit)
    )


def _weighed(
    questions: Sequence[_Question],
    texts: Sequence[CTE],
    vectors: Sequence[CTE],
    shares: Sequence[float | ColumnElement[float]],
) -> list[RankedLeg]:
    """The legs, text before vector, each with its part of what its kind counts."""
    total = sum(question.weight for question in questions)
    return [
        RankedLeg(
            name=f"{kind}{question.suffix}",
            rows=numbered(leg, question.naming.format(f"{kind}_leg")),
            share=_share(share, question.weight / total),
        )
        for kind, legs, share in (("text", texts, shares[0]), ("vector", vectors, shares[1]))
        for question, leg in zip(questions, legs, strict=False)
    ]


def _share(share: float | ColumnElement[float], part: float) -> ColumnElement[float]:
    return share * cast(part, Float) if isinstance(share, ColumnElement) else cast(share * part, Float)


def _shares(corpus: str, fusion: Fusion | None, *, naming: str) -> Sequence[float | ColumnElement[float]]:
    """The weights of the text and the vector leg: the fusion's, else what the corpus was calibrated to, or a half."""
    if fusion is not None:
        return fusion.shares
    chosen = select(CorpusStatistics.fusion_alpha).where(CorpusStatistics.corpus == corpus).scalar_subquery()
    blend = select(cast(func.coalesce(chosen, Weighted().alpha), Float).label("alpha")).cte(naming.format("blend"))
    alpha = select(blend.prefix_with("MATERIALIZED").c.alpha).scalar_subquery()
    return 1.0 - alpha, alpha


def _fused(legs: Sequence[RankedLeg], path: ColumnElement[str], *, fusion: Fusion, limit: int) -> Select[Any]:
    fused = fuse(legs, fusion=fusion)
    return select(*fused.c, path.label("vector_path")).order_by(fused.c.score.desc(), fused.c.id).limit(limit)
