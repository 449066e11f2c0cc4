"""The server is killed in the middle: every document is whole or absent, and the run can be repeated."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from document_support import Words, added, counted, document, found, half_documents, kill
from sqlalchemy import text

from llmstack import LLMStack
from llmstack.db.embedded import EmbeddedServer, start
from llmstack.documents import AddResult, ChunkEmbedding, Document, DocumentInput, ingestion
from llmstack.errors import DatabaseUnavailable

DOCUMENTS = 400

SLEEPS_IN_DOCUMENT_50 = (
    "CREATE FUNCTION llmstack.sleep() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN PERFORM pg_sleep(50); RETURN new; END $$",
    "CREATE TRIGGER sleep BEFORE INSERT ON llmstack.chunks FOR EACH ROW "
    "WHEN (new.content = 'document50 passage2') EXECUTE FUNCTION llmstack.sleep()",
)


def inputs() -> Iterator[DocumentInput]:
    for number in range(DOCUMENTS):
        passages = [f"document{number} passage{passage}" for passage in range(5)]
        yield document(f"d{number}", "\n".join(passages), chunking=lambda content: content.split("\n"))


async def test_after_a_kill_every_document_is_whole_or_absent_and_the_run_can_be_repeated(
    server: EmbeddedServer, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestion, "BATCH_DOCUMENTS", 20)
    async with LLMStack.open(server.url, embedder=words.embedder()) as stack:
        survivors: set[str] = set()
        for moment in (60, 250):
            kept = await _run_until_killed(stack, server, after=moment)
            again = start(server.data_dir, announce=False)
            try:
                async with LLMStack.open(server.url, embedder=words.embedder()) as restarted:
                    survivors |= kept
                    await _check(restarted, survivors)
            finally:
                again.release()
        results = await _repeated(stack)
        assert {result.error for result in results} == {None}
        assert survivors <= {result.id_at_origin for result in results if result.unchanged}
        assert await counted(stack, Document) == DOCUMENTS
        assert await counted(stack, ChunkEmbedding) == 5 * DOCUMENTS
        assert await found(stack, '"document77"', mode="text") == ["d77"]


async def test_a_kill_inside_a_write_transaction_leaves_nothing_of_it(
    server: EmbeddedServer, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestion, "BATCH_DOCUMENTS", 20)
    async with LLMStack.open(server.url, embedder=words.embedder()) as stack:
        async with stack.service.session() as session:
            for statement in SLEEPS_IN_DOCUMENT_50:
                await session.execute(text(statement))
            await session.commit()
        writing = asyncio.create_task(added(stack, inputs()))
        await asyncio.wait_for(_asleep_in_a_copy(stack), 30)
        kill(server)
        with pytest.raises(DatabaseUnavailable):
            await writing
        again = start(server.data_dir, announce=False)
        try:
            async with LLMStack.open(server.url, embedder=words.embedder()) as restarted:
                page = await restarted.documents.list(owner_id="acme", limit=1000)
                assert {item.id_at_origin for item in page.items} == {f"d{number}" for number in range(40)}
                await _check(restarted, set())
                async with restarted.service.session() as session:
                    await session.execute(text("DROP TRIGGER sleep ON llmstack.chunks"))
                    await session.commit()
            results = await _repeated(stack)
            assert {result.error for result in results} == {None}
            assert sum(result.unchanged for result in results) == 40
            assert await counted(stack, ChunkEmbedding) == 5 * DOCUMENTS
        finally:
            again.release()


async def _asleep_in_a_copy(stack: LLMStack) -> None:
    asleep = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE 'COPY%'")
    while True:
        async with stack.service.session() as session:
            if await session.scalar(asleep):
                return
        await asyncio.sleep(0.02)


async def _run_until_killed(stack: LLMStack, server: EmbeddedServer, *, after: int) -> set[str]:
    seen: list[AddResult] = []

    async def run() -> None:
        async for result in stack.documents.add_many(inputs()):
            assert result.error is None
            seen.append(result)
            if len(seen) == after:
                kill(server)

    with pytest.raises(DatabaseUnavailable):
        await run()
    assert len(seen) >= after
    return {result.id_at_origin for result in seen}


async def _check(stack: LLMStack, survivors: set[str]) -> None:
    page = await stack.documents.list(owner_id="acme", limit=1000)
    assert survivors <= {item.id_at_origin for item in page.items}
    assert await half_documents(stack) == []
    assert await counted(stack, ChunkEmbedding) == 5 * page.total


async def _repeated(stack: LLMStack) -> list[AddResult]:
    # The pool may still hold a connection to the server that died.
    try:
        return await added(stack, inputs())
    except DatabaseUnavailable:
        return await added(stack, inputs())


async def test_what_reads_does_not_notice_that_the_server_was_restarted(server: EmbeddedServer, words: Words) -> None:
    async with LLMStack.open(server.url, embedder=words.embedder()) as stack:
        await added(stack, [document("d1", "kettle")])
        first = await asyncio.gather(*(found(stack, "kettle") for _ in range(4)))
        for _ in range(2):
            kill(server)
            again = start(server.data_dir, announce=False)
            try:
                assert await asyncio.gather(*(found(stack, "kettle") for _ in range(10))) == [
                    *first,
                    *first,
                    *first[:2],
                ]
                assert (await stack.documents.list(owner_id="acme")).total == 1
                assert (await stack.embeddings.pending()).waiting == 0
            finally:
                again.release()
