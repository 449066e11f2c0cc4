"""A search from the query to its hits: other wordings, vectors, one statement, and another order where asked for."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic

from sqlalchemy.ext.asyncio import AsyncSession

from ..db.database import Service
from ..embeddings import EmbeddingService, Space
from ..errors import EmbeddingError
from ..search import Variant, Weighted
from ..search.fusion import Fusion
from ..settings import Settings
from . import explain
from .corpus import Corpus
from .diversity import maximal_marginal_relevance
from .errors import RetrievalError
from .expansion import wordings
from .hits import Hit, Mode, SearchExplanation, SearchHits
from .request import Search, Where
from .rerankers import rerank_scores
from .statements import Prepared, execute, prepare

logger = logging.getLogger("llmstack.retrieval")


@dataclass(slots=True)
class _Stopwatch:
    """Milliseconds by stage."""

    milliseconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.milliseconds[name] = (time.perf_counter() - started) * 1e3


@dataclass(frozen=True, slots=True)
class ReadQuery:
    """A query as every corpus of the same embeddings reads it: its other wordings, and a vector for each of all."""

    wordings: Sequence[str]
    mode: Mode
    space: Space | None
    vectors: Sequence[Sequence[float]]
    milliseconds: Mapping[str, float]


@dataclass(slots=True)
class Searcher(Generic[Hit, Where]):
    """Answers searches of one corpus; `vector_paths` counts how their vector legs were answered."""

    corpus: Corpus[Hit, Where]
    service: Service
    embeddings: EmbeddingService
    settings: Settings
    vector_paths: Counter[str] = field(default_factory=Counter)

    async def search(self, search: Search[Where], read: ReadQuery | None = None) -> SearchHits[Hit]:
        """The hits of a page, best first; of a query that was `read` for another corpus of the same embeddings."""
        # First, so that nothing is embedded for a search that cannot be answered.
        where = self.corpus.narrowed(search)
        if read is None:
            read = await self.read(search)
        clock, others, vectors = _Stopwatch(dict(read.milliseconds)), read.wordings, read.vectors
        shape = search.shape(mode=read.mode, space=read.space, options=search.options(self.settings))
        vector, variants = vectors[0] if vectors else None, _variants(others, vectors)
        prepared = prepare(self.corpus, search, shape, where=where, vector=vector, variants=variants)

        async def run(session: AsyncSession) -> SearchHits[Hit]:
            with clock.stage("statement"):
                return await execute(session, self.corpus, prepared)

        found = await self.service.read(run, single_statements=True)
        if found.vector_path is not None:
            self.vector_paths[found.vector_path] += 1
        with clock.stage("reranking"):
            hits, reranked = await self._reranked(found, search)
        hits = _diverse(hits, diversity=search.diversity, limit=search.limit)
        explanation = None
        if search.explain:
            hits, explanation = await self._explained(search, hits, prepared, wordings=others, clock=clock)
        return SearchHits(
            hits, mode=read.mode, vector_path=found.vector_path, reranked=reranked, explanation=explanation
        )

    async def read(self, search: Search[Where]) -> ReadQuery:
        """The query in its wordings, with their vectors."""
        self.corpus.narrowed(search)
        clock = _Stopwatch()
        with clock.stage("expansion"):
            others = await self._wordings(search)
        with clock.stage("embedding"):
            mode, space, vectors = await self._vectors([search.query, *others], search.mode)
        return ReadQuery(others, mode, space, vectors, clock.milliseconds)

    async def _wordings(self, search: Search[Where]) -> list[str]:
        if search.expand is None:
            return []
        return await wordings(search.expand, search.query, seconds=self.settings.expansion_timeout)

    async def _vectors(
        self, queries: Sequence[str], mode: Mode | None
    ) -> tuple[Mode, Space | None, Sequence[Sequence[float]]]:
        if mode == "text" or self.corpus.vectors is None or (mode is None and self.embeddings.embedder is None):
            return "text", None, ()
        try:
            space, vectors = await self.embeddings.embed_queries(queries)
            return mode or "hybrid", space, vectors
        except EmbeddingError as error:
            if mode is not None:
                raise
            logger.warning("the query could not be embedded; searching by text alone: %s", error)
            return "text", None, ()

    async def _reranked(self, found: SearchHits[Hit], search: Search[Where]) -> tuple[list[Hit], bool]:
        """The hits in the reranker's order; as they were, where there is none or it fails."""
        if search.reranker is None or not found:
            return list(found), False
        passages = [f"{hit.context}\n{hit.content}".strip() for hit in found]
        try:
            scores = await rerank_scores(search.reranker, search.query, passages, seconds=self.settings.rerank_timeout)
        except RetrievalError as error:
            logger.warning("the fused order stands: %s", error)
            return list(found), False
        least = search.min_score
        kept = [place for place in range(len(found)) if least is None or scores[place] >= least]
        places = sorted(kept, key=lambda place: (-scores[place], place))
        return [
            replace(found[place], score=scores[place], similarities=_permuted(found[place].similarities, places))
            for place in places
        ], True

    async def _explained(
        self,
        search: Search[Where],
        hits: Sequence[Hit],
        prepared: Prepared,
        *,
        wordings: Sequence[str],
        clock: _Stopwatch,
    ) -> tuple[list[Hit], SearchExplanation]:
        """What a second execution and the term statistics say; outside of the search's own time."""
        shape, options = prepared.shape, prepared.shape.options
        async with self.service.single_statements() as session:
            plan, planning, execution = await explain.read_plan(session, prepared.statement, prepared.values)
            chosen = await explain.read_alpha(session, self.corpus)
            terms, matches = [], {}
            if shape.mode != "vector":
                terms = await explain.read_terms(session, self.corpus, search, options)
                ids = [hit.ranked_id for hit in hits]
                matches = dict(await explain.read_matches(session, self.corpus, search, options, ids=ids))
        explanation = SearchExplanation(
            mode=shape.mode,
            space=None if shape.space is None else shape.space.name,
            wordings=tuple(wordings),
            terms=terms,
            budget=options.budget,
            estimated_rows=sum(term.estimated_rows for term in terms if term.is_candidate),
            alpha=_alpha(search.fusion, chosen),
            settings={
                "candidates": max(options.candidates, search.limit),
                "exact_rows": options.exact_rows,
                "ef_search": options.ef_search,
                "operators": options.operators,
                "fusion": repr(search.fusion or Weighted(alpha=_alpha(None, chosen) or 0.0)),
            },
            plan=plan,
            planning_milliseconds=planning,
            execution_milliseconds=execution,
            milliseconds=clock.milliseconds,
        )
        return [replace(hit, matched=tuple(matches.get(hit.ranked_id, ()))) for hit in hits], explanation


def _alpha(fusion: Fusion | None, calibrated: float | None) -> float | None:
    if fusion is None:
        return Weighted().alpha if calibrated is None else calibrated
    return fusion.alpha if isinstance(fusion, Weighted) else None


def _variants(others: Sequence[str], vectors: Sequence[Sequence[float]]) -> list[Variant]:
    return [
        Variant(query=wording, vector=vectors[number] if vectors else None) for number, wording in enumerate(others, 1)
    ]


def _permuted(values: Sequence[float], places: Sequence[int]) -> tuple[float, ...]:
    return tuple(values[place] for place in places) if values else ()


def _diverse(hits: Sequence[Hit], *, diversity: float, limit: int) -> list[Hit]:
    """The page: the first hits, or those that are also unlike one another."""
    if diversity == 0.0:
        return list(hits[:limit])
    chosen = maximal_marginal_relevance(
        [hit.score for hit in hits], [hit.similarities for hit in hits], diversity=diversity, limit=limit
    )
    return [replace(hits[place], similarities=()) for place in chosen]
