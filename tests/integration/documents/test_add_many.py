"""Adding many documents: order, bad ones among good ones, batches, memory, cancellation."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from document_support import (
    MakeStack,
    Words,
    add,
    added,
    contents,
    counted,
    document,
    found,
    half_documents,
    row_versions,
)
from sqlalchemy import text

from llmstack import LLMStack
from llmstack.db import Database
from llmstack.documents import (
    AddProgress,
    AddResult,
    Chunk,
    ChunkEmbedding,
    ChunkEmbeddingJob,
    ChunkPiece,
    Document,
    DocumentInput,
    ingestion,
)
from llmstack.settings import Settings


def plain(count: int, *, start: int = 0) -> list[DocumentInput]:
    return [document(f"d{number}", f"text number{number}") for number in range(start, start + count)]


def refuse(content: str) -> list[str]:
    raise KeyError("the chunker does not like it")


async def _at_rest(stack: LLMStack, tasks: set[asyncio.Task[Any]]) -> None:
    """Nothing that was started still runs, and every connection is back."""
    await stack.documents.settle()
    for _ in range(100):
        if asyncio.all_tasks() <= tasks:
            break
        await asyncio.sleep(0.01)
    assert asyncio.all_tasks() <= tasks
    pool: Any = stack.service.engine.pool
    assert pool.checkedout() == 0


async def _waits(stack: LLMStack, lock: str, *, backends: int = 1) -> None:
    """Wait until somebody in the server waits for this kind of lock."""
    statement = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ :lock")
    for _ in range(500):
        async with stack.service.session() as session:
            if await session.scalar(statement, {"lock": lock}) >= backends:
                return
        await asyncio.sleep(0.01)
    raise AssertionError(f"nobody waits for {lock}")


SLOWED = """
CREATE FUNCTION llmstack.slowed() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_sleep(0.1); RETURN new; END $$
"""
SLOW = """
CREATE TRIGGER slowed BEFORE INSERT ON llmstack.chunks FOR EACH ROW EXECUTE FUNCTION llmstack.slowed()
"""

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "owner": ({"owner_id": " "}, "owner_id"),
    "origin": ({"id_at_origin": "a\x00b"}, "id_at_origin"),
    "origin type": ({"id_at_origin": 5}, "id_at_origin"),
    "text": ({"content": " \n\t "}, "content: it is empty"),
    "bytes": ({"content": b"bytes"}, "content"),
    "type": ({"document_type": "novel"}, "document_type"),
    "type type": ({"document_type": ["text"]}, "document_type"),
    "date": ({"document_date": "2020-01-01"}, "document_date"),
    "language": ({"language": 7}, "language"),
    "metadata": ({"metadata": {"a": {1, 2}}}, "metadata"),
    "metadata type": ({"metadata": [1]}, "metadata"),
    "metadata nan": ({"metadata": {"a": float("nan")}}, "metadata"),
    "strategy": ({"chunking": "by hand"}, "chunking"),
    "strategy type": ({"chunking": []}, "is not one of"),
    "config type": ({"chunking_config": {"chunk_size": 5}}, ""),
    "chunker": ({"chunking": refuse}, "does not like it"),
    "pieces": ({"chunking": lambda content: ["elsewhere"]}, "chunking"),
    "level": ({"chunking": lambda content: [ChunkPiece(content, 0, len(content), 10**12)]}, "chunking"),
}


async def test_results_come_in_the_order_of_the_inputs(stack: LLMStack, words: Words) -> None:
    await add(stack, "d3", "text number3")
    results = await added(stack, plain(10))
    assert [result.id_at_origin for result in results] == [f"d{number}" for number in range(10)]
    assert [result.unchanged for result in results] == [number == 3 for number in range(10)]
    assert {result.error for result in results} == {None}
    assert [result.chunks_created for result in results] == [int(number != 3) for number in range(10)]
    assert len(words.texts) == len(set(words.texts)) == 10
    assert await found(stack, '"number7"', mode="text") == ["d7"]


async def test_an_asynchronous_source_is_as_good_as_any(stack: LLMStack) -> None:
    async def source() -> AsyncIterator[DocumentInput]:
        for given in plain(5):
            await asyncio.sleep(0)
            yield given

    assert [result.id_at_origin for result in await added(stack, source())] == [f"d{n}" for n in range(5)]
    assert await added(stack, []) == []


async def test_texts_are_embedded_in_batches_and_documents_written_together(
    make_stack: MakeStack, words: Words
) -> None:
    stack = make_stack(embedding_batch_size=50)
    results = await added(stack, plain(150))
    assert words.calls == 3
    moments = {result.document.created_at for result in results if result.document}
    assert len(moments) == 1


async def test_progress_tells_documents_chunks_and_failures(stack: LLMStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingestion, "BATCH_DOCUMENTS", 2)
    seen: list[AddProgress] = []
    await added(stack, [*plain(3), document("bad", " "), *plain(1, start=9)], progress=seen.append)
    assert seen == [AddProgress(2, 2, 0), AddProgress(4, 3, 1), AddProgress(5, 4, 1)]


async def test_of_an_identity_that_comes_twice_the_last_wins(stack: LLMStack) -> None:
    inputs = [
        document("twice", "first version"),
        document("once", "another"),
        document("twice", "second version"),
        document("twice", "second version"),
    ]
    results = await added(stack, inputs)
    assert [result.error for result in results] == [None] * 4
    assert results[3].unchanged
    assert await contents(stack, results[0]) == ["second version"]
    assert await counted(stack, Document) == 2


async def test_bad_documents_are_refused_with_a_reason_and_their_neighbours_are_stored(
    stack: LLMStack,
) -> None:
    inputs = []
    for name, (change, _) in BAD.items():
        inputs += [
            document(f"before {name}", "fine"),
            document(name, **change),
            document(f"after {name}", "fine"),
        ]
    results = await added(stack, inputs)
    for place, (name, (_, message)) in enumerate(BAD.items()):
        before, bad, after = results[3 * place : 3 * place + 3]
        assert (before.error, after.error) == (None, None)
        assert bad.error is not None, name
        assert message in bad.error
        assert bad.document is None
    assert await counted(stack, Document) == 2 * len(BAD)
    assert len(await found(stack, "fine", mode="text")) == 2 * len(BAD)


async def test_what_only_the_database_refuses_does_not_poison_its_batch(stack: LLMStack, words: Words) -> None:
    async with stack.service.session() as session:
        for statement in (
            "CREATE FUNCTION llmstack.refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'not this one' USING ERRCODE = 'check_violation'; END $$",
            "CREATE TRIGGER refuse BEFORE INSERT ON llmstack.chunks FOR EACH ROW "
            "WHEN (new.content LIKE '%unwanted%') EXECUTE FUNCTION llmstack.refuse()",
        ):
            await session.execute(text(statement))
        await session.commit()
    results = await added(stack, [*plain(3), document("bad", "an unwanted text"), *plain(3, start=3)])
    refused = [result for result in results if result.error]
    assert [result.id_at_origin for result in refused] == ["bad"]
    assert "not this one" in (refused[0].error or "")
    assert await counted(stack, Document) == await counted(stack, ChunkEmbedding) == 6
    assert len(words.texts) == 7


async def test_a_text_that_the_embedder_cannot_read_costs_only_its_own_vector(stack: LLMStack, words: Words) -> None:
    def fault(texts: list[str]) -> None:
        if any("poison" in content for content in texts):
            raise ValueError("cannot read this")

    words.fault = fault
    results = await added(stack, [*plain(5), document("bad", "a poison text"), *plain(5, start=5)])
    assert {result.error for result in results} == {None}
    assert [result.id_at_origin for result in results if result.embedding_error] == ["bad"]
    assert [result.embeddings_pending for result in results if result.embedding_error] == [1]
    assert await counted(stack, ChunkEmbedding) == 10
    assert await counted(stack, ChunkEmbeddingJob) == 1
    assert len(words.texts) == len(set(words.texts))


async def test_an_embedder_that_is_out_of_order_is_not_asked_for_every_document(
    make_stack: MakeStack, words: Words
) -> None:
    stack = make_stack(embedding_timeout=0.05)
    words.fault = lambda texts: asyncio.sleep(3600)
    results = await asyncio.wait_for(added(stack, plain(100)), 10)
    assert {result.error for result in results} == {None}
    assert all(result.embedding_error and result.embeddings_pending == 1 for result in results)
    assert words.calls == 1 + ingestion.SINGLE_FAILURES
    words.fault = None
    assert (await stack.embeddings.process_pending()).embedded == 100


async def test_many_documents_again_write_nothing(stack: LLMStack, words: Words) -> None:
    await added(stack, plain(50))
    before, calls = await row_versions(stack), words.calls
    assert all(result.unchanged for result in await added(stack, plain(50)))
    assert await row_versions(stack) == before
    assert words.calls == calls


async def test_owners_share_a_batch_and_nothing_else(stack: LLMStack) -> None:
    inputs = [document("same", f"text of {owner}", owner_id=owner) for owner in ("acme", "umbrella")]
    first, second = await added(stack, inputs)
    assert first.document is not None
    assert second.document is not None
    assert first.document.id != second.document.id
    assert await contents(stack, first) == ["text of acme"]
    assert await found(stack, "umbrella", mode="text") == []
    assert await found(stack, "umbrella", mode="text", owner_id="umbrella") == ["same"]


async def test_what_was_yielded_is_stored_when_the_caller_stops(
    stack: LLMStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestion, "BATCH_DOCUMENTS", 10)
    asked: list[DocumentInput] = []

    def source() -> Iterator[DocumentInput]:
        for given in plain(1000):
            asked.append(given)
            yield given

    seen: list[AddResult] = []
    async for result in stack.documents.add_many(source()):
        seen.append(result)
        if len(seen) == 25:
            break
    page = await stack.documents.list(owner_id="acme", limit=1000)
    stored = {item.id_at_origin for item in page.items}
    assert {result.id_at_origin for result in seen} <= stored
    assert len(asked) <= 40


async def test_a_source_that_breaks_leaves_what_came_before(stack: LLMStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingestion, "BATCH_DOCUMENTS", 10)

    def source() -> Iterator[DocumentInput]:
        yield from plain(25)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        await added(stack, source())
    assert await counted(stack, Document) == 20
    assert await half_documents(stack) == []


async def test_cancellation_leaves_whole_documents_and_the_run_can_be_repeated(
    stack: LLMStack, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slowly(texts: list[str]) -> None:
        await asyncio.sleep(0.02)

    monkeypatch.setattr(ingestion, "BATCH_DOCUMENTS", 10)
    words.before = slowly
    runs, pause = 0, 0.01
    while pause < 0.17 or not await counted(stack, Document):
        task = asyncio.create_task(added(stack, plain(300)))
        await asyncio.sleep(pause)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert await half_documents(stack) == []
        runs, pause = runs + 1, pause + 0.03
    before = await counted(stack, Document)
    words.before = None
    results = await added(stack, plain(300))
    assert 0 < before < 300
    assert sum(result.unchanged for result in results) == before
    assert await counted(stack, Document) == await counted(stack, ChunkEmbedding) == 300
    # What was embedded for a transaction that never was, and for the one after it, is embedded again; nothing else is.
    assert len(words.texts) <= 300 + runs * 2 * 10


async def test_memory_does_not_grow_with_the_number_of_documents(
    stack: LLMStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestion, "BATCH_DOCUMENTS", 50)

    def first_words(content: str) -> list[str]:
        return [content[:20]]

    def source(count: int, start: int) -> Iterator[DocumentInput]:
        for number in range(start, start + count):
            yield document(f"d{number}", f"text number{number} " + "x" * 20_000, chunking=first_words)

    async def peak(count: int, start: int) -> int:
        gc.collect()
        tracemalloc.reset_peak()
        base = tracemalloc.get_traced_memory()[0]
        async for _ in stack.documents.add_many(source(count, start)):
            pass
        return tracemalloc.get_traced_memory()[1] - base

    async for _ in stack.documents.add_many(source(100, 0)):
        pass
    tracemalloc.start()
    try:
        few, many = await peak(100, 100), await peak(600, 200)
    finally:
        tracemalloc.stop()
    # The larger run's texts take 12 MB.
    assert many < few + 3_000_000
    assert await counted(stack, Chunk) == 800


async def test_a_large_document_and_small_ones_share_no_batch(stack: LLMStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingestion, "BATCH_CHARACTERS", 1000)
    large = " ".join(f"w{number}" for number in range(1000))
    results = await added(stack, [document("a"), document("large", large), document("b")])
    assert [result.error for result in results] == [None] * 3
    assert results[1].document is not None
    assert results[0].document is not None
    assert results[1].document.created_at != results[0].document.created_at
    assert await contents(stack, results[1]) != []


async def test_the_next_batch_is_embedded_while_one_is_written_and_no_further_one(
    stack: LLMStack, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestion, "BATCH_DOCUMENTS", 10)
    await add(stack, "first")
    asked: list[DocumentInput] = []

    def source() -> Iterator[DocumentInput]:
        for given in plain(100):
            asked.append(given)
            yield given

    async with stack.service.session() as session:
        await session.execute(text("LOCK TABLE llmstack.documents IN EXCLUSIVE MODE"))
        running = asyncio.create_task(added(stack, source()))
        await _waits(stack, "INSERT INTO llmstack.documents")
        for _ in range(500):
            if "text number19" in " ".join(words.texts):
                break
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert len(asked) == 20
        assert len(words.texts) == 1 + 20
    results = await running
    assert [result.id_at_origin for result in results] == [f"d{number}" for number in range(100)]
    assert len(words.texts) == 1 + 100


async def test_a_slow_embedder_delays_nothing_that_is_ready(
    stack: LLMStack, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestion, "BATCH_DOCUMENTS", 5)
    go_on = asyncio.Event()

    async def after_the_first_batch(texts: list[str]) -> None:
        if "text number5" in " ".join(texts):
            await go_on.wait()

    words.before = after_the_first_batch
    results = stack.documents.add_many(plain(10))
    first = [await asyncio.wait_for(anext(results), 10) for _ in range(5)]
    assert [result.embeddings_created for result in first] == [1] * 5
    assert await counted(stack, Document) == 5
    go_on.set()
    assert len([result async for result in results]) == 5


async def test_a_source_that_pauses_holds_nothing_back(stack: LLMStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingestion, "BATCH_DOCUMENTS", 5)
    go_on = asyncio.Event()

    async def source() -> AsyncIterator[DocumentInput]:
        for given in plain(5):
            yield given
        await go_on.wait()
        yield document("last")

    results = stack.documents.add_many(source())
    assert [(await asyncio.wait_for(anext(results), 10)).id_at_origin for _ in range(5)] == [f"d{n}" for n in range(5)]
    go_on.set()
    assert [result.id_at_origin async for result in results] == ["last"]


async def test_one_task_runs_all_of_the_source(stack: LLMStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingestion, "BATCH_DOCUMENTS", 2)
    tasks: set[asyncio.Task[Any] | None] = set()

    async def source() -> AsyncIterator[DocumentInput]:
        # Refuses to be left by another task than entered it.
        async with asyncio.timeout(60):
            for given in plain(7):
                tasks.add(asyncio.current_task())
                yield given
        tasks.add(asyncio.current_task())

    assert len(await added(stack, source())) == 7
    assert len(tasks) == 1


@pytest.mark.parametrize("between", [0, 3, 9, 10, 15])
async def test_an_identity_that_comes_again_in_the_next_batch_wins(
    stack: LLMStack, words: Words, monkeypatch: pytest.MonkeyPatch, between: int
) -> None:
    monkeypatch.setattr(ingestion, "BATCH_DOCUMENTS", 5)
    await add(stack, "again", "old words")
    others = plain(between)
    inputs = [*plain(4, start=50), document("again", "new words"), *others, document("again", "old words")]
    results = await added(stack, inputs)
    assert [result.error for result in results] == [None] * len(inputs)
    # Compared before the batch ahead was stored, it would be what was there at first.
    assert not results[-1].unchanged
    assert await contents(stack, results[-1]) == ["old words"]
    assert await found(stack, "old", mode="text") == ["again"]
    assert await half_documents(stack) == []
    assert not (await added(stack, [document("again", "old words")]))[0].chunks_created


async def test_an_identity_that_comes_again_unchanged_is_not_written_again(
    stack: LLMStack, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestion, "BATCH_DOCUMENTS", 5)
    inputs = [*plain(4), document("again"), document("again"), *plain(4, start=50), document("again")]
    results = await added(stack, inputs)
    assert [place for place, result in enumerate(results) if result.unchanged] == [5, 10]
    assert len([content for content in words.texts if "a few words" in content]) == 1


END_ONE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND query ~ 'INSERT INTO llmstack.documents' LIMIT 1
"""


async def test_a_batch_is_written_by_two_transactions_at_once(stack: LLMStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingestion, "WRITER_CHUNKS", 1)
    async with stack.service.session() as session:
        await session.execute(text("LOCK TABLE llmstack.documents IN EXCLUSIVE MODE"))
        running = asyncio.create_task(added(stack, plain(20)))
        await _waits(stack, "INSERT INTO llmstack.documents", backends=2)
    results = await running
    assert [(result.id_at_origin, result.error) for result in results] == [(f"d{number}", None) for number in range(20)]
    assert await counted(stack, Document) == 20


async def test_a_writer_whose_connection_is_lost_writes_again(stack: LLMStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingestion, "WRITER_CHUNKS", 1)
    async with stack.service.session() as session:
        await session.execute(text("LOCK TABLE llmstack.documents IN EXCLUSIVE MODE"))
        running = asyncio.create_task(added(stack, plain(20)))
        await _waits(stack, "INSERT INTO llmstack.documents", backends=2)
        assert await session.scalar(text(END_ONE))
    assert [result.error for result in await running] == [None] * 20
    assert await counted(stack, Document) == 20
    assert await half_documents(stack) == []


@pytest.mark.parametrize("writer_chunks", [1, 100], ids=["two writers", "one writer"])
async def test_one_connection_is_enough(
    llmstack_database: Database, words: Words, monkeypatch: pytest.MonkeyPatch, writer_chunks: int
) -> None:
    monkeypatch.setattr(ingestion, "BATCH_DOCUMENTS", 5)
    monkeypatch.setattr(ingestion, "WRITER_CHUNKS", writer_chunks)
    url = llmstack_database.engine.url.render_as_string(hide_password=False)
    settings = Settings(pool_size=1, max_overflow=0, pool_timeout=0.2)
    async with LLMStack(url, embedder=words.embedder(), settings=settings) as narrow:
        async with narrow.service.session() as session:
            await session.execute(text(SLOWED))
            await session.execute(text(SLOW))
            await session.commit()
        results = await added(narrow, plain(20))
    assert [result.error for result in results] == [None] * 20
    assert len(words.texts) == 20


async def test_a_caller_who_stops_at_the_first_result_leaves_nothing_behind(
    stack: LLMStack, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestion, "BATCH_DOCUMENTS", 10)
    await stack.documents.settle()
    tasks = asyncio.all_tasks()

    async def stuck(texts: list[str]) -> None:
        if "text number10" in " ".join(texts):
            await asyncio.sleep(3600)

    words.before = stuck
    async for result in stack.documents.add_many(plain(1000)):
        assert result.id_at_origin == "d0"
        break
    await _at_rest(stack, tasks)
    assert await counted(stack, Document) == 10


async def test_closing_the_results_ends_what_was_ahead(
    stack: LLMStack, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestion, "BATCH_DOCUMENTS", 10)
    await stack.documents.settle()
    tasks = asyncio.all_tasks()
    results: Any = stack.documents.add_many(plain(1000))
    await anext(results)
    await results.aclose()
    await _at_rest(stack, tasks)
    assert len(words.texts) <= 20
    assert await half_documents(stack) == []


@pytest.mark.parametrize("at", ["the write", "the embedder", "the source"])
async def test_cancelling_in_the_middle_leaves_no_task_and_no_connection(
    stack: LLMStack, words: Words, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    monkeypatch.setattr(ingestion, "BATCH_DOCUMENTS", 10)
    monkeypatch.setattr(ingestion, "WRITER_CHUNKS", 1)
    await add(stack, "known")
    await stack.documents.settle()
    tasks = asyncio.all_tasks()
    reached = asyncio.Event()

    async def stuck(texts: list[str]) -> None:
        if "text number20" in " ".join(texts) and at == "the embedder":
            reached.set()
            await asyncio.sleep(3600)

    async def source() -> AsyncIterator[DocumentInput]:
        for number, given in enumerate(plain(100)):
            if number == 20 and at == "the source":
                reached.set()
                await asyncio.sleep(3600)
            yield given

    words.before = stuck
    async with stack.service.session() as session:
        if at == "the write":
            await session.execute(text("LOCK TABLE llmstack.documents IN EXCLUSIVE MODE"))
        running = asyncio.create_task(added(stack, source()))
        if at == "the write":
            await _waits(stack, "INSERT INTO llmstack.documents")
        else:
            await asyncio.wait_for(reached.wait(), 10)
        running.cancel()
        await asyncio.wait([running], timeout=10)
        assert running.cancelled()
    await _at_rest(stack, tasks)
    assert await half_documents(stack) == []
    words.before = None
    assert not [result for result in await added(stack, plain(100)) if result.error]


async def test_an_error_of_the_source_is_told_after_the_results_before_it(
    stack: LLMStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestion, "BATCH_DOCUMENTS", 10)
    await stack.documents.settle()
    tasks = asyncio.all_tasks()

    def source() -> Iterator[DocumentInput]:
        yield from plain(25)
        raise OSError("the disk is gone")

    seen: list[AddResult] = []

    async def read() -> None:
        async for result in stack.documents.add_many(source()):
            # Meanwhile the source breaks.
            await asyncio.sleep(0.01)
            seen.append(result)

    with pytest.raises(OSError, match="the disk is gone"):
        await read()
    assert [result.id_at_origin for result in seen] == [f"d{number}" for number in range(20)]
    await _at_rest(stack, tasks)
