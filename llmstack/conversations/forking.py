"""Copy the beginning of a thread into a new one: messages, vectors, and a summary that speaks of no more."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Integer, Text, Uuid, and_, bindparam, insert, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.dml import Insert
from sqlalchemy.types import TypeEngine
from uuid_utils.compat import uuid7

from ..db.arrays import given_rows, row_values
from ..db.copy import STATEMENT_ROWS
from ..embeddings import queue
from ..embeddings.tables import core_table
from . import queries
from .embedding import EMBEDDED_MESSAGES, EMBEDDED_SUMMARIES
from .models import Message, MessageEmbedding, Thread, ThreadSummary
from .queries import living
from .summaries import current_summary

_Place = tuple[uuid.UUID, uuid.UUID, int]
_MAP: dict[str, TypeEngine[Any]] = {"old": Uuid(), "new": Uuid(), "seq": Integer()}
_OWN = {"id", "seq", "thread_id", "search_vector", "lexical"}
"""Columns of a message that a copy has for itself."""
_VECTORS = ("owner_id", "space_id", "embedding", "embedding_full", "searchable")


async def fork_thread(
    session: AsyncSession, source: Thread, *, at_seq: int, id_at_origin: str | None = None, title: str | None = None
) -> Thread:
    """Make a thread of a locked one's living messages up to a seq, numbered from 1."""
    key = uuid7()
    made = Thread(
        id=key,
        owner_id=source.owner_id,
        id_at_origin=id_at_origin or str(key),
        user_id=source.user_id,
        agent_id=source.agent_id,
        session_id=source.session_id,
        title=title or source.title,
        language=source.language,
        metadata_={**source.metadata_, "forked_from": {"thread_id": str(source.id), "seq": at_seq}},
    )
    session.add(made)
    await session.flush()
    statement = select(Message.id, Message.seq).where(living(source.id), Message.seq <= at_seq).order_by(Message.seq)
    found = (await session.execute(statement)).all()
    await _copy_messages(session, made, [(row.id, uuid7(), number) for number, row in enumerate(found, 1)])
    await _copy_summary(session, source, made, [row.seq for row in found])
    await session.refresh(made)
    return made


async def _copy_messages(
    session: AsyncSession, made: Thread, places: Sequence[tuple[uuid.UUID, uuid.UUID, int]]
) -> None:
    for start in range(0, len(places), STATEMENT_ROWS):
        part = row_values(_MAP, places[start : start + STATEMENT_ROWS])
        await session.execute(_copying(), {**part, "into": made.id})
        await session.execute(_copying_vectors(), {**part, "of_owner": made.owner_id})
        await session.execute(queue.owe(EMBEDDED_MESSAGES, part["given_new"]))
    made.last_seq = len(places)
    await session.flush()
    await session.execute(queries.recount(made.id), execution_options={"synchronize_session": False})


async def _copy_summary(session: AsyncSession, source: Thread, made: Thread, seqs: Sequence[int]) -> None:
    summary = await current_summary(session, source.id)
    if summary is None or not seqs or summary.last_seq > seqs[-1]:
        return
    copy = ThreadSummary(
        owner_id=made.owner_id,
        thread_id=made.id,
        language=summary.language,
        context=summary.context,
        content=summary.content,
        first_seq=1,
        last_seq=max(1, sum(seq <= summary.last_seq for seq in seqs)),
        token_count=summary.token_count,
        model=summary.model,
        metadata_=summary.metadata_,
    )
    session.add(copy)
    await session.flush()
    await session.execute(queue.owe(EMBEDDED_SUMMARIES, [copy.id], are_new=True))


@functools.cache
def _copying() -> Insert:
    table, places = core_table(Message), given_rows(_MAP)
    kept = [column for column in table.c if column.name not in _OWN and not column.name.startswith("bm25_")]
    into = bindparam("into", type_=Uuid())
    rows = select(places.c.new, places.c.seq, into, *kept).join_from(places, table, table.c.id == places.c.old)
    return insert(table).from_select(["id", "seq", "thread_id", *(column.name for column in kept)], rows)


@functools.cache
def _copying_vectors() -> Insert:
    vectors, places = core_table(MessageEmbedding), given_rows(_MAP)
    kept = [vectors.c[name] for name in _VECTORS]
    # The owner spares the other partitions.
    same = and_(vectors.c.owner_id == bindparam("of_owner", type_=Text()), vectors.c.row_id == places.c.old)
    return insert(vectors).from_select(
        ["row_id", *_VECTORS], select(places.c.new, *kept).join_from(places, vectors, same)
    )
