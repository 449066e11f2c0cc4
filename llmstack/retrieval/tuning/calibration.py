"""Calibration: run judged queries, choose by what they say, store it with its evidence, and take it back."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import math
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Any

from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from ...db.checks import MAX_LIMIT, check_owner, check_text
from ...db.database import Service
from ...db.locks import lock_key
from ...db.models import CorpusStatistics, StoredCalibration
from ...db.translate import translating
from ...embeddings import EmbeddingService, Space
from ...errors import Conflict, ValidationError
from ...search.lexical import term_counts
from ...search.reweigh import begin_statistics, weighing
from ...settings import Settings
from ..corpus import Corpus
from ..errors import CalibrationNotFound
from ..explain import read_terms
from ..hits import SearchHits
from ..request import Search
from ..statements import search_in
from .decision import JudgedLegs, Tuning, decide
from .feedback import FeedbackRepository, JudgedQuery, Key, check_grade
from .measures import TermCounts
from .statistics import StatisticsKeeper

POOL = 4
"""Rows of the text leg that other parameters may lift, in multiples of what a search looks at."""
QUERIES_EMBEDDED_AT_ONCE = 256
"""So many vectors are held before they are used; the embedder cuts its own batches of them."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was chosen, what was in force before, and the evidence.

    `evidence` has the number of queries, the mean nDCG@10 by setting, and the best setting's paired gain with its
    standard error. `id` is None for a dry run.
    """

    id: uuid.UUID | None
    before: Tuning
    after: Tuning
    evidence: Mapping[str, Any]
    created_at: dt.datetime
    undone_at: dt.datetime | None = None

    @property
    def changed(self) -> bool:
        """Whether it chose anything but what was in force."""
        return self.before != self.after


def check_judged(given: Sequence[JudgedQuery], *, minimum: int) -> list[JudgedQuery]:
    """The queries, each once with all that is relevant for it; ValidationError for bad ones and too few."""
    merged: dict[Hashable, JudgedQuery] = {}
    for one in given:
        if not isinstance(one, JudgedQuery):
            raise ValidationError("judged", f"it holds JudgedQuery objects, not {type(one).__name__}")
        relevant = _relevant(one)
        if (known := merged.get(one.identity)) is not None:
            relevant = {**known.relevant, **relevant}
        merged[one.identity] = dataclasses.replace(one, relevant=relevant)
    if len(merged) < minimum:
        raise ValidationError("judged", f"{len(merged)} judged queries are too few; {minimum} are needed")
    return list(merged.values())


def _relevant(one: JudgedQuery) -> dict[Key, float]:
    check_owner(one.owner_id)
    if not check_text("query", one.query).strip():
        raise ValidationError("query", "it is empty")
    if not isinstance(one.relevant, Mapping):
        raise ValidationError("relevant", "it is a mapping of units, or of UUIDs of rows, to grades")
    graded = {_key(key): check_grade(grade) for key, grade in one.relevant.items()}
    if not any(graded.values()):
        raise ValidationError("relevant", f"nothing is relevant for the query {one.query!r:.60}")
    return graded


class Calibrator:
    """Runs, stores, lists and undoes the calibrations of one corpus."""

    def __init__(
        self,
        corpus: Corpus[Any, Any],
        service: Service,
        embeddings: EmbeddingService,
        settings: Settings,
        statistics: StatisticsKeeper,
    ) -> None:
        self._corpus = corpus
        self._service = service
        self._embeddings = embeddings
        self._settings = settings
        self._statistics = statistics

    async def calibrate(
        self,
        judged: Sequence[JudgedQuery] | None,
        *,
        owner_id: str | None,
        minimum: int,
        standard_errors: float,
        tune_text: bool,
        dry_run: bool,
    ) -> Calibration:
        """Choose by the judged queries, or by recorded feedback; Conflict while another process calibrates."""
        _check_rule(minimum, standard_errors)
        if judged is not None and owner_id is not None:
            raise ValidationError("owner_id", "it chooses recorded feedback; judged queries name their owners")
        source = "feedback" if judged is None else "given"
        if judged is None:
            judged = await self._service.read(self._feedback(owner_id))
        queries = check_judged(judged, minimum=minimum)
        async with self._alone():
            before, average_length = await self._current()
            legs = await self.legs(queries, tune_text=tune_text)
            after, evidence = await asyncio.to_thread(
                decide, legs, before, average_length=average_length, limit=self._settings.search_candidates,
                tune_text=tune_text, standard_errors=standard_errors,
            )  # fmt: skip
            evidence = {"source": source, **evidence}
            if dry_run:
                return Calibration(
                    id=None, before=before, after=after, evidence=evidence, created_at=dt.datetime.now(dt.UTC)
                )
            stored = await self._store(before, after, evidence)
            if before.text != after.text:
                await self._statistics.rewrite()
        return stored

    def _feedback(self, owner_id: str | None) -> Callable[[AsyncSession], Awaitable[Sequence[JudgedQuery]]]:
        return lambda session: FeedbackRepository(session, self._corpus).judged(owner_id=owner_id)

    async def legs(self, queries: Sequence[JudgedQuery], *, tune_text: bool) -> list[JudgedLegs]:
        """What both legs return for each query, one query at a time, each statement a transaction of its own."""
        space, vectors = await self._vectors(queries)
        found = []
        for one, vector in zip(queries, vectors, strict=True):
            async with self._service.single_statements() as session:
                found.append(await self._legs_of(session, one, vector, space, tune_text=tune_text))
        return found

    async def _vectors(self, queries: Sequence[JudgedQuery]) -> tuple[Space | None, list[list[float] | None]]:
        if self._embeddings.embedder is None or self._corpus.vectors is None:
            return None, [None] * len(queries)
        # One space for all, whatever is cut over meanwhile.
        space = await self._embeddings.space()
        vectors: list[list[float] | None] = []
        for start in range(0, len(queries), QUERIES_EMBEDDED_AT_ONCE):
            texts = [one.query for one in queries[start : start + QUERIES_EMBEDDED_AT_ONCE]]
            vectors += await self._embeddings.embed(texts, kind="query", space=space)
        return space, vectors

    async def _legs_of(
        self,
        session: AsyncSession,
        one: JudgedQuery,
        vector: Sequence[float] | None,
        space: Space | None,
        *,
        tune_text: bool,
    ) -> JudgedLegs:
        candidates = self._settings.search_candidates
        text = await self._search(session, one, None, None, rows=candidates)
        nearest = [] if vector is None else await self._search(session, one, vector, space, rows=candidates)
        judged = [*text, *nearest]
        pool: Sequence[TermCounts] = ()
        if tune_text:
            lifted = await self._search(session, one, None, None, rows=POOL * candidates)
            judged += lifted
            pool = await self._counts(session, one, [hit.id for hit in lifted])
        relevant: dict[Hashable, float] = {key: grade for key, grade in one.relevant.items()}  # noqa: C416
        return JudgedLegs(
            relevant=relevant,
            units={hit.id: hit.id if hit.id in relevant else self._corpus.unit_of(hit) for hit in judged},
            text={hit.id: hit.legs["text"].score for hit in text},
            vector={hit.id: hit.legs["vector"].score for hit in nearest},
            pool=pool,
        )

    async def _search(
        self,
        session: AsyncSession,
        one: JudgedQuery,
        vector: Sequence[float] | None,
        space: Space | None,
        *,
        rows: int,
    ) -> SearchHits[Any]:
        """The best rows of one leg, the vector's where there is a vector."""
        rows = min(rows, MAX_LIMIT)
        search: Search[Any] = Search(
            owner_id=one.owner_id,
            query=one.query,
            mode="text" if vector is None else "vector",
            where=one.where,
            limit=rows,
            candidates=rows,
            operators=one.operators,
        )
        return await search_in(session, self._corpus, search, vector=vector, space=space, settings=self._settings)

    async def _counts(self, session: AsyncSession, one: JudgedQuery, ids: Sequence[uuid.UUID]) -> list[TermCounts]:
        search: Search[Any] = Search(owner_id=one.owner_id, query=one.query, limit=1, operators=one.operators)
        terms = await read_terms(session, self._corpus, search, search.options(self._settings))
        weights = {term.lexeme: term.idf * term.frequency for term in terms}
        if not ids or not weights:
            return []
        counted = term_counts(self._corpus.rows, owner_id=one.owner_id, ids=ids, lexemes=list(weights))
        return [
            TermCounts(
                row.id, int(row.length), int(row.context_length),
                tuple((weights[lexeme], *found) for lexeme, found in (row.terms or {}).items()),
            )
            for row in await session.execute(counted)
        ]  # fmt: skip

    async def _current(self) -> tuple[Tuning, float]:
        await self._service.transaction(lambda session: begin_statistics(session, corpus=self._corpus.name))
        async with self._service.session() as session:
            row = (await session.execute(_settings_of(self._corpus.name))).one()
        return _tuning(row), row.bm25_average_length

    async def _store(self, before: Tuning, after: Tuning, evidence: dict[str, Any]) -> Calibration:
        async def work(session: AsyncSession) -> StoredCalibration:
            found = (await session.execute(_settings_of(self._corpus.name).with_for_update())).one()
            if _tuning(found) != before:
                raise Conflict("the settings of the corpus were changed while they were calibrated; calibrate again")
            await _adopt(session, self._corpus.name, after)
            row = StoredCalibration(
                corpus=self._corpus.name,
                before=dataclasses.asdict(before),
                after=dataclasses.asdict(after),
                evidence=evidence,
            )
            session.add(row)
            await session.flush()
            return row

        return _read(await self._service.transaction(work))

    async def list(self, *, limit: int) -> list[Calibration]:
        """The calibrations, newest first."""
        place = (StoredCalibration.created_at.desc(), StoredCalibration.id.desc())
        statement = (
            select(StoredCalibration).where(StoredCalibration.corpus == self._corpus.name).order_by(*place).limit(limit)
        )
        rows = await self._service.read(lambda session: session.scalars(statement))
        return [_read(row) for row in rows]

    async def undo(self) -> Calibration:
        """Give the corpus the settings from before its newest calibration that stands."""

        async def work(session: AsyncSession) -> StoredCalibration:
            standing = (
                select(StoredCalibration)
                .where(StoredCalibration.corpus == self._corpus.name, StoredCalibration.undone_at.is_(None))
                .order_by(StoredCalibration.created_at.desc(), StoredCalibration.id.desc())
                .limit(1)
                .with_for_update()
            )
            row = (await session.scalars(standing)).one_or_none()
            if row is None:
                raise CalibrationNotFound
            await _adopt(session, self._corpus.name, Tuning(**row.before))
            marked = update(StoredCalibration).where(StoredCalibration.id == row.id).values(undone_at=func.now())
            await session.execute(marked)
            await session.refresh(row)
            return row

        async with self._alone():
            undone = _read(await self._service.transaction(work))
            if undone.before.text != undone.after.text:
                await self._statistics.rewrite()
        return undone

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Hold the lock of this schema's calibrations, outside of any transaction; Conflict where it is taken."""
        # Behind a pooler a lock would stay with a server connection; the settings are compared in any case.
        if self._service.database.settings.behind_pooler:
            yield
            return
        engine = self._service.engine.execution_options(isolation_level="AUTOCOMMIT")
        schema = self._service.schema
        with translating():
            async with engine.connect() as connection:
                try:
                    database = await connection.scalar(text("SELECT current_database()"))
                    key = lock_key(database=str(database), schema=f"{schema}\0calibration\0{self._corpus.name}")
                    if not await connection.scalar(select(func.pg_try_advisory_lock(key))):
                        raise Conflict(f"schema {schema!r} is being calibrated by another process; try again later")
                    yield
                finally:
                    # The lock goes with it.
                    await connection.invalidate()


def _key(key: Key) -> Key:
    return key if isinstance(key, uuid.UUID) else check_text("relevant", key)


def _check_rule(minimum: int, standard_errors: float) -> None:
    if isinstance(minimum, bool) or not isinstance(minimum, int) or minimum < 2:
        raise ValidationError("minimum", f"a comparison needs 2 queries at least, not {minimum!r:.60}")
    if isinstance(standard_errors, bool) or not isinstance(standard_errors, int | float):
        raise ValidationError("standard_errors", f"it must be a number from 0 to 10, not {standard_errors!r:.60}")
    if not math.isfinite(standard_errors) or not 0 <= standard_errors <= 10:
        raise ValidationError("standard_errors", f"it must be a number from 0 to 10, not {standard_errors!r:.60}")


def _settings_of(corpus: str) -> Any:
    return select(
        CorpusStatistics.fusion_alpha,
        CorpusStatistics.bm25_k1,
        CorpusStatistics.bm25_b,
        CorpusStatistics.bm25_context_weight,
        CorpusStatistics.bm25_average_length,
    ).where(CorpusStatistics.corpus == corpus)


def _tuning(row: Any) -> Tuning:
    # 4-byte floats come back with digits that nobody wrote.
    alpha = None if row.fusion_alpha is None else round(row.fusion_alpha, 6)
    return Tuning(
        alpha=alpha,
        k1=round(row.bm25_k1, 6),
        b=round(row.bm25_b, 6),
        context_weight=round(row.bm25_context_weight, 5),
    )


async def _adopt(session: AsyncSession, corpus: str, settings: Tuning) -> None:
    text_settings = {
        "bm25_k1": settings.k1,
        "bm25_b": settings.b,
        "bm25_context_weight": settings.context_weight,
    }
    values = {"fusion_alpha": settings.alpha, **weighing(text_settings)}
    statement = update(CorpusStatistics).where(CorpusStatistics.corpus == corpus).values(values)
    await session.execute(statement.execution_options(synchronize_session=False))


def _read(row: StoredCalibration) -> Calibration:
    return Calibration(
        id=row.id,
        before=Tuning(**row.before),
        after=Tuning(**row.after),
        evidence=row.evidence,
        created_at=row.created_at,
        undone_at=row.undone_at,
    )
