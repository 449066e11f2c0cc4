"""Many writers and readers of the same documents at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from document_support import Words, add, added, counted, document, found, half_documents
from sqlalchemy import text

from llmstack import LLMStack
from llmstack.documents import Chunk, ChunkEmbedding, ChunkEmbeddingJob, DocumentFilter

WRITERS = 6


def version(name: str, *, size: int = 8) -> str:
    """A text whose every passage names its version, but for one that all versions share."""
    passages = [f"{name} passage{number}." for number in range(size)]
    return "\n".join([*passages[: size // 2], "a shared passage.", *passages[size // 2 :]])


def lines(content: str) -> list[str]:
    return content.split("\n")


async def read(stack: LLMStack) -> str:
    document = await stack.documents.find(owner_id="acme", id_at_origin="it")
    assert document is not None
    chunks = await stack.documents.chunks(owner_id="acme", document_id=document.id)
    return "\n".join(chunk.content for chunk in chunks)


async def test_of_six_adds_of_one_identity_all_succeed_and_one_version_remains(stack: LLMStack, words: Words) -> None:
    versions = [version(f"v{number}", size=5 + number) for number in range(WRITERS)]
    for _ in range(5):
        results = await asyncio.gather(*(add(stack, "it", given, chunking=lines) for given in versions))
        assert {result.error or result.embedding_error for result in results} == {None}
        assert len({result.document.id for result in results if result.document}) == 1
        assert {result.embeddings_pending for result in results} == {0}
        whole = await read(stack)
        assert whole in versions
        assert await counted(stack, Chunk) == await counted(stack, ChunkEmbedding) == len(lines(whole))
        assert await counted(stack, ChunkEmbeddingJob) == 0
        owner = {"owner_id": "acme"}
        stored = await stack.documents.find(**owner, id_at_origin="it")
        assert stored is not None
        assert await stack.documents.text(**owner, document_id=stored.id) == whole


class Reader:
    """Looks at the one document in every way, and never sees more or less than a version."""

    def __init__(self, stack: LLMStack, versions: list[str]) -> None:
        self.documents = stack.documents
        self.versions = versions
        self.seen: set[str] = set()

    async def chunks(self) -> None:
        whole = await self.documents.find(owner_id="acme", id_at_origin="it")
        assert whole is not None
        chunks = await self.documents.chunks(owner_id="acme", document_id=whole.id)
        text = "\n".join(chunk.content for chunk in chunks)
        assert text in self.versions
        self.seen.add(text)

    async def search(self) -> None:
        hits = await self.documents.search(owner_id="acme", query="passage0 passage7", mode="text", limit=2)
        assert len({hit.content.split()[0] for hit in hits}) == 1
        assert sorted(hit.content.split()[1] for hit in hits) == ["passage0.", "passage7."]

    async def neighbours(self) -> None:
        (hit,) = await self.documents.search(owner_id="acme", query='"a shared passage"', mode="text")
        # Its row is kept from version to version, so its neighbours must be of one.
        shown = await self.documents.neighbours(owner_id="acme", chunk_id=hit.id, before=9, after=9)
        assert "\n".join(chunk.content for chunk in shown) in self.versions

    async def statistics(self) -> None:
        counted = await self.documents.statistics(owner_id="acme")
        assert (counted.documents, counted.chunks, counted.embedded) == (1, 9, {"words": 9})


async def test_readers_see_one_version_or_another_never_a_mixture_or_nothing(stack: LLMStack) -> None:
    versions = [version(f"v{number}") for number in range(WRITERS)]
    await add(stack, "it", versions[0], chunking=lines)
    reader = Reader(stack, versions)
    writing = True

    async def keep(look: Callable[[], Awaitable[None]]) -> None:
        while writing:
            await look()

    async with asyncio.TaskGroup() as group:
        for look in (reader.chunks, reader.search, reader.neighbours, reader.statistics):
            group.create_task(keep(look))
        for turn in range(12):
            await add(stack, "it", versions[turn % WRITERS], chunking=lines)
        writing = False
    assert len(reader.seen) > 1


async def test_many_adders_of_the_same_documents_in_any_order_all_succeed(stack: LLMStack, words: Words) -> None:
    orders = random.Random(5)

    async def one(name: str) -> None:
        inputs = [document(f"d{number}", version(f"{name}x{number}"), chunking=lines) for number in range(20)]
        orders.shuffle(inputs)
        results = await added(stack, inputs)
        assert {result.error or result.embedding_error for result in results} == {None}

    await asyncio.gather(*(one(f"w{number}") for number in range(4)))
    assert await counted(stack, Chunk) == await counted(stack, ChunkEmbedding) == 20 * 9
    assert await half_documents(stack) == []
    page = await stack.documents.list(owner_id="acme", limit=100)
    for item in page.items:
        chunks = await stack.documents.chunks(owner_id="acme", document_id=item.id)
        whole = await stack.documents.text(owner_id="acme", document_id=item.id)
        assert "\n".join(chunk.content for chunk in chunks) == whole


async def test_adding_deleting_purging_and_embedding_at_once_leave_whole_documents(
    stack: LLMStack, words: Words
) -> None:
    turns = random.Random(3)
    words.fault = lambda texts: 1 / 0 if turns.random() < 0.3 else None

    async def adds(name: str) -> None:
        for turn in range(6):
            inputs = [document(f"d{number}", version(f"{name}{turn}"), chunking=lines) for number in range(6)]
            assert {result.error for result in await added(stack, inputs)} == {None}

    async def deletes() -> None:
        for _ in range(12):
            await stack.documents.delete_many(
                owner_id="acme", where=DocumentFilter(id_at_origin=[f"d{turns.randrange(6)}", "d0"])
            )
            await stack.documents.purge(owner_id="acme")

    async def embeds() -> None:
        for _ in range(12):
            await stack.embeddings.process_pending()

    await asyncio.gather(adds("a"), adds("b"), deletes(), embeds())
    assert await half_documents(stack) == []
    words.fault = None
    await added(stack, [document(f"d{number}", version("last"), chunking=lines) for number in range(6)])
    await stack.embeddings.retry_set_aside()
    await stack.embeddings.process_pending()
    statistics = await stack.documents.statistics(owner_id="acme")
    assert (statistics.documents, statistics.chunks) == (6, 54)
    assert await found(stack, "last passage3", mode="text") == [f"d{number}" for number in range(6)]


async def test_a_deadlock_during_the_copy_of_chunks_is_run_again(stack: LLMStack) -> None:
    async with stack.service.session() as session:
        for statement in (
            "CREATE SEQUENCE llmstack.turns",
            "CREATE FUNCTION llmstack.deadlock() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "IF nextval('llmstack.turns') <= 2 THEN RAISE EXCEPTION 'deadlock' USING ERRCODE = '40P01'; "
            "END IF; RETURN new; END $$",
            "CREATE TRIGGER deadlock BEFORE INSERT ON llmstack.chunks FOR EACH ROW "
            "EXECUTE FUNCTION llmstack.deadlock()",
        ):
            await session.execute(text(statement))
        await session.commit()
        result = await add(stack, "it", "some words")
        assert result.error is None
        assert await session.scalar(text("SELECT last_value FROM llmstack.turns")) == 3
    assert await found(stack, "words", mode="text") == ["it"]
