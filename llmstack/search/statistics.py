"""Term statistics: how many rows hold each lexeme, read from a sample, never while a search waits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Float,
    Text,
    cast,
    delete,
    func,
    literal_column,
    or_,
    select,
    tablesample,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from ..db.models import CorpusStatistics, TermStatistics
from ..db.schemas import schema_of

SAMPLE_ROWS = 100_000
"""Rows that are read of a larger corpus: a refresh then takes seconds, however large it is."""
MEASURED_ROWS = 1_000
"""Rows whose lengths are measured: their mean is right to a few hundredths."""
_OWNER_PREFIX = "\x01owner="


@dataclass(frozen=True, slots=True)
class StatisticsRefresh:
    """What a refresh found: searchable rows, their average length in lexemes, and the share that was read."""

    row_count: int
    average_length: float
    sampled_share: float


async def refresh_statistics(session: AsyncSession, *, model: type[Any], corpus: str) -> StatisticsRefresh | None:
    """Count the lexemes of a corpus anew; None while another process does it.

    Lexemes of one row are left out. It takes as long as it takes, whatever statement_timeout says.
    """
    allowed = await session.scalar(select(func.current_setting("statement_timeout")))
    await _allow(session, "0")
    refreshed = await _refresh(session, model=model, corpus=corpus)
    await _allow(session, allowed or "0")
    return refreshed


async def _allow(session: AsyncSession, duration: str) -> None:
    await session.execute(select(func.set_config("statement_timeout", duration, True)))


async def _refresh(session: AsyncSession, *, model: type[Any], corpus: str) -> StatisticsRefresh | None:
    name = f"llmstack:statistics:{await session.run_sync(schema_of)}:{corpus}"
    if not await session.scalar(select(func.pg_try_advisory_xact_lock(func.hashtextextended(name, 0)))):
        return None
    # While terms are read others may go on counting changes in the row of the corpus.
    begun = insert(CorpusStatistics).values(corpus=corpus, row_count=0, average_length=0.0, sampled_share=1.0)
    await session.execute(begun.on_conflict_do_nothing())
    counted = select(CorpusStatistics.changed_rows).where(CorpusStatistics.corpus == corpus)
    changed = await session.scalar(counted) or 0
    rows = await session.scalar(select(func.count()).where(model.search_vector.is_not(None))) or 0
    share = min(1.0, SAMPLE_ROWS / rows) if rows else 1.0
    sample = await session.run_sync(_sample_sql, model, share)
    await _put_terms(session, corpus, sample, share)
    average = await _average_length(session, model, rows)
    measured = {
        "row_count": rows,
        "average_length": average,
        "sampled_share": share,
        "changed_rows": CorpusStatistics.changed_rows - changed,
        "refreshed_at": func.now(),
    }
    stored = update(CorpusStatistics).where(CorpusStatistics.corpus == corpus).values(measured)
    await session.execute(stored, execution_options={"synchronize_session": False})
    return StatisticsRefresh(row_count=rows, average_length=average, sampled_share=share)


def _sample_sql(session: Session, model: type[Any], share: float) -> str:
    """The query whose text ts_stat runs; in the schema where this session finds the model."""
    table: Any = model.__table__
    if share < 1.0:
        table = tablesample(table, func.bernoulli(literal_column(f"{share * 100:.6f}")))
    connection = session.connection()
    mapping = connection.get_execution_options().get("schema_translate_map")
    translated = {"schema_translate_map": mapping, "render_schema_translate": True} if mapping else {}
    return str(select(table.c.search_vector).compile(dialect=connection.dialect, **translated))


async def _average_length(session: AsyncSession, model: type[Any], rows: int) -> float:
    """Of texts in lexemes, without their further words, from a sample."""
    share = min(1.0, MEASURED_ROWS / rows) if rows else 1.0
    sample = await session.run_sync(_sample_sql, model, share)
    counted = func.ts_stat(sample, "ad").table_valued("word", "ndoc", "nentry", name="stat")
    occurrences = await session.scalar(select(func.sum(counted.c.nentry)))
    return float(occurrences or 0) / max(rows * share, 1.0)


async def _put_terms(session: AsyncSession, corpus: str, sample: str, share: float) -> None:
    """Replace what differs. The lock of the corpus keeps everybody else from its terms."""
    stat = func.ts_stat(sample).table_valued("word", "ndoc", "nentry", name="stat")
    fresh = (
        select(stat.c.word, cast(func.ceil(stat.c.ndoc / cast(share, Float)), BigInteger).label("rows"))
        .where(or_(stat.c.ndoc > 1, func.starts_with(stat.c.word, _OWNER_PREFIX)))
        .cte("fresh")
        .prefix_with("MATERIALIZED")
    )
    of_corpus = TermStatistics.corpus == corpus
    known = select(TermStatistics.lexeme).where(of_corpus).cte("known").prefix_with("MATERIALIZED")
    changed = (
        update(TermStatistics)
        .where(of_corpus, TermStatistics.lexeme == fresh.c.word, TermStatistics.document_count != fresh.c.rows)
        .values(document_count=fresh.c.rows)
        .cte("changed")
    )
    is_fresh = select(fresh.c.word).where(fresh.c.word == TermStatistics.lexeme).exists()
    gone = delete(TermStatistics).where(of_corpus, ~is_fresh).cte("gone")
    is_known = select(known.c.lexeme).where(known.c.lexeme == fresh.c.word).exists()
    # In order, so that one page of the index after another is filled.
    new = select(cast(corpus, Text), fresh.c.word, fresh.c.rows).where(~is_known).order_by(fresh.c.word)
    added = insert(TermStatistics).from_select(["corpus", "lexeme", "document_count"], new)
    await session.execute(added.add_cte(changed, gone), execution_options={"synchronize_session": False})
