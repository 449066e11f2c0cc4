"""One corpus of one schema: searched, logged, judged, calibrated; every verb in transactions of its own."""

from __future__ import annotations

import datetime as dt
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Generic

from sqlalchemy.ext.asyncio import AsyncSession

from ..db.checks import check_limit
from ..db.database import Service
from ..db.paging import Page
from ..embeddings import EmbeddingService
from ..errors import ValidationError
from ..search import StatisticsRefresh, Weighted
from ..search.fusion import Fusion
from ..search.reanalyse import reanalyse_batch
from ..search.reweigh import check_parameters
from ..settings import Settings
from .corpus import Corpus
from .expansion import Expander
from .explain import read_alpha
from .hits import Hit, Mode, SearchHits
from .request import Recency, Search, Where
from .rerankers import Reranker
from .searcher import ReadQuery, Searcher
from .statements import check_corpus
from .tuning.calibration import Calibration, Calibrator
from .tuning.feedback import Feedback, FeedbackRepository, JudgedQuery, Key, RecordedSearch
from .tuning.search_log import SearchLog
from .tuning.statistics import StatisticsKeeper

_REANALYSED_AT_ONCE = 500
"""Rows in one transaction."""
_AGES = dt.timedelta(days=36_500)
"""More than any log is kept, and less than PostgreSQL's intervals hold."""


class CorpusService(Generic[Hit, Where]):
    """Searches one corpus and tunes its search; `stack.corpus(...)`, and a part of each domain's service."""

    def __init__(
        self,
        corpus: Corpus[Hit, Where],
        *,
        service: Service,
        embeddings: EmbeddingService,
        settings: Settings,
        log: SearchLog,
    ) -> None:
        check_corpus(corpus)
        self.corpus = corpus
        self._service = service
        self._embeddings = embeddings
        self._settings = settings
        self._log = log
        self._searcher = Searcher(corpus, service, embeddings, settings)
        self._statistics = StatisticsKeeper(service, corpus)
        self._calibrator = Calibrator(corpus, service, embeddings, settings, self._statistics)

    async def search(
        self,
        *,
        owner_id: str,
        query: str,
        mode: Mode | None = None,
        limit: int = 10,
        where: Where | None = None,
        alpha: float | None = None,
        fusion: Fusion | None = None,
        operators: bool = True,
        candidates: int | None = None,
        expand: Expander | Sequence[str] | None = None,
        recency: Recency | None = None,
        min_score: float | None = None,
        group_by: str | None = None,
        neighbours: int = 0,
        reranker: Reranker | None = None,
        diversity: float = 0.0,
        explain: bool = False,
    ) -> SearchHits[Hit]:
        """The best rows, best first; ties by id. The parts are those of `Search`; `alpha` weighs the vector leg."""
        if alpha is not None and fusion is not None:
            raise ValidationError("alpha", "give alpha or fusion, not both")
        return await self.answer(
            Search(
                owner_id=owner_id,
                query=query,
                mode=mode,
                limit=limit,
                where=where,
                fusion=Weighted(alpha=alpha) if alpha is not None else fusion,
                operators=operators,
                candidates=candidates,
                expand=expand,
                recency=recency,
                min_score=min_score,
                group_by=group_by,
                neighbours=neighbours,
                reranker=reranker,
                diversity=diversity,
                explain=explain,
            )
        )

    async def answer(self, search: Search[Where], read: ReadQuery | None = None) -> SearchHits[Hit]:
        """The hits of a search that is at hand as a value; `read` saves reading its query a second time."""
        started = time.perf_counter()
        hits = await self._searcher.search(search, read)
        hits.search_id = self._log.note(self.corpus, search, hits, elapsed=time.perf_counter() - started)
        return hits

    async def read(self, search: Search[Where]) -> ReadQuery:
        """The query of a search in its wordings, with their vectors: for `answer`, here and in other corpora."""
        return await self._searcher.read(search)

    async def fusion(self) -> Weighted:
        """How legs are weighed where a search does not say it: by what was calibrated, or the default."""
        alpha = await self._service.read(lambda session: read_alpha(session, self.corpus))
        return Weighted() if alpha is None else Weighted(alpha=alpha)

    @property
    def vector_paths(self) -> Mapping[str, int]:
        """How often this process' searches were answered `exact`, by the `index`, or by the `guard` behind it."""
        return dict(self._searcher.vector_paths)

    def changed(self, rows: int) -> None:
        """Say that rows were written, hidden or shown; where they are many, the term statistics are read anew."""
        self._statistics.changed(rows)

    async def refresh_statistics(self) -> StatisticsRefresh | None:
        """Read the term statistics that BM25 ranks by anew; None while another process does."""
        return await self._statistics.refresh()

    async def reweigh(
        self,
        *,
        k1: float | None = None,
        b: float | None = None,
        average_length: float | None = None,
        context_weight: float | None = None,
    ) -> int:
        """Give the corpus these BM25 parameters and weigh every row by them; return how many changed.

        Without an `average_length` it is the measured one, which is worth it when `refresh_statistics` measures one
        that is off by more than two from what rows are weighed by; small corpora see to it themselves. Rows are
        rewritten a batch at a time. A run that was stopped goes on where it is called again.
        """
        given = {"k1": k1, "b": b, "average_length": average_length, "context_weight": context_weight}
        return await self._statistics.reweigh(check_parameters(given))

    async def reanalyse(self) -> int:
        """Read the further words of every row anew; return how many rows changed.

        For rows that other tools wrote, and those from before an upgrade. A batch at a time, while everybody reads and
        writes; a run that was stopped begins anew, and leaves alone what is right already.
        """
        changed, last = 0, None
        while True:

            async def work(session: AsyncSession, after: uuid.UUID | None = last) -> tuple[uuid.UUID | None, int]:
                return await reanalyse_batch(session, model=self.corpus.rows, after=after, rows=_REANALYSED_AT_ONCE)

            last, of_batch = await self._service.transaction(work)
            changed += of_batch
            if last is None:
                break
        if changed:
            self.changed(changed)
            await self._statistics.catch_up()
        return changed

    async def calibrate(
        self,
        judged: Sequence[JudgedQuery] | None = None,
        *,
        owner_id: str | None = None,
        minimum: int = 20,
        standard_errors: float = 1.0,
        tune_text: bool = True,
        dry_run: bool = False,
    ) -> Calibration:
        """Choose alpha, k1, b and the weight of the context for all owners of this schema, and store the choice.

        By judged queries, or by recorded feedback (of one owner, or of all). What is in force stays unless the best
        setting gains more than `standard_errors` standard errors of the paired differences of nDCG@10; of settings
        that are as good as the best it is that nearest to the default. Chosen text settings rewrite the rows'
        weights, a batch at a time. Conflict while another process calibrates.
        """
        await self._log.settle()
        return await self._calibrator.calibrate(
            judged,
            owner_id=owner_id,
            minimum=minimum,
            standard_errors=standard_errors,
            tune_text=tune_text,
            dry_run=dry_run,
        )

    async def calibrations(self, *, limit: int = 50) -> Sequence[Calibration]:
        """What was chosen and why, newest first."""
        return await self._calibrator.list(limit=check_limit(limit))

    async def undo_calibration(self) -> Calibration:
        """Put the settings back that were in force before the newest calibration that stands."""
        return await self._calibrator.undo()

    async def record_feedback(self, *, owner_id: str, search_id: uuid.UUID | str, grades: Mapping[Key, float]) -> int:
        """Grade hits of a logged search by the corpus' unit or by row, 0 for useless; a later grade replaces.

        SearchNotFound for another owner's search, or one that is not kept.
        """
        await self._log.settle()
        return await self._service.transaction(
            lambda session: self._feedback(session).put(owner_id=owner_id, search_id=search_id, grades=grades)
        )

    async def feedback(
        self,
        *,
        owner_id: str,
        search_id: uuid.UUID | str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Feedback]:
        """A page of an owner's grades, the newest first."""
        await self._log.settle()
        return await self._service.read(
            lambda session: self._feedback(session).list(
                owner_id=owner_id, search_id=search_id, limit=limit, cursor=cursor
            )
        )

    async def searches(self, *, owner_id: str, limit: int = 50, cursor: str | None = None) -> Page[RecordedSearch]:
        """A page of an owner's logged searches, newest first, with their hits and grades."""
        await self._log.settle()
        return await self._service.read(
            lambda session: self._feedback(session).searches(owner_id=owner_id, limit=limit, cursor=cursor)
        )

    async def purge_search_log(self, *, older_than: dt.timedelta = dt.timedelta(0)) -> int:
        """Delete the corpus' logged searches of this age, with their feedback; return how many."""
        if older_than < dt.timedelta(0):
            raise ValidationError("older_than", "it lies in the future")
        await self._log.settle()
        return await self._log.purge(older_than=min(older_than, _AGES), corpus=self.corpus.name)

    async def settle(self) -> None:
        """Wait for background work."""
        await self._log.settle()
        await self._statistics.settle()

    def _feedback(self, session: AsyncSession) -> FeedbackRepository:
        return FeedbackRepository(session, self.corpus)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.corpus!r})"
