"""Statements that fetch what BM25 is made of, so that other parameters can be tried without writing a row."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import CTE, Float, Integer, Select, Text, cast, func, literal, select, true
from sqlalchemy.dialects.postgresql import ARRAY, UUID, array

from ..db.models import CorpusStatistics, TermStatistics
from ..db.schemas import schema_function


def query_terms(words: str, *, corpus: str, languages: CTE) -> Select[Any]:
    """(lexeme, weight): a query's lexemes, each with idf times its frequency in the query."""
    document = func.to_tsvector(schema_function("text_search_config", languages.c.language), cast(literal(words), Text))
    read = func.unnest(document).table_valued("lexeme", "positions", "weights", name="t").render_derived().lateral()
    counted = (
        select(
            cast(read.c.lexeme, Text).label("lexeme"),
            func.max(func.cardinality(cast(read.c.positions, ARRAY(Integer)))).label("frequency"),
        )
        .select_from(languages.join(read, true()))
        .group_by(read.c.lexeme)
        .subquery()
    )
    df = cast(func.coalesce(TermStatistics.document_count, 1), Float)
    measured = select(CorpusStatistics.row_count).where(CorpusStatistics.corpus == corpus).scalar_subquery()
    rows = func.greatest(cast(func.coalesce(measured, 1), Float), df)
    known = (TermStatistics.corpus == corpus) & (TermStatistics.lexeme == counted.c.lexeme)
    return select(
        counted.c.lexeme, (func.ln(1.0 + (rows - df + 0.5) / (df + 0.5)) * counted.c.frequency).label("weight")
    ).select_from(counted.outerjoin(TermStatistics, known))


def term_counts(model: type[Any], *, owner_id: str, ids: Sequence[uuid.UUID], lexemes: Sequence[str]) -> Select[Any]:
    """(id, length, context_length, terms): rows' lengths, and {lexeme: [frequency, frequency in the context]}."""
    unnested = func.unnest(model.search_vector).table_valued("lexeme", "positions", "weights", name="t")
    read = unnested.render_derived().lateral()
    frequency = func.cardinality(cast(read.c.positions, ARRAY(Integer)))
    in_context = func.cardinality(func.array_positions(cast(read.c.weights, ARRAY(Text)), cast("A", Text)))
    asked = read.c.lexeme == func.any(cast(list(lexemes), ARRAY(Text)))
    terms = func.jsonb_object_agg(read.c.lexeme, func.to_jsonb(array([frequency, in_context])))
    return (
        select(
            model.id,
            func.sum(frequency).label("length"),
            func.sum(in_context).label("context_length"),
            terms.filter(asked).label("terms"),
        )
        .select_from(model)
        .join(read, true())
        .where(model.owner_id == owner_id, model.id == func.any(cast(list(ids), ARRAY(UUID))))
        .where(read.c.positions.is_not(None))
        .group_by(model.id)
    )
