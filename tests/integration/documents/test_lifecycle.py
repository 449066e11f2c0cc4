"""Deleting, restoring and purging."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pytest
from document_support import Words, add, added, counted, document, found, paragraphs
from sqlalchemy import event, text

from llmstack import LLMStack
from llmstack.documents import (
    AddResult,
    Chunk,
    ChunkEmbedding,
    ChunkEmbeddingJob,
    Document,
    DocumentFilter,
    repository,
)
from llmstack.errors import ValidationError


def id_of(result: AddResult) -> uuid.UUID:
    assert result.document is not None
    return result.document.id


async def test_a_deleted_document_is_nowhere_but_in_the_list_of_the_deleted(stack: LLMStack) -> None:
    key: dict[str, Any] = {
        "owner_id": "acme",
        "document_id": id_of(await add(stack, "it", "a lonely giraffe")),
    }
    (chunk,) = await stack.documents.chunks(**key)
    assert await stack.documents.delete(**key) == 1
    assert await stack.documents.delete(**key) == 0
    for mode in ("text", "vector", "hybrid"):
        assert await found(stack, "giraffe", mode=mode) == []
    assert await stack.documents.find(owner_id="acme", id_at_origin="it") is None
    for work in (
        stack.documents.get(**key),
        stack.documents.chunks(**key),
        stack.documents.neighbours(owner_id="acme", chunk_id=chunk.id),
        stack.documents.update_metadata(**key, metadata={}),
        stack.documents.rechunk(**key),
    ):
        with pytest.raises(LookupError):
            await work
    assert (await stack.documents.list(owner_id="acme")).total == 0
    assert [item.id for item in (await stack.documents.list(owner_id="acme", deleted=True)).items] == [
        key["document_id"]
    ]
    counts = await stack.documents.statistics(owner_id="acme")
    assert (counts.documents, counts.chunks, counts.embedded) == (0, 0, {})


async def test_a_restored_document_is_back_with_its_vectors(stack: LLMStack, words: Words) -> None:
    content = paragraphs("apple", "birch", "cedar")
    key: dict[str, Any] = {
        "owner_id": "acme",
        "document_id": id_of(await add(stack, "it", content, metadata={"a": 1})),
    }
    before = await stack.documents.statistics(owner_id="acme")
    calls = words.calls
    await stack.documents.delete(**key)
    assert await stack.documents.restore(**key) == 1
    assert await stack.documents.restore(**key) == 0
    assert words.calls == calls
    assert await stack.documents.statistics(owner_id="acme") == before
    for mode in ("text", "vector", "hybrid"):
        assert await found(stack, "birch", mode=mode) == ["it"]
    restored = await stack.documents.get(**key)
    assert (restored.deleted_at, restored.metadata_) == (None, {"a": 1})
    assert (await add(stack, "it", content, metadata={"a": 1})).unchanged


async def test_a_vector_that_is_owed_is_made_after_the_restoration(stack: LLMStack, words: Words) -> None:
    words.fault = lambda texts: 1 / 0
    key: dict[str, Any] = {
        "owner_id": "acme",
        "document_id": id_of(await add(stack, "it", "a lonely giraffe")),
    }
    words.fault = None
    await stack.documents.delete(**key)
    assert (await stack.embeddings.process_pending()).embedded == 0
    await stack.documents.restore(**key)
    assert (await stack.embeddings.process_pending()).embedded == 1
    assert await found(stack, "giraffe", mode="vector") == ["it"]


async def test_purging_takes_everything_of_the_deleted_and_nothing_else(stack: LLMStack, words: Words) -> None:
    gone = id_of(await add(stack, "gone", paragraphs("apple", "birch")))
    await add(stack, "stays", paragraphs("cedar"))
    words.fault = lambda texts: 1 / 0
    owed = id_of(await add(stack, "owed", "without a vector"))
    foreign = id_of(await add(stack, "foreign", owner_id="umbrella"))
    models = (Document, Chunk, ChunkEmbedding, ChunkEmbeddingJob)
    for document_id in (gone, owed):
        await stack.documents.delete(owner_id="acme", document_id=document_id)
    await stack.documents.delete(owner_id="umbrella", document_id=foreign)
    assert await stack.documents.purge(owner_id="acme", older_than=dt.timedelta(days=1)) == 0
    assert await stack.documents.purge(owner_id="acme", older_than=dt.timedelta.max) == 0
    assert await stack.documents.purge(owner_id="acme") == 2
    assert await stack.documents.purge(owner_id="acme") == 0
    assert await stack.documents.restore(owner_id="acme", document_id=gone) == 0
    assert await stack.documents.restore(owner_id="umbrella", document_id=foreign) == 1
    assert [await counted(stack, model) for model in models] == [2, 2, 1, 1]
    assert await found(stack, "cedar") == ["stays"]


async def test_purging_knows_how_long_ago_a_document_was_deleted(stack: LLMStack) -> None:
    old, new = [id_of(await add(stack, origin)) for origin in ("old", "new")]
    await stack.documents.delete_many(owner_id="acme", where=DocumentFilter(document_ids=[old, new]))
    async with stack.service.session() as session:
        statement = "UPDATE llmstack.documents SET deleted_at = now() - interval '3 days' WHERE id = :id"
        await session.execute(text(statement), {"id": old})
        await session.commit()
    assert await stack.documents.purge(owner_id="acme", older_than=dt.timedelta(days=2)) == 1
    assert [item.id for item in (await stack.documents.list(owner_id="acme", deleted=True)).items] == [new]
    with pytest.raises(ValidationError):
        await stack.documents.purge(owner_id="acme", older_than=dt.timedelta(seconds=-1))


async def test_an_identity_is_free_again_once_purged(stack: LLMStack) -> None:
    first = id_of(await add(stack, "it"))
    await stack.documents.delete(owner_id="acme", document_id=first)
    await stack.documents.purge(owner_id="acme")
    assert id_of(await add(stack, "it")) != first


async def test_many_are_deleted_by_id_or_by_filter(stack: LLMStack) -> None:
    results = await added(stack, [document(f"d{n}", metadata={"n": n}) for n in range(10)])
    await add(stack, "d0", owner_id="umbrella", metadata={"n": 0})
    ids = [id_of(result) for result in results]
    documents = stack.documents
    assert (
        await documents.delete_many(owner_id="acme", where=DocumentFilter(document_ids=[*ids[:2], uuid.uuid4()])) == 2
    )
    assert await documents.delete_many(owner_id="acme", where=DocumentFilter(document_ids=ids[:3])) == 1
    assert await documents.delete_many(owner_id="acme", where=DocumentFilter(document_ids=[])) == 0
    where = DocumentFilter(metadata={"n": {"$lt": 5}})
    assert await documents.delete_many(owner_id="acme", where=where) == 2
    assert await found(stack, "words", mode="text") == ["d5", "d6", "d7", "d8", "d9"]
    assert await found(stack, "words", mode="text", owner_id="umbrella") == ["d0"]


async def test_a_filter_that_asks_for_nothing_deletes_nothing(stack: LLMStack) -> None:
    await add(stack, "it")
    empty = [
        DocumentFilter(),
        DocumentFilter(metadata={}),
        DocumentFilter(metadata={"$and": []}),
        DocumentFilter(metadata={"$and": [{}]}),
        DocumentFilter(metadata={"$or": [{}]}),
        DocumentFilter(metadata={"$not": {"$not": {}}}),
    ]
    for where in empty:
        with pytest.raises(ValidationError):
            await stack.documents.delete_many(owner_id="acme", where=where)
    assert (await stack.documents.list(owner_id="acme")).total == 1


async def test_more_documents_are_deleted_than_a_statement_takes_parameters(stack: LLMStack) -> None:
    await add(stack, "it")
    async with stack.service.session() as session:
        statement = """
            INSERT INTO llmstack.documents (id, owner_id, id_at_origin, name, document_type, language,
                content_hash, content_bytes, chunking)
            SELECT gen_random_uuid(), 'acme', n, 'many', 'text', 'english', '', 0, '{}'
            FROM generate_series(1, 33000) AS n
        """
        await session.execute(text(statement))
        await session.commit()
    where = DocumentFilter(document_type="text")
    assert await stack.documents.delete_many(owner_id="acme", where=where) == 33_000
    assert (await stack.documents.list(owner_id="acme")).total == 1


async def test_a_document_of_more_chunks_than_a_statement_takes_parameters_lives_as_others_do(
    stack: LLMStack,
) -> None:
    document_id = id_of(await add(stack, "it", "one two", chunking=str.split))
    key: dict[str, Any] = {"owner_id": "acme", "document_id": document_id}
    async with stack.service.session() as session:
        # Parents are not searched, which makes them quick to write.
        statement = """
            INSERT INTO llmstack.chunks (id, owner_id, document_id, position, level, content, token_count,
                start_offset, end_offset, content_hash)
            SELECT gen_random_uuid(), 'acme', :id, n, 1, 'many', 1, 0, 0, n::text::bytea
            FROM generate_series(10, 33000) AS n
        """
        await session.execute(text(statement), {"id": document_id})
        await session.commit()
    assert await stack.documents.delete(**key) == 1
    assert await stack.documents.restore(**key) == 1
    shorter = await add(stack, "it", "one three", chunking=str.split)
    assert (shorter.chunks_created, shorter.chunks_kept, shorter.chunks_deleted) == (1, 1, 32_992)


async def test_however_many_are_deleted_few_ids_are_held_at_a_time(
    stack: LLMStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    await added(stack, [document(f"d{n}", "one two three", chunking=str.split) for n in range(20)])
    await stack.documents.settle()
    monkeypatch.setattr(repository, "DOCUMENTS_AT_ONCE", 3)
    monkeypatch.setattr(repository, "STATEMENT_ROWS", 4)
    longest = 0

    def measure(*given: Any) -> None:
        nonlocal longest
        # The other lists are vectors.
        ids = (value for value in given[3] if value and isinstance(value, list) and not isinstance(value[0], float))
        longest = max([longest, *map(len, ids)])

    engine = stack.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", measure)
    try:
        where = DocumentFilter(metadata={"absent": {"$exists": False}})
        assert await stack.documents.delete_many(owner_id="acme", where=where) == 20
        assert await found(stack, "two", mode="text") == await found(stack, "two", mode="vector") == []
        assert await stack.documents.purge(owner_id="acme") == 20
    finally:
        event.remove(engine, "before_cursor_execute", measure)
    assert longest == 4
    assert [await counted(stack, model) for model in (Document, Chunk, ChunkEmbedding)] == [0, 0, 0]
