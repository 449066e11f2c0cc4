"""The statement that fetches what BM25 is made of, so that other parameters can be tried without writing a row."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Integer, Select, Text, cast, func, select, true
from sqlalchemy.dialects.postgresql import ARRAY, UUID, array


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
