"""Calibration: run judged queries, choose by what they say, store it with its evidence, and take it back."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import math
import uuid
from collections.abc import AsyncIterator, Hashable, Mapping, Sequence
from typing import Any

from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.database import Service
from ..db.locks import lock_key
from ..db.models import CorpusStatistics, StoredCalibration
from ..db.translate import translating
from ..embeddings import EmbeddingService, Space
from ..errors import Conflict, ValidationError
from ..search import SearchOptions, Weighted
from ..search.calibration import (
    ALPHAS,
    DEFAULT_ALPHA,
    TEXT_GRID,
    Choice,
    Scores,
    TermCounts,
    TextSettings,
    best_of,
    choose,
    fused,
    ndcg,
)
from ..search.evidence import query_terms, term_counts
from ..search.hybrid import MAX_LIMIT, languages_cte
from ..search.lexical import parse_query
from ..search.reweigh import begin_statistics
from ..settings import Settings
from .errors import CalibrationNotFound
from .feedback import FeedbackRepository, JudgedQuery, Key, check_grade
from .freshness import StatisticsKeeper
from .models import Chunk
from .preparation import check_owner, check_text
from .queries import CORPUS, spoken_languages
from .records import SearchHits
from .repository import DocumentRepository

POOL = 4
"""Rows of the text leg that other parameters may lift, in multiples of what a search looks at."""
QUERIES_EMBEDDED_AT_ONCE = 256


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The settings of a corpus that a calibration chooses; `alpha` None is the default of the fusion."""

    alpha: float | None = None
    k1: float
    b: float
    context_weight: float

    @property
    def text(self) -> TextSettings:
        """The BM25 parameters."""
        return TextSettings(self.k1, self.b, self.context_weight)


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


@dataclasses.dataclass(frozen=True, slots=True)
class Legs:
    """What both legs returned for one judged query; `units` maps rows to what they are judged by."""

    relevant: Mapping[Hashable, float]
    units: Mapping[uuid.UUID, Hashable]
    text: Scores
    vector: Scores
    pool: Sequence[TermCounts] = ()

    def by_alpha(self, alphas: Sequence[float], text: Scores | None = None) -> list[float]:
        """The nDCG of the fused ranking for each alpha, with the text leg as it was or another."""
        rankings = fused(self.text if text is None else text, self.vector, alphas)
        return [ndcg(ranked, self.units, self.relevant) for ranked in rankings]


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
        raise ValidationError("relevant", "it is a mapping of id_at_origin or chunk UUID to a grade")
    graded = {key: check_grade(grade) for key, grade in one.relevant.items()}
    if not any(graded.values()):
        raise ValidationError("relevant", f"nothing is relevant for the query {one.query!r:.60}")
    return graded


def decide(
    legs: Sequence[Legs], before: Tuning, *, average_length: float, limit: int, tune_text: bool, standard_errors: float
) -> tuple[Tuning, dict[str, Any]]:
    """The settings that the queries speak for, and the evidence: first of the text leg, then alpha upon it."""
    evidence: dict[str, Any] = {"queries": len(legs), "measure": f"ndcg@{10}", "standard_errors": standard_errors}
    after, rescored = before, [leg.text for leg in legs]
    alpha = DEFAULT_ALPHA if before.alpha is None else before.alpha
    if tune_text:
        chosen, other = _choose_text(legs, before.text, alpha, average_length, limit, standard_errors)
        evidence["text"] = _evidence(chosen, before.text, name=_name_text)
        after = dataclasses.replace(after, **dataclasses.asdict(chosen.chosen))
        rescored = other[chosen.chosen]
    if any(leg.vector for leg in legs):
        grid = tuple(sorted({*ALPHAS, alpha}))
        rows = [leg.by_alpha(grid, text) for leg, text in zip(legs, rescored, strict=True)]
        scores = {setting: [row[place] for row in rows] for place, setting in enumerate(grid)}
        weight = choose(scores, current=alpha, distance=_from_default, standard_errors=standard_errors)
        evidence["alpha"] = _evidence(weight, alpha, name=lambda value: f"{value:g}")
        if weight.chosen != alpha:
            after = dataclasses.replace(after, alpha=None if weight.chosen == DEFAULT_ALPHA else weight.chosen)
    return after, evidence


def _from_default(alpha: float) -> float:
    return round(abs(alpha - DEFAULT_ALPHA), 6)


def _choose_text(
    legs: Sequence[Legs],
    current: TextSettings,
    alpha: float,
    average_length: float,
    limit: int,
    standard_errors: float,
) -> tuple[Choice[TextSettings], dict[TextSettings, list[Scores]]]:
    grid = tuple(sorted({*TEXT_GRID, current}))
    texts: dict[TextSettings, list[Scores]] = {current: [leg.text for leg in legs]}
    for setting in grid:
        if setting != current:
            texts[setting] = [best_of(leg.pool, setting, average_length=average_length, limit=limit) for leg in legs]
    scores = {
        setting: [leg.by_alpha((alpha,), text)[0] for leg, text in zip(legs, texts[setting], strict=True)]
        for setting in grid
    }
    choice = choose(
        scores,
        current=current,
        distance=lambda setting: setting.distance,
        standard_errors=standard_errors,
        comparisons=len(grid) - 1,
    )
    return choice, texts


def _name_text(setting: TextSettings) -> str:
    return f"k1={setting.k1:g} b={setting.b:g} context_weight={setting.context_weight:g}"


def _evidence(choice: Choice[Any], current: Any, *, name: Any) -> dict[str, Any]:
    return {
        "current": name(current),
        "best": name(choice.best),
        "chosen": name(choice.chosen),
        "gain": round(choice.gain, 6),
        "standard_error": round(choice.standard_error, 6),
        "needed_standard_errors": round(choice.needed, 3),
        "chosen_gain": round(choice.means[choice.chosen] - choice.means[current], 6),
        "means": {name(setting): round(mean, 6) for setting, mean in choice.means.items()},
    }


class Calibrator:
    """Runs, stores, lists and undoes the calibrations of the documents of one schema."""

    def __init__(
        self, service: Service, embeddings: EmbeddingService, settings: Settings, statistics: StatisticsKeeper
    ) -> None:
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
            async with self._service.session() as session:
                judged = await FeedbackRepository(session).judged(owner_id=owner_id)
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

    async def legs(self, queries: Sequence[JudgedQuery], *, tune_text: bool) -> list[Legs]:
        """What both legs return for each query, one query at a time, each statement a transaction of its own."""
        space, vectors = await self._vectors(queries)
        found = []
        for one, vector in zip(queries, vectors, strict=True):
            async with self._service.single_statements() as session:
                found.append(await self._legs_of(session, one, vector, space, tune_text=tune_text))
        return found

    async def _vectors(self, queries: Sequence[JudgedQuery]) -> tuple[Space | None, list[list[float] | None]]:
        if self._embeddings.embedder is None:
            return None, [None] * len(queries)
        vectors: list[list[float] | None] = []
        for start in range(0, len(queries), QUERIES_EMBEDDED_AT_ONCE):
            texts = [one.query for one in queries[start : start + QUERIES_EMBEDDED_AT_ONCE]]
            space, embedded = await self._embeddings.embed_queries(texts)
            vectors += embedded
        return space, vectors

    async def _legs_of(
        self,
        session: AsyncSession,
        one: JudgedQuery,
        vector: Sequence[float] | None,
        space: Space | None,
        *,
        tune_text: bool,
    ) -> Legs:
        candidates = self._settings.search_candidates
        hits = await self._search(session, one, vector, space, candidates=candidates, rows=2 * candidates)
        judged = list(hits)
        pool: Sequence[TermCounts] = ()
        if tune_text:
            wide = min(POOL * candidates, MAX_LIMIT)
            lifted = await self._search(session, one, None, None, candidates=wide, rows=wide)
            judged += lifted
            pool = await self._counts(session, one, [hit.chunk_id for hit in lifted])
        relevant: dict[Hashable, float] = {_key(key): grade for key, grade in one.relevant.items()}
        return Legs(
            relevant=relevant,
            units={hit.chunk_id: hit.chunk_id if hit.chunk_id in relevant else hit.id_at_origin for hit in judged},
            text={hit.chunk_id: hit.legs["text"].score for hit in hits if "text" in hit.legs},
            vector={hit.chunk_id: hit.legs["vector"].score for hit in hits if "vector" in hit.legs},
            pool=pool,
        )

    async def _search(
        self,
        session: AsyncSession,
        one: JudgedQuery,
        vector: Sequence[float] | None,
        space: Space | None,
        *,
        candidates: int,
        rows: int,
    ) -> SearchHits:
        return await DocumentRepository(session, settings=self._settings).search(
            owner_id=one.owner_id,
            query=one.query,
            mode="text" if vector is None else "hybrid",
            vector=vector,
            space=space,
            where=one.where,
            limit=min(rows, MAX_LIMIT),
            fusion=Weighted(),
            options=SearchOptions(
                candidates=candidates,
                budget=self._settings.lexical_budget,
                exact_rows=self._settings.exact_rows,
                ef_search=self._settings.ef_search,
                operators=one.operators,
            ),
        )

    async def _counts(self, session: AsyncSession, one: JudgedQuery, ids: Sequence[uuid.UUID]) -> list[TermCounts]:
        languages = languages_cte(spoken_languages(one.owner_id))
        words = parse_query(one.query, operators=one.operators).words
        weights = dict((await session.execute(query_terms(words, corpus=CORPUS, languages=languages))).tuples())
        if not ids or not weights:
            return []
        rows = await session.execute(term_counts(Chunk, owner_id=one.owner_id, ids=ids, lexemes=list(weights)))
        return [
            TermCounts(
                row.id, int(row.length), int(row.context_length),
                tuple((weights[lexeme], *counted) for lexeme, counted in (row.terms or {}).items()),
            )
            for row in rows
        ]  # fmt: skip

    async def _current(self) -> tuple[Tuning, float]:
        await self._service.transaction(lambda session: begin_statistics(session, corpus=CORPUS))
        async with self._service.session() as session:
            row = (await session.execute(_settings_of(CORPUS))).one()
        return _tuning(row), row.bm25_average_length

    async def _store(self, before: Tuning, after: Tuning, evidence: dict[str, Any]) -> Calibration:
        async def work(session: AsyncSession) -> StoredCalibration:
            found = (await session.execute(_settings_of(CORPUS).with_for_update())).one()
            if _tuning(found) != before:
                raise Conflict("the settings of the corpus were changed while they were calibrated; calibrate again")
            await _adopt(session, after)
            row = StoredCalibration(
                corpus=CORPUS, before=dataclasses.asdict(before), after=dataclasses.asdict(after), evidence=evidence
            )
            session.add(row)
            await session.flush()
            return row

        return _read(await self._service.transaction(work))

    async def list(self, *, limit: int) -> list[Calibration]:
        """The calibrations, newest first."""
        place = (StoredCalibration.created_at.desc(), StoredCalibration.id.desc())
        async with self._service.session() as session:
            statement = select(StoredCalibration).where(StoredCalibration.corpus == CORPUS)
            return [_read(row) for row in await session.scalars(statement.order_by(*place).limit(limit))]

    async def undo(self) -> Calibration:
        """Give the corpus the settings from before its newest calibration that stands."""

        async def work(session: AsyncSession) -> StoredCalibration:
            standing = (
                select(StoredCalibration)
                .where(StoredCalibration.corpus == CORPUS, StoredCalibration.undone_at.is_(None))
                .order_by(StoredCalibration.created_at.desc(), StoredCalibration.id.desc())
                .limit(1)
                .with_for_update()
            )
            row = (await session.scalars(standing)).one_or_none()
            if row is None:
                raise CalibrationNotFound
            await _adopt(session, Tuning(**row.before))
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
                    key = lock_key(database=str(database), schema=f"{schema}\0calibration\0{CORPUS}")
                    if not await connection.scalar(select(func.pg_try_advisory_lock(key))):
                        raise Conflict(f"schema {schema!r} is being calibrated by another process; try again later")
                    yield
                finally:
                    # The lock goes with it.
                    await connection.invalidate()


def _key(key: Key) -> Hashable:
    if isinstance(key, uuid.UUID):
        return key
    return check_text("relevant", key)


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


async def _adopt(session: AsyncSession, settings: Tuning) -> None:
    values = {
        "fusion_alpha": settings.alpha,
        "bm25_k1": settings.k1,
        "bm25_b": settings.b,
        "bm25_context_weight": settings.context_weight,
    }
    statement = update(CorpusStatistics).where(CorpusStatistics.corpus == CORPUS).values(values)
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
