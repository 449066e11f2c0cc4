"""Statistics and BM25 weights follow the corpus, whoever changes it."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator

import pytest
from document_support import MakeStack, added, document
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from llmstack import LLMStack
from llmstack.db import CorpusStatistics
from llmstack.documents import Chunk, DocumentFilter
from llmstack.errors import StatementTimeout
from llmstack.search import refresh_statistics
from llmstack.search.reweigh import has_moved


async def weighed_by(stack: LLMStack) -> set[float]:
    async with stack.service.session() as session:
        return set(await session.scalars(select(Chunk.bm25_average_length).where(Chunk.level == 0)))


async def add_short_texts(stack: LLMStack, count: int) -> None:
    for number in range(count):
        await stack.documents.add(owner_id="ann", id_at_origin=str(number), content=f"kettle number{number} whistles")


async def add_short(stack: LLMStack) -> uuid.UUID:
    result = await stack.documents.add(owner_id="acme", id_at_origin="d", content="kettle whistles")
    assert result.document is not None
    return result.document.id


async def test_a_small_corpus_of_short_texts_is_reweighed_by_itself(stack: LLMStack) -> None:
    await add_short_texts(stack, 5)
    await stack.documents.settle()
    async with stack.service.session() as session:
        measured = await session.scalar(select(CorpusStatistics.average_length))
    assert measured is not None
    assert measured < 50
    assert all(length < 50 for length in await weighed_by(stack))


async def test_an_average_that_was_adopted_is_followed_when_the_corpus_goes_on_otherwise(stack: LLMStack) -> None:
    await add_short_texts(stack, 5)
    await stack.documents.settle()
    (early,) = await weighed_by(stack)
    longer = [document(f"long{number}", f"kettle number{number} whistles, boils, rocks loudly") for number in range(40)]
    await added(stack, longer)
    await stack.documents.refresh_statistics()
    await stack.documents.settle()
    async with stack.service.session() as session:
        measured = await session.scalar(select(CorpusStatistics.average_length))
    assert measured is not None
    assert early * 1.25 < measured < early * 2
    await added(
        stack, [document(f"more{number}", f"kettle {number} whistles, boils, rocks loudly") for number in range(40)]
    )
    await stack.documents.settle()
    (later,) = await weighed_by(stack)
    assert early * 1.25 < later < early * 2


@pytest.mark.parametrize(
    ("measured", "assumed", "moved"),
    [
        (199, 100, False),
        (201, 100, True),
        (49, 100, True),
        (24, 20, False),
        (26, 20, True),
        (15, 20, True),
        (0, 20, False),
    ],
)
def test_the_default_is_given_up_at_twice_and_what_was_adopted_at_a_quarter(
    measured: float, assumed: float, moved: bool
) -> None:
    assert has_moved(measured, assumed) is moved


async def test_reweigh_gives_every_row_the_measured_average_and_then_finds_nothing_to_do(stack: LLMStack) -> None:
    await add_short_texts(stack, 5)
    await stack.documents.settle()
    await add_short_texts(stack, 6)
    await stack.documents.refresh_statistics()
    await stack.documents.reweigh()
    async with stack.service.session() as session:
        measured = await session.scalar(select(CorpusStatistics.average_length))
        rows = await session.scalar(select(func.count()).select_from(Chunk))
    assert await weighed_by(stack) == {measured}
    assert rows == 6
    assert await stack.documents.reweigh() == 0


async def recorded(stack: LLMStack) -> tuple[int, int]:
    async with stack.service.session() as session:
        row = (await session.execute(select(CorpusStatistics.row_count, CorpusStatistics.changed_rows))).one()
        return row.row_count, row.changed_rows


async def test_processes_that_each_change_too_little_refresh_the_statistics_together(make_stack: MakeStack) -> None:
    first, second = make_stack(), make_stack()
    await added(first, [document(f"d{number}") for number in range(100)])
    await first.documents.settle()
    await first.documents.refresh_statistics()
    assert await recorded(first) == (100, 0)
    await added(first, [document(f"a{number}") for number in range(15)])
    await first.documents.settle()
    assert await recorded(first) == (100, 15)
    await added(second, [document(f"b{number}") for number in range(5)])
    await second.documents.settle()
    assert await recorded(second) == (100, 20)
    await added(second, [document("one more")])
    await second.documents.settle()
    assert await recorded(second) == (121, 0)


async def test_what_is_changed_during_a_refresh_counts_for_the_next(make_stack: MakeStack) -> None:
    first, second = make_stack(), make_stack()
    await added(first, [document(f"d{number}") for number in range(100)])
    await first.documents.settle()
    await first.documents.refresh_statistics()
    async with first.service.session() as session:
        statement = text("UPDATE llmstack.corpus_statistics SET changed_rows = changed_rows + 7")
        await session.execute(statement)
        await session.commit()
    async with first.service.session() as session:
        begun = await session.scalar(select(CorpusStatistics.changed_rows))
        await added(second, [document("meanwhile")])
        assert await refresh_statistics(session, model=Chunk, corpus="documents") is not None
        # The row is free for others until the end of a refresh, and then counts what it did not see.
        await session.commit()
    assert begun == 7
    await second.documents.settle()
    assert await recorded(first) == (101, 1)


@contextlib.asynccontextmanager
async def chunks_in_use(stack: LLMStack) -> AsyncIterator[None]:
    """Whoever reads the chunks waits for a third of a second."""
    async with stack.service.engine.connect() as connection:
        await connection.execute(text("LOCK TABLE llmstack.chunks IN ACCESS EXCLUSIVE MODE"))

        async def let_go() -> None:
            await asyncio.sleep(0.3)
            await connection.rollback()

        letting_go = asyncio.create_task(let_go())
        yield
        await letting_go


async def test_a_refresh_takes_its_time_and_gives_the_time_limit_back(stack: LLMStack) -> None:
    await stack.documents.add(owner_id="ann", id_at_origin="it", content="kettle")
    await stack.documents.settle()
    limit = text("SELECT set_config('statement_timeout', '100ms', true)")
    async with chunks_in_use(stack), stack.service.session() as session:
        await session.execute(limit)
        found = await refresh_statistics(session, model=Chunk, corpus="documents")
        assert await session.scalar(text("SHOW statement_timeout")) == "100ms"
        await session.commit()
    assert found is not None
    assert found.row_count == 1

    async def count_in_time() -> None:
        async with stack.service.session() as session:
            await session.execute(limit)
            await session.scalar(select(func.count()).select_from(Chunk))

    async with chunks_in_use(stack):
        with pytest.raises(StatementTimeout):
            await count_in_time()


async def test_a_mass_deletion_and_its_undoing_are_changes_like_any_other(stack: LLMStack) -> None:
    texts = [document(f"d{number}", f"kettle number{number} whistles") for number in range(40)]
    await added(stack, texts)
    await stack.documents.refresh_statistics()
    await stack.documents.settle()
    assert (await recorded(stack))[0] == 40
    await stack.documents.delete_many(owner_id="acme", where=DocumentFilter(document_type="unknown"))
    await stack.documents.settle()
    assert await recorded(stack) == (0, 0)
    found = await stack.documents.list(owner_id="acme", deleted=True)
    await stack.documents.restore(owner_id="acme", document_id=found.items[0].id)
    await stack.documents.settle()
    assert await recorded(stack) == (1, 0)


async def test_what_the_orm_writes_is_weighed_as_its_corpus_is(stack: LLMStack) -> None:
    texts = await add_short(stack)
    await stack.documents.reweigh(k1=0.9, b=0.4, average_length=50.0, context_weight=2.0)
    rows = [
        Chunk(owner_id="acme", document_id=texts, position=number, content=f"kettle {number}", token_count=1,
              start_offset=0, end_offset=1, content_hash=str(number).encode())
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
