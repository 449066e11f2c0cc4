"""A search from the query to its hits: other wordings, vectors, one statement, and another order where asked for."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from ..db.checks import check_limit
from ..db.database import Service
from ..embeddings import EmbeddingService, Space
from ..errors import EmbeddingError, ValidationError
from ..retrieval import Expander, Reranker, RetrievalError, maximal_marginal_relevance, rerank_scores, wordings
from ..search import SearchOptions, Variant, Weighted
from ..search.fusion import Fusion
from ..settings import Settings
from . import explain
from .queries import DocumentFilter, check_search, prepared_search, search_conditions
from .records import Mode, SearchExplanation, SearchHit, SearchHits
from .repository import DocumentRepository
from .results import ResultOptions

logger = logging.getLogger("llmstack.documents")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """What is asked of a search; refuses what cannot be answered before anything is embedded for it."""

    owner_id: str
    query: str
    mode: Mode | None
    limit: int
    where: DocumentFilter
    fusion: Fusion | None
    operators: bool
    candidates: int | None
    expand: Expander | Sequence[str] | None
    reranker: Reranker | None
    diversity: float
    results: ResultOptions
    explain: bool

    def __post_init__(self) -> None:
        if not isinstance(self.query, str) or not self.query.strip():
            raise ValidationError("query", "it is empty")
        check_search(owner_id=self.owner_id, mode=self.mode, limit=self.limit, where=self.where)
        if self.candidates is not None:
            check_limit(self.candidates, field="candidates")
        if not 0.0 <= self.diversity <= 1.0:
            raise ValidationError("diversity", "it is a share, from 0.0 to 1.0")
        if self.reranker is not None and not hasattr(self.reranker, "rerank"):
            raise ValidationError("reranker", "it has no method `rerank`; wrap a function in CallableReranker")

    @property
    def reorders(self) -> bool:
        """Whether a stage after the statement chooses among more rows than a page."""
        return self.reranker is not None or self.diversity > 0.0

    def options(self, settings: Settings) -> SearchOptions:
        """How much each leg may look at."""
        return SearchOptions(
            candidates=self.candidates or settings.search_candidates,
            budget=settings.lexical_budget,
            exact_rows=settings.exact_rows,
            ef_search=settings.ef_search,
            operators=self.operators,
        )


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


@dataclass(slots=True)
class Searcher:
    """Answers searches of one schema; `vector_paths` counts how their vector legs were answered."""

    service: Service
    embeddings: EmbeddingService
    settings: Settings
    vector_paths: Counter[str] = field(default_factory=Counter)

    async def search(self, request: SearchRequest) -> SearchHits:
        """The hits of a page, best first."""
        clock = _Stopwatch()
        with clock.stage("expansion"):
            others = await self._wordings(request)
        with clock.stage("embedding"):
            mode, space, vectors = await self._vectors([request.query, *others], request.mode)
        options = request.options(self.settings)
        pool = max(options.candidates, request.limit) if request.reorders else request.limit
        asked: dict[str, Any] = {
            "owner_id": request.owner_id,
            "query": request.query,
            "vector": vectors[0] if vectors else None,
            "space": space,
            "variants": _variants(others, vectors),
            "limit": request.limit,
            "fusion": request.fusion,
            "options": options,
            # A threshold is one on the scores that order: the reranker's, where there is one.
            "results": request.results if request.reranker is None else replace(request.results, min_score=None),
            "returned": pool,
        }

        async def search(session: AsyncSession) -> SearchHits:
            documents = DocumentRepository(session, settings=self.settings)
            with clock.stage("statement"):
                return await documents.search(mode=mode, where=request.where, **asked)

        found = await self.service.read(search, single_statements=True)
        if found.vector_path is not None:
            self.vector_paths[found.vector_path] += 1
        with clock.stage("reranking"):
            hits, reranked = await self._reranked(found, request)
        hits = _diverse(hits, diversity=request.diversity, limit=request.limit)
        explanation = None
        if request.explain:
            hits, explanation = await self._explained(
                request, hits, mode=mode, wordings=others, asked=asked, clock=clock
            )
        return SearchHits(hits, mode=mode, vector_path=found.vector_path, reranked=reranked, explanation=explanation)

    async def _wordings(self, request: SearchRequest) -> list[str]:
        if request.expand is None:
            return []
        return await wordings(request.expand, request.query, seconds=self.settings.expansion_timeout)

    async def _vectors(
        self, queries: Sequence[str], mode: Mode | None
    ) -> tuple[Mode, Space | None, Sequence[Sequence[float]]]:
        if mode == "text" or (mode is None and self.embeddings.embedder is None):
            return "text", None, ()
        try:
            space, vectors = await self.embeddings.embed_queries(queries)
            return mode or "hybrid", space, vectors
        except EmbeddingError as error:
            if mode is not None:
                raise
            logger.warning("the query could not be embedded; searching by text alone: %s", error)
            return "text", None, ()

    async def _reranked(self, found: SearchHits, request: SearchRequest) -> tuple[list[SearchHit], bool]:
        """The hits in the reranker's order; as they were, where there is none or it fails."""
        if request.reranker is None or not found:
            return list(found), False
        passages = [f"{hit.context}\n{hit.content}".strip() for hit in found]
        try:
            scores = await rerank_scores(
                request.reranker, request.query, passages, seconds=self.settings.rerank_timeout
            )
        except RetrievalError as error:
            logger.warning("the fused order stands: %s", error)
            return list(found), False
        least = request.results.min_score
        kept = [place for place in range(len(found)) if least is None or scores[place] >= least]
        places = sorted(kept, key=lambda place: (-scores[place], place))
        return [
            replace(found[place], score=scores[place], similarities=_permuted(found[place].similarities, places))
            for place in places
        ], True

    async def _explained(
        self,
        request: SearchRequest,
        hits: Sequence[SearchHit],
        *,
        mode: Mode,
        wordings: Sequence[str],
        asked: Mapping[str, Any],
        clock: _Stopwatch,
    ) -> tuple[list[SearchHit], SearchExplanation]:
        """What a second execution and the term statistics say; outside of the search's own time."""
        options, owner_id = asked["options"], request.owner_id
        statement, values = prepared_search(
            **{
                **asked,
                "query": None if mode == "vector" else request.query,
                "where": search_conditions(owner_id, request.where),
            }
        )
        async with self.service.single_statements() as session:
            plan, planning, execution = await explain.read_plan(session, statement, values)
            chosen = await explain.read_alpha(session)
            terms, matches = [], {}
            if mode != "vector":
                terms = await explain.read_terms(
                    session, owner_id=owner_id, query=request.query, options=options, limit=request.limit
                )
                matches = dict(
                    await explain.read_matches(
                        session,
                        owner_id=owner_id,
                        query=request.query,
                        options=options,
                        ids=[hit.leaf_id for hit in hits],
                    )
                )
        explanation = SearchExplanation(
            mode=mode,
            space=asked["space"].name if asked["space"] is not None else None,
            wordings=tuple(wordings),
            terms=terms,
            budget=options.budget,
            estimated_rows=sum(term.estimated_rows for term in terms if term.is_candidate),
            alpha=_alpha(request.fusion, chosen),
            settings={
                "candidates": max(options.candidates, request.limit),
                "exact_rows": options.exact_rows,
                "ef_search": options.ef_search,
                "operators": options.operators,
                "fusion": repr(request.fusion or Weighted(alpha=_alpha(None, chosen) or 0.0)),
            },
            plan=plan,
            planning_milliseconds=planning,
            execution_milliseconds=execution,
            milliseconds=clock.milliseconds,
        )
        return [replace(hit, matched=tuple(matches.get(hit.leaf_id, ()))) for hit in hits], explanation


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


def _diverse(hits: Sequence[SearchHit], *, diversity: float, limit: int) -> list[SearchHit]:
    """The page: the first hits, or those that are also unlike one another."""
    if diversity == 0.0:
        return list(hits[:limit])
    chosen = maximal_marginal_relevance(
        [hit.score for hit in hits], [hit.similarities for hit in hits], diversity=diversity, limit=limit
    )
    return [replace(hits[place], similarities=()) for place in chosen]
