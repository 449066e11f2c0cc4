"""Read the further words of rows anew: of those that other tools wrote, or that are older than the analyser."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import Text, cast, column, func, select, update
from sqlalchemy.dialects.postgresql import ARRAY, UUID
from sqlalchemy.ext.asyncio import AsyncSession

from .analysis import stored_words


async def reanalyse_batch(
    session: AsyncSession, *, model: type[Any], after: uuid.UUID | None, rows: int
) -> tuple[uuid.UUID | None, int]:
    """Give the next rows by id the words of their text where they have others; (last id or None, how many changed)."""
    batch = select(model.id, model.context, model.content, model.further_words).order_by(model.id).limit(rows)
    batch = batch.where(model.search_vector.is_not(None))
    if after is not None:
        batch = batch.where(model.id > after)
    found = (await session.execute(batch)).all()
    if not found:
        return None, 0
    read = ((row.id, stored_words(row.context, row.content), row.further_words) for row in found)
    changed = {id_: words for id_, words, stored in read if words != stored}
    if changed:
        given = func.unnest(cast([*changed], ARRAY(UUID())), cast([*changed.values()], ARRAY(Text())))
        fresh = given.table_valued(column("id", UUID()), column("words", Text()), name="fresh").render_derived()
        statement = update(model).where(model.id == fresh.c.id).values(further_words=fresh.c.words)
        await session.execute(statement.execution_options(synchronize_session=False))
    return found[-1].id, len(changed)
