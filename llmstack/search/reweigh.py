"""Give the rows of a corpus the BM25 parameters that fit it, a batch at a time while everybody reads and writes."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, cast, or_, select, text, update
from sqlalchemy.dialects.postgresql import REAL, insert
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.models import CorpusStatistics
from ..db.schemas import quoted_in
from ..errors import ValidationError
from .columns import AVERAGE_LENGTH

MOVED, MOVED_AGAIN = 2.0, 1.25
"""An average length that is wrong by more than twice costs ranking quality.

One that was adopted is followed sooner: the first documents of a corpus are often unlike the rest.
"""

_WRITERS = text("""
SELECT virtualtransaction FROM pg_locks
WHERE relation = CAST(CAST(:table AS text) AS regclass)
    AND mode = 'RowExclusiveLock' AND granted AND pid <> pg_backend_pid()
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
""")
_PARAMETERS = ("bm25_k1", "bm25_b", "bm25_average_length", "bm25_context_weight")

RANGES = {"k1": (0.0, 10.0), "b": (0.0, 1.0), "average_length": (1.0, 1_000_000.0), "context_weight": (0.0, 100.0)}
"""What each parameter may be."""


def check_parameters(given: Mapping[str, float | None]) -> dict[str, float]:
    """Those BM25 parameters that are given, or ValidationError."""
    checked = {}
    for name, value in given.items():
        least, most = RANGES[name]
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValidationError(name, f"it must be a number from {least:g} to {most:g}, not {value!r:.60}")
        if not least <= value <= most:
            raise ValidationError(name, f"it must be from {least:g} to {most:g}, not {value!r:.60}")
        checked[name] = float(value)
    return checked


async def begin_statistics(session: AsyncSession, *, corpus: str) -> None:
    """Make the row of a corpus that nobody has measured yet, so that settings have a place."""
    begun = insert(CorpusStatistics).values(corpus=corpus, row_count=0, average_length=0.0, sampled_share=1.0)
    await session.execute(begun.on_conflict_do_nothing())


async def set_parameters(session: AsyncSession, *, corpus: str, parameters: Mapping[str, float]) -> None:
    """Weigh new rows of the corpus by these; its old rows follow with `reweigh_batch`."""
    await begin_statistics(session, corpus=corpus)
    if parameters:
        named = weighing({f"bm25_{name}": value for name, value in parameters.items()})
        statement = update(CorpusStatistics).where(CorpusStatistics.corpus == corpus).values(named)
        await session.execute(statement.execution_options(synchronize_session=False))


def weighing(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a corpus' row that change its parameters: from then on its rows are mixed, until all follow."""
    given = {name: cast(value, REAL) for name, value in parameters.items()}
    differs = (getattr(CorpusStatistics, name) != value for name, value in given.items())
    return {**given, "is_mixed": or_(CorpusStatistics.is_mixed, *differs)}


def has_moved(measured: float, assumed: float) -> bool:
    """Whether the measured average length is too far from what rows are weighed by: the default, or another one."""
    factor = MOVED if assumed == AVERAGE_LENGTH else MOVED_AGAIN
    return measured > 0 and not assumed / factor <= measured <= assumed * factor


async def adopt_average_length(session: AsyncSession, *, corpus: str) -> float | None:
    """Weigh new rows by the measured average length; None before the statistics were ever read."""
    statement = (
        update(CorpusStatistics)
        .where(CorpusStatistics.corpus == corpus, CorpusStatistics.average_length > 0)
        .values(weighing({"bm25_average_length": CorpusStatistics.average_length}))
        .returning(CorpusStatistics.average_length)
        .execution_options(synchronize_session=False)
    )
    return await session.scalar(statement)


async def writers_of(session: AsyncSession, model: type[Any]) -> set[str]:
    """The transactions that have written rows of the model, and have not ended."""
    table: Any = model.__table__
    return set(await session.scalars(_WRITERS, {"table": await session.run_sync(quoted_in, table)}))


async def reweigh_batch(
    session: AsyncSession, *, model: type[Any], corpus: str, after: uuid.UUID | None, rows: int
) -> tuple[uuid.UUID | None, int]:
    """Weigh the next rows by id anew where they differ from the corpus; (last id or None at the end, rewritten)."""
    batch = select(model.id).order_by(model.id).limit(rows)
    if after is not None:
        batch = batch.where(model.id > after)
    ids = list(await session.scalars(batch))
    if not ids:
        return None, 0
    wanted = {name: _parameter(corpus, name) for name in _PARAMETERS}
    statement = (
        update(model)
        .where(model.id.in_(ids), _differs(model, wanted))
        .values(wanted)
        .returning(model.id)
        .execution_options(synchronize_session=False)
    )
    return ids[-1], len(list(await session.scalars(statement)))


async def end_mixture(session: AsyncSession, *, model: type[Any], corpus: str) -> None:
    """Say that all rows are weighed by the corpus' parameters, where they are."""
    wanted = {name: getattr(CorpusStatistics, name) for name in _PARAMETERS}
    left = select(model.id).where(_differs(model, wanted)).correlate(CorpusStatistics).exists()
    statement = update(CorpusStatistics).where(CorpusStatistics.corpus == corpus, CorpusStatistics.is_mixed, ~left)
    await session.execute(statement.values(is_mixed=False).execution_options(synchronize_session=False))


def _differs(model: type[Any], wanted: Mapping[str, ColumnElement[float]]) -> ColumnElement[bool]:
    return or_(*(getattr(model, name) != value for name, value in wanted.items()))


def _parameter(corpus: str, name: str) -> ColumnElement[float]:
    statement = select(getattr(CorpusStatistics, name)).where(CorpusStatistics.corpus == corpus)
    return statement.scalar_subquery()
