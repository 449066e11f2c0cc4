"""Term statistics: what a refresh counts, and that search never depends on it."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter

import pytest
from search_support import CORPUS, Passage, add_passages, refresh, search
from sqlalchemy import func, select, text, update

from llmstack.db import CorpusStatistics, Database, Service, TermStatistics, migrate
from llmstack.documents.models import Chunk
from llmstack.search import StatisticsRefresh, refresh_statistics
from llmstack.search import statistics as statistics_module

PASSAGES = [
    Passage("tax law tax", context="handbook"),
    Passage("tax court"),
    Passage("court of appeal", owner_id="other", context="handbook"),
    Passage("once", owner_id="third"),
]


def owner_lexeme(owner_id: str) -> str:
    return f"\x01owner={hashlib.md5(owner_id.encode()).hexdigest()}"


async def counts_of(service: Service, corpus: str = CORPUS) -> dict[str, int]:
    """What is stored of each lexeme."""
    statement = select(TermStatistics.lexeme, TermStatistics.document_count).where(TermStatistics.corpus == corpus)
    async with service.session() as session:
        return {row.lexeme: row.document_count for row in await session.execute(statement)}


async def refreshed(service: Service) -> StatisticsRefresh | None:
    return await service.transaction(lambda session: refresh_statistics(session, model=Chunk, corpus=CORPUS))


def expected_counts(passages: list[Passage]) -> dict[str, int]:
    words: Counter[str] = Counter()
    owners: Counter[str] = Counter()
    for passage in passages:
        words.update(set(passage.content.split()) | set(passage.context.split()))
        owners[owner_lexeme(passage.owner_id)] += 1
    return {word: count for word, count in words.items() if count > 1} | dict(owners)


async def test_a_refresh_counts_rows_lexemes_and_owners_and_leaves_single_words_out(
    llmstack_service: Service,
) -> None:
    await add_passages(llmstack_service, PASSAGES)
    found = await refreshed(llmstack_service)
    assert found == StatisticsRefresh(row_count=4, average_length=11 / 4, sampled_share=1.0)
    assert await counts_of(llmstack_service) == expected_counts(PASSAGES)
    async with llmstack_service.session() as session:
        stored = (await session.scalars(select(CorpusStatistics))).one()
    assert (stored.row_count, stored.average_length, stored.sampled_share) == (4, 11 / 4, 1.0)


async def test_a_second_refresh_follows_what_changed_and_forgets_what_is_gone(
    llmstack_service: Service,
) -> None:
    ids = await add_passages(llmstack_service, PASSAGES)
    await refresh(llmstack_service)
    await add_passages(llmstack_service, [Passage("appeal"), Passage("tax")])
    async with llmstack_service.session() as session:
        await session.execute(update(Chunk).where(Chunk.id == ids[0]).values(deleted_at=func.now()))
        await session.commit()
    found = await refreshed(llmstack_service)
    assert found is not None
    assert found.row_count == 5
    living = [*PASSAGES[1:], Passage("appeal"), Passage("tax")]
    assert await counts_of(llmstack_service) == expected_counts(living)


async def test_an_empty_corpus_can_be_refreshed(llmstack_service: Service) -> None:
    assert await refreshed(llmstack_service) == StatisticsRefresh(0, 0.0, 1.0)
    await add_passages(llmstack_service, PASSAGES)
    assert len(await search(llmstack_service, query="tax")) == 2


async def test_a_large_corpus_is_sampled_and_counts_are_scaled_to_all_of_it(
    llmstack_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_passages(llmstack_service, [Passage("tax law law")] * 600)
    monkeypatch.setattr(statistics_module, "SAMPLE_ROWS", 300)
    found = await refreshed(llmstack_service)
    assert found is not None
    assert (found.row_count, found.sampled_share) == (600, 0.5)
    assert found.average_length == pytest.approx(3, rel=0.3)
    counts = await counts_of(llmstack_service)
    assert set(counts) == {"tax", "law", owner_lexeme("acme")}
    # Six standard deviations of a sample of half.
    assert all(abs(count - 600) < 150 for count in counts.values())
    assert len(await search(llmstack_service, query="tax", limit=50)) == 50


async def test_two_schemas_do_not_share_statistics(llmstack_database: Database) -> None:
    second = llmstack_database.service("Second One")
    await migrate.upgrade(llmstack_database.engine, schema=second.schema)
    first = llmstack_database.service()
    await add_passages(first, PASSAGES)
    await add_passages(second, [Passage("law law"), Passage("law tax"), Passage("law")])
    await refresh(first)
    before = await search(second, query="law tax")
    assert await counts_of(second) == {}
    assert [row.id for row in before] == [row.id for row in await search(second, query="law tax")]
    await refresh(second)
    assert await counts_of(first) == expected_counts(PASSAGES)
    assert await counts_of(second) == {"law": 3, owner_lexeme("acme"): 3}


async def test_two_corpora_of_one_schema_have_statistics_of_their_own(llmstack_service: Service) -> None:
    await add_passages(llmstack_service, PASSAGES)
    await refresh(llmstack_service)
    await llmstack_service.transaction(lambda session: refresh_statistics(session, model=Chunk, corpus="another"))
    assert await counts_of(llmstack_service, "another") == expected_counts(PASSAGES)
    async with llmstack_service.session() as session:
        await session.execute(text("DELETE FROM llmstack.chunks"))
        await session.commit()
    await llmstack_service.transaction(lambda session: refresh_statistics(session, model=Chunk, corpus="another"))
    assert await counts_of(llmstack_service, "another") == {}
    assert await counts_of(llmstack_service) == expected_counts(PASSAGES)


async def test_of_concurrent_refreshes_one_works_and_the_others_step_back(llmstack_service: Service) -> None:
    await add_passages(llmstack_service, PASSAGES)
    async with llmstack_service.session() as session:
        assert await refresh_statistics(session, model=Chunk, corpus=CORPUS) is not None
        assert await refreshed(llmstack_service) is None
        await session.commit()
    results = await asyncio.gather(*(refreshed(llmstack_service) for _ in range(8)))
    assert any(result is not None for result in results)
    assert await counts_of(llmstack_service) == expected_counts(PASSAGES)


async def test_search_is_right_from_the_first_row_on(llmstack_service: Service) -> None:
    assert await search(llmstack_service, query="tax") == []
    ids = await add_passages(llmstack_service, [Passage("tax")])
    assert [row.id for row in await search(llmstack_service, query="tax law")] == ids
    more = await add_passages(llmstack_service, [Passage("law tax"), Passage("court")])
    rows = await search(llmstack_service, query="tax law")
    assert [row.id for row in rows] == [more[0], ids[0]]
    assert all(row.score > 0 for row in rows)
