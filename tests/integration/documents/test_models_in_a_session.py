"""The models in an ordinary session of a host: what the unit of work does with them, and what its errors say."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from typing import Any

import pytest
from sqlalchemy import event, func, select, text
from sqlalchemy.exc import DBAPIError, InvalidRequestError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, selectinload

from llmstack import LLMStack
from llmstack.documents import Chunk, Document
from llmstack.errors import Conflict, DatabaseBehind, NotFound, ValidationError
from llmstack.search import metadata_filter


def document(**values: Any) -> Document:
    given = {
        "owner_id": "acme", "id_at_origin": "kettle.txt", "name": "Kettle", "document_type": "text",
        "language": "english", "content_hash": b"", "content_bytes": 0, "chunking": {},
    }  # fmt: skip
    return Document(**{**given, **values})


async def test_what_the_server_fills_in_is_there_after_a_commit(stack: LLMStack) -> None:
    async with stack.service.session() as session:
        added = document()
        session.add(added)
        await session.commit()
        before = added.updated_at
        added.name = "Teapot"
        await session.commit()
        assert isinstance(added.updated_at, dt.datetime)
        assert added.updated_at > before


async def test_a_document_with_its_chunks_loaded_can_be_deleted_by_the_session(stack: LLMStack) -> None:
    await stack.documents.add(owner_id="acme", id_at_origin="1", content="The kettle whistles.")
    async with stack.service.session() as session:
        found = (await session.scalars(select(Document).options(selectinload(Document.chunks)))).one()
        assert found.chunks
        await session.delete(found)
        await session.commit()
        assert await session.scalar(select(func.count()).select_from(Chunk)) == 0


async def test_a_column_that_was_not_loaded_says_so(stack: LLMStack) -> None:
    await stack.documents.add(owner_id="acme", id_at_origin="1", content="The kettle whistles.")
    async with stack.service.session() as session:
        chunk = (await session.scalars(select(Chunk))).first()
        assert chunk is not None
        with pytest.raises(InvalidRequestError, match="raiseload"):
            _ = chunk.search_vector


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"id_at_origin": "known"}, Conflict),
        ({"document_type": "scroll"}, ValidationError),
    ],
)
async def test_a_violated_constraint_is_told_in_the_words_of_the_domain(
    stack: LLMStack, values: dict[str, str], error: type[Exception]
) -> None:
    await stack.documents.add(owner_id="acme", id_at_origin="known", content="The kettle whistles.")

    async def work(session: AsyncSession) -> None:
        session.add(document(**values))

    with pytest.raises(error):
        await stack.service.transaction(work)


async def test_a_chunk_of_another_owner_has_no_document(stack: LLMStack) -> None:
    added = await stack.documents.add(owner_id="acme", id_at_origin="1", content="The kettle whistles.")
    assert added.document is not None
    stray = Chunk(
        owner_id="ben", document_id=added.document.id, position=0, content="a", token_count=1, start_offset=0,
        end_offset=1, content_hash=b"",
    )  # fmt: skip

    async def work(session: AsyncSession) -> None:
        session.add(stray)

    with pytest.raises(NotFound, match="no such document"):
        await stack.service.transaction(work)


async def test_errors_of_the_callers_own_work_pass_untouched(stack: LLMStack) -> None:
    async with stack.service.session():
        with pytest.raises(FileNotFoundError):
            await stack.service.transaction(_open_a_file)
    with pytest.raises(TimeoutError) as caught:
        async with stack.service.session() as session, asyncio.timeout(0.05):
            await session.execute(text("SELECT pg_sleep(5)"))
    assert type(caught.value) is TimeoutError


async def _open_a_file(session: AsyncSession) -> None:
    await asyncio.to_thread(open, f"/{uuid.uuid4()}")


async def test_a_missing_table_of_the_hosts_is_not_taken_for_ours(stack: LLMStack) -> None:
    async with stack.service.session() as session:
        with pytest.raises(ProgrammingError):
            await session.execute(text("SELECT 1 FROM products"))
    fresh = stack.database.service("fresh")
    with pytest.raises(DatabaseBehind, match="llmstack migrate"):
        async with fresh.session() as session:
            await session.execute(select(Document.id))


async def test_an_error_shows_no_text_of_a_tenant(stack: LLMStack) -> None:
    with pytest.raises(DBAPIError) as caught:
        async with stack.service.session() as session:
            await session.execute(text("SELECT CAST(:given AS integer) + 1 / 0"), {"given": "the secret of the house"})
    assert "the secret" not in str(caught.value).split("\n[SQL")[-1]


async def test_plain_metadata_is_found_by_its_index(stack: LLMStack) -> None:
    statement = select(Document.name).where(metadata_filter(Document.metadata_, {"team": "hr"}))

    def explaining(connection: Any, cursor: Any, sql: str, values: Any, context: Any, many: bool) -> tuple[str, Any]:
        return sql.replace("SELECT", "EXPLAIN SELECT", 1) if "documents" in sql else sql, values

    engine = stack.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", explaining, retval=True)
    try:
        async with stack.service.session() as session:
            await session.execute(text("SET LOCAL enable_seqscan = off"))
            plan = "\n".join(map(str, await session.scalars(statement)))
    finally:
        event.remove(engine, "before_cursor_execute", explaining)
    assert "ix_documents_metadata" in plan


class ShopBase(DeclarativeBase):
    """A host's own models, on the host's own engine."""


class Product(ShopBase):
    __tablename__ = "products"

    id: Mapped[int] = mapped_column(primary_key=True)


async def test_one_session_may_bind_the_hosts_models_to_the_hosts_engine(stack: LLMStack) -> None:
    engine = stack.database.engine
    async with engine.begin() as connection:
        await connection.run_sync(ShopBase.metadata.create_all)
    binds: Any = {ShopBase: engine, Document: stack.service.engine}
    async with AsyncSession(binds=binds) as session:
        assert await session.scalar(select(func.count()).select_from(Product)) == 0
        assert await session.scalar(select(func.count(Document.id))) == 0


async def test_what_the_orm_writes_is_weighed_as_its_corpus_is(stack: LLMStack) -> None:
    result = await stack.documents.add(owner_id="acme", id_at_origin="d", content="kettle whistles")
    assert result.document is not None
    # A small corpus is counted and weighed anew behind its first writes.
    await stack.documents.settle()
    await stack.documents.reweigh(k1=0.9, b=0.4, average_length=50.0, context_weight=2.0)
    rows = [
        Chunk(owner_id="acme", document_id=result.document.id, position=number, content=f"kettle {number}",
              token_count=1, start_offset=0, end_offset=1, content_hash=str(number).encode())
        for number in range(9, 12)
    ]  # fmt: skip

    async def work(session: AsyncSession) -> None:
        session.add_all(rows)

    await stack.service.transaction(work)
    columns = (Chunk.bm25_k1, Chunk.bm25_b, Chunk.bm25_average_length, Chunk.bm25_context_weight)
    async with stack.service.session() as session:
        stored = {tuple(row) for row in await session.execute(select(*columns))}
    assert len(stored) == 1
    assert stored.pop() == pytest.approx((0.9, 0.4, 50.0, 2.0))
