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
from llmstack.documents import (
    AddProgress,
    AddResult,
    Chunk,
    ChunkEmbedding,
    ChunkPiece,
    Document,
    DocumentInput,
    EmbeddingJob,
    ingestion,
)


def plain(count: int, *, start: int = 0) -> list[DocumentInput]:
    return [document(f"d{number}", f"text number{number}") for number in range(start, start + count)]


def refuse(content: str) -> list[str]:
    raise KeyError("the chunker does not like it")


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
    assert await found(stack, "number7", mode="text") == ["d7"]


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
    assert await counted(stack, EmbeddingJob) == 1
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
    for pause in (0.01, 0.04, 0.07, 0.1, 0.13, 0.16):
        task = asyncio.create_task(added(stack, plain(300)))
        await asyncio.sleep(pause)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert await half_documents(stack) == []
    before = await counted(stack, Document)
    words.before = None
    results = await added(stack, plain(300))
    assert 0 < before < 300
    assert sum(result.unchanged for result in results) == before
    assert await counted(stack, Document) == await counted(stack, ChunkEmbedding) == 300
    # What was embedded for a transaction that never was is embedded again; nothing else is.
    assert len(words.texts) <= 300 + 6 * 10


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
