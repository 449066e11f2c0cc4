"""BM25 weights follow the corpus' average length."""

from __future__ import annotations

from sqlalchemy import func, select

from llmstack import LLMStack
from llmstack.db import CorpusStatistics
from llmstack.documents import Chunk


async def weighed_by(stack: LLMStack) -> set[float]:
    async with stack.service.session() as session:
        return set(await session.scalars(select(Chunk.bm25_average_length).where(Chunk.level == 0)))


async def add_short_texts(stack: LLMStack, count: int) -> None:
    for number in range(count):
        await stack.documents.add(owner_id="ann", id_at_origin=str(number), content=f"kettle number{number} whistles")


async def test_a_small_corpus_of_short_texts_is_reweighed_by_itself(stack: LLMStack) -> None:
    await add_short_texts(stack, 5)
    await stack.documents.settle()
    async with stack.service.session() as session:
        measured = await session.scalar(select(CorpusStatistics.average_length))
    assert measured is not None
    assert measured < 50
    assert all(length < 50 for length in await weighed_by(stack))


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
