"""Judgements of logged searches: recorded, read back, and made into judged queries."""

from __future__ import annotations

import datetime as dt
import json
import logging
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, literal_column, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from ...db.checks import as_uuid, check_id, check_limit, check_owner
from ...db.models import LoggedSearch, SearchFeedback
from ...db.paging import Keyset, Page
from ...errors import ValidationError
from ..corpus import Corpus
from ..errors import SearchNotFound
from ..filters import Filter

MAX_GRADE = 1_000_000.0
"""Grades are shares of the best one, so any scale will do below it."""
MAX_UNIT_BYTES = 2_000
"""Of what people judge by, such as an id at the origin."""
MAX_JUDGEMENTS = 50_000
"""Of recorded feedback so much, the newest, is read for a calibration."""

Key = uuid.UUID | str

logger = logging.getLogger("llmstack.retrieval")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedQuery:
    """A query and what answers it: grades above 0 by the unit that people judge, or by a row's UUID."""

    owner_id: str
    query: str
    relevant: Mapping[Key, float]
    where: Filter | None = None
    operators: bool = True

    @property
    def identity(self) -> tuple[str, str, str, bool]:
        """What makes two of them the same query."""
        filters = None if self.where is None else self.where.as_json()
        return self.owner_id, self.query, json.dumps(filters, sort_keys=True, default=str), self.operators


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedHit:
    """A hit of a logged search with its rank in each leg; `grade` is None until somebody judges it."""

    row_id: uuid.UUID
    unit: str
    score: float
    ranks: Mapping[str, int]
    grade: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSearch:
    """A logged search; its hits best first, without their text."""

    id: uuid.UUID
    owner_id: str
    query: str
    mode: str
    limit: int
    filters: Mapping[str, Any] | None
    hits: Sequence[RecordedHit]
    vector_path: str | None
    elapsed_ms: float
    created_at: dt.datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """A judgement of one hit; the unit outlives the row."""

    search_id: uuid.UUID
    query: str
    row_id: uuid.UUID
    unit: str
    grade: float
    created_at: dt.datetime
    updated_at: dt.datetime


def check_grade(grade: object) -> float:
    """A finite number from 0."""
    if isinstance(grade, bool) or not isinstance(grade, int | float) or not math.isfinite(grade):
        raise ValidationError("grades", f"a grade is a number from 0 to {MAX_GRADE:,.0f}, not {grade!r:.60}")
    if not 0 <= grade <= MAX_GRADE:
        raise ValidationError("grades", f"a grade is a number from 0 to {MAX_GRADE:,.0f}, not {grade!r:.60}")
    return float(grade)


_SEARCHES = Keyset("searches", (LoggedSearch.created_at, LoggedSearch.id))
_JUDGEMENTS = Keyset("feedback", (SearchFeedback.updated_at, SearchFeedback.search_id, SearchFeedback.row_id))


class FeedbackRepository:
    """Reads a corpus' logged searches and writes judgements of them, inside the caller's transaction."""

    def __init__(self, session: AsyncSession, corpus: Corpus[Any, Any]) -> None:
        self._session = session
        self._corpus = corpus

    async def put(self, *, owner_id: str, search_id: uuid.UUID | str, grades: Mapping[Key, float]) -> int:
        """Judge hits of a search, or judge them anew; SearchNotFound when this owner has no such search."""
        key = as_uuid("search_id", search_id)
        if not isinstance(grades, Mapping) or not grades:
            raise ValidationError("grades", "give at least one hit: {unit or row id: grade}")
        checked = {hit: check_grade(grade) for hit, grade in grades.items()}
        # Locked, so that a search is not deleted between the look and the write.
        statement = select(LoggedSearch.hits).where(
            LoggedSearch.owner_id == check_owner(owner_id),
            LoggedSearch.id == key,
            LoggedSearch.corpus == self._corpus.name,
        )
        hits = await self._session.scalar(statement.with_for_update(key_share=True))
        if hits is None:
            raise SearchNotFound(key)
        rows: dict[str, dict[str, Any]] = {}
        for given, grade in checked.items():
            hit = _named(hits, given)
            if hit["row_id"] in rows:
                raise ValidationError("grades", f"{given!s:.60} and another key name the same hit")
            rows[hit["row_id"]] = {
                "search_id": key, "row_id": uuid.UUID(hit["row_id"]), "owner_id": owner_id,
                "unit": hit["unit"], "grade": grade,
            }  # fmt: skip
        written = insert(SearchFeedback).values(list(rows.values()))
        await self._session.execute(
            written.on_conflict_do_update(
                index_elements=[SearchFeedback.search_id, SearchFeedback.row_id],
                set_={"grade": written.excluded.grade, "updated_at": func.now()},
            )
        )
        return len(rows)

    async def searches(self, *, owner_id: str, limit: int, cursor: str | None) -> Page[RecordedSearch]:
        """A page of logged searches, newest first, each hit with its grade."""
        mine = select(LoggedSearch).where(
            LoggedSearch.owner_id == check_owner(owner_id), LoggedSearch.corpus == self._corpus.name
        )
        total, found = await self._page(mine, _SEARCHES, limit=check_limit(limit), cursor=cursor)
        items = [row[0] for row in found[:limit]]
        graded = await self._grades(owner_id, [search.id for search in items])
        return Page(
            items=[_recorded(search, graded) for search in items],
            total=total,
            cursor=_SEARCHES.cursor(items[-1].created_at, items[-1].id) if len(found) > limit else None,
        )

    async def _page(
        self, mine: Select[*tuple[Any, ...]], order: Keyset, *, limit: int, cursor: str | None
    ) -> tuple[int, Sequence[Any]]:
        total = await self._session.scalar(select(func.count()).select_from(mine.subquery())) or 0
        page = mine.where(*order.after(cursor)).order_by(*order.order()).limit(limit + 1)
        rows = await self._session.execute(page)
        return total, rows.all()

    async def _grades(self, owner_id: str, ids: Sequence[uuid.UUID]) -> dict[tuple[uuid.UUID, uuid.UUID], float]:
        columns = (SearchFeedback.search_id, SearchFeedback.row_id, SearchFeedback.grade)
        mine = select(*columns).where(SearchFeedback.owner_id == owner_id, SearchFeedback.search_id.in_(ids))
        return {(search, row): grade for search, row, grade in await self._session.execute(mine)}

    async def list(
        self, *, owner_id: str, search_id: uuid.UUID | str | None, limit: int, cursor: str | None
    ) -> Page[Feedback]:
        """A page of judgements, the newest first."""
        mine = (
            select(SearchFeedback, LoggedSearch.query)
            .join(LoggedSearch, LoggedSearch.id == SearchFeedback.search_id)
            .where(SearchFeedback.owner_id == check_owner(owner_id), LoggedSearch.corpus == self._corpus.name)
        )
        if search_id is not None:
            mine = mine.where(SearchFeedback.search_id == as_uuid("search_id", search_id))
        total, found = await self._page(mine, _JUDGEMENTS, limit=check_limit(limit), cursor=cursor)
        items = found[:limit]
        last = items[-1][0] if len(found) > limit else None
        return Page(
            items=[_feedback(row[0], row.query) for row in items],
            total=total,
            cursor=None if last is None else _JUDGEMENTS.cursor(last.updated_at, last.search_id, last.row_id),
        )

    async def judged(self, *, owner_id: str | None) -> Sequence[JudgedQuery]:
        """Recorded feedback as judged queries: of a query and a unit the last grade counts."""
        mine = (
            select(
                LoggedSearch.owner_id, LoggedSearch.query, LoggedSearch.filters,
                SearchFeedback.unit, SearchFeedback.grade,
            )
            .join(LoggedSearch, LoggedSearch.id == SearchFeedback.search_id)
            .where(LoggedSearch.corpus == self._corpus.name, literal_column("true") if owner_id is None
                   else SearchFeedback.owner_id == check_owner(owner_id))
            # Of rows that were judged together the best speaks for their unit.
            .order_by(SearchFeedback.updated_at.desc(), SearchFeedback.grade.desc())
            .limit(MAX_JUDGEMENTS)
        )  # fmt: skip
        queries: dict[tuple[str, str, str, bool], JudgedQuery] = {}
        grades: dict[tuple[str, str, str, bool], dict[Key, float]] = {}
        for owner, query, filters, unit, grade in await self._session.execute(mine):
            try:
                where = self._corpus.where.from_json(filters) if filters else None
            except ValidationError as error:
                logger.warning("feedback on a search with a filter that is no longer one is left out: %s", error)
                continue
            judged = JudgedQuery(owner_id=owner, query=query, relevant={}, where=where)
            queries.setdefault(judged.identity, judged)
            grades.setdefault(judged.identity, {}).setdefault(unit, grade)
        return [
            JudgedQuery(owner_id=one.owner_id, query=one.query, where=one.where, relevant=grades[identity])
            for identity, one in queries.items()
            if any(grade > 0 for grade in grades[identity].values())
        ]


def _named(hits: Sequence[Mapping[str, Any]], given: object) -> Mapping[str, Any]:
    """The hit of this row, or the best of this unit."""
    if not isinstance(given, uuid.UUID):
        check_id("grades", given, limit=MAX_UNIT_BYTES)
    for name in ("unit", "row_id"):
        wanted = given if name == "unit" else str(given).lower()
        for hit in hits:
            if hit[name] == wanted:
                return hit
    raise ValidationError("grades", f"{given!s:.60} is not among the hits of this search")


def _recorded(search: LoggedSearch, grades: Mapping[tuple[uuid.UUID, uuid.UUID], float]) -> RecordedSearch:
    hits = [
        RecordedHit(
            row_id=uuid.UUID(hit["row_id"]),
            unit=hit["unit"],
            score=hit["score"],
            ranks=hit["ranks"],
            grade=grades.get((search.id, uuid.UUID(hit["row_id"]))),
        )
        for hit in search.hits
    ]
    return RecordedSearch(
        id=search.id,
        owner_id=search.owner_id,
        query=search.query,
        mode=search.mode,
        limit=search.hit_limit,
        filters=search.filters,
        hits=hits,
        vector_path=search.vector_path,
        elapsed_ms=search.elapsed_ms,
        created_at=search.created_at,
    )


def _feedback(row: SearchFeedback, query: str) -> Feedback:
    return Feedback(
        search_id=row.search_id,
        query=query,
        row_id=row.row_id,
        unit=row.unit,
        grade=row.grade,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
