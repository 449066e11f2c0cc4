"""Why a search found what it found: its terms, what of them each hit holds, and the plan that was executed."""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import Float, Select, TableValuedAlias, Text, bindparam, cast, select
from sqlalchemy.dialects.postgresql import TSQUERY
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.checks import any_of
from ..db.explain import Explain
from ..db.models import CorpusStatistics
from ..search import SearchOptions
from ..search.columns import current_weights, mixed
from ..search.hybrid import languages_cte
from ..search.lexical import QueryReading, parse_query, query_terms, single_term
from .corpus import Corpus
from .hits import MatchedTerm, PlanStep, QueryTerm
from .request import Search


def _terms(corpus: Corpus[Any, Any], search: Search[Any], options: SearchOptions, *, floor: int) -> TableValuedAlias:
    parsed = parse_query(search.query, operators=search.operators)
    reading = QueryReading(
        words=bindparam("words", parsed.words, Text, unique=True),
        further_words=bindparam("further_words", parsed.further_words, Text, unique=True),
        corpus=corpus.terms or corpus.name,
        owner=bindparam("owner_id", search.owner_id, Text, unique=True),
        languages=languages_cte(corpus.spoken(search.owner_id)),
        budget=options.budget,
        floor=floor,
    )
    return query_terms(reading)


async def read_terms(
    session: AsyncSession, corpus: Corpus[Any, Any], search: Search[Any], options: SearchOptions
) -> list[QueryTerm]:
    """The lexemes of the query, rarest first."""
    terms = _terms(corpus, search, options, floor=max(options.candidates, search.limit))
    shown = [terms.c[field.name] for field in fields(QueryTerm)]
    return [QueryTerm(**row._mapping) for row in await session.execute(select(*shown).order_by(terms.c.place))]


async def read_matches(
    session: AsyncSession,
    corpus: Corpus[Any, Any],
    search: Search[Any],
    options: SearchOptions,
    *,
    ids: Sequence[uuid.UUID],
) -> Mapping[uuid.UUID, Sequence[MatchedTerm]]:
    """What of the query each row holds, what counts most first."""
    rows: Any = corpus.rows
    terms = _terms(corpus, search, options, floor=1)
    weights = current_weights(rows, corpus.name, is_mixed=mixed(corpus.name))
    weight = -weights.op("<#>", return_type=Float())(single_term(terms.c.dimension))
    part = terms.c.idf * terms.c.frequency * weight
    statement = (
        select(
            rows.id,
            terms.c.lexeme,
            terms.c.idf,
            terms.c.frequency,
            weight.label("weight"),
        )
        .select_from(terms.join(rows, any_of(rows.id, ids)))
        .where(rows.owner_id == search.owner_id, rows.search_vector.op("@@")(cast(terms.c.quoted, TSQUERY)))
        .order_by(rows.id, part.desc(), terms.c.lexeme)
    )
    found: dict[uuid.UUID, list[MatchedTerm]] = defaultdict(list)
    for id_, *term in await session.execute(statement):
        found[id_].append(MatchedTerm(*term))
    return found


async def read_plan(
    session: AsyncSession, statement: Select[Any], values: Mapping[str, Any]
) -> tuple[list[PlanStep], float, float]:
    """The scans of an execution, and the milliseconds of planning and of executing."""
    answer = await session.scalar(Explain(statement, analyze=True), dict(values))
    (explained,) = json.loads(answer) if isinstance(answer, str) else answer
    steps = list(_scans(explained["Plan"], part="search"))
    return steps, float(explained["Planning Time"]), float(explained["Execution Time"])


def _scans(node: Mapping[str, Any], *, part: str) -> Iterator[PlanStep]:
    name = node.get("Subplan Name", "")
    part = name.removeprefix("CTE ") if name.startswith("CTE ") else part
    loops = node["Actual Loops"]
    if loops and ("Index Name" in node or {"Relation Name", "Function Name"} & node.keys()):
        yield PlanStep(
            part=part,
            node=node["Node Type"],
            relation=node.get("Relation Name", node.get("Function Name", "")),
            index=node.get("Index Name"),
            rows=round(node["Actual Rows"] * loops),
            milliseconds=round(node["Actual Total Time"] * loops, 3),
        )
    for below in node.get("Plans", ()):
        yield from _scans(below, part=part)


async def read_alpha(session: AsyncSession, corpus: Corpus[Any, Any]) -> float | None:
    """The weight of the vector leg that the corpus was calibrated to."""
    chosen = select(CorpusStatistics.fusion_alpha).where(CorpusStatistics.corpus == corpus.name)
    return await session.scalar(chosen)
