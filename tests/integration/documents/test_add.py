"""Adding one document: what is stored, what is kept, and what is not done twice."""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
import random
import time
import tracemalloc
from typing import Any

import pytest
from document_support import (
    MakeStack,
    Words,
    add,
    contents,
    counted,
    document,
    found,
    half_documents,
    paragraphs,
    row_versions,
    said,
)

from llmstack import LLMStack
from llmstack.db import copy as copy_module
from llmstack.documents import (
    Chunk,
    ChunkEmbedding,
    ChunkEmbeddingJob,
    ChunkingConfig,
    DocumentFilter,
    TextNotKept,
    ingestion,
    writer,
)
from llmstack.embeddings import CallableEmbedder
from llmstack.errors import EmbeddingError

SMALL = ChunkingConfig(chunk_size=40, overlap=0, parent_size=80)
EMAIL = "From: ann@example.org\nSubject: Plans\n\nShall we meet on the veranda?\n\n--\nAnn of Zanzibar\n"
CHAT = "\n".join(f"{name}: about topic{turn}" for turn in range(10) for name in ("ann", "bob"))


async def test_a_new_document_is_stored_with_its_text_chunks_and_vectors(stack: LLMStack) -> None:
    text = paragraphs("apple", "birch", "cedar")
    moment = dt.datetime(2025, 5, 1, tzinfo=dt.UTC)
    result = await add(
        stack, "trees.md", text, document_name="Trees", document_type="markdown", document_date=moment,
        language="de", metadata={"team": "forest"}, chunking_config=SMALL,
    )  # fmt: skip
    assert (result.unchanged, result.cleaned, result.error, result.embedding_error) == (
        False,
        False,
        None,
        None,
    )
    assert (result.chunks_kept, result.chunks_deleted, result.embeddings_pending) == (0, 0, 0)
    assert result.chunks_created == await counted(stack, Chunk)
    assert result.embeddings_created == await counted(stack, ChunkEmbedding) > 3
    assert (result.is_new, result.elapsed > dt.timedelta(0)) == (True, True)
    stored = result.document
    assert stored is not None
    assert (stored.owner_id, stored.id_at_origin, stored.name) == ("acme", "trees.md", "Trees")
    assert (stored.document_type, stored.language, stored.document_date) == ("markdown", "german", moment)
    assert stored.metadata_ == {"team": "forest"}
    assert stored.content_bytes == len(text.encode())
    assert await stack.documents.text(owner_id="acme", document_id=stored.id) == text


async def test_whatever_the_strategy_every_word_is_stored_and_offsets_point_into_the_text(
    stack: LLMStack,
) -> None:
    words = [f"word{number}" for number in range(400)]
    text = "\n\n".join(" ".join(words[start : start + 20]) + "." for start in range(0, 400, 20))
    for chunking in ("hierarchical", "fixed_size", "sliding_window", "semantic", "none"):
        result = await add(stack, chunking, text, document_type="text", chunking=chunking)
        assert result.document is not None
        for level in (0, None):
            chunks = await stack.documents.chunks(owner_id="acme", document_id=result.document.id, level=level)
            assert said(chunks) == set(words)
            assert all(chunk.content == text[chunk.start_offset : chunk.end_offset] for chunk in chunks)
            positions = [chunk.position for chunk in chunks]
            assert positions == sorted(set(positions))
        assert len(chunks) == result.chunks_created


async def test_every_part_of_a_mail_or_a_chat_is_found(stack: LLMStack) -> None:
    for chunking in ("hierarchical", "semantic"):
        mail = await add(stack, f"mail {chunking}", EMAIL, document_type="email", chunking=chunking)
        chat = await add(stack, f"chat {chunking}", CHAT, document_type="chat", chunking=chunking)
        for result in (mail, chat):
            assert len(await contents(stack, result, level=None)) == result.chunks_created
    for word, kind in (("veranda", "mail"), ("zanzibar", "mail"), ("topic3", "chat"), ("topic9", "chat")):
        assert await found(stack, word, mode="text") == [f"{kind} hierarchical", f"{kind} semantic"]


async def test_equal_passages_of_one_document_are_all_kept_and_embedded_once(stack: LLMStack, words: Words) -> None:
    result = await add(stack, "echo", "same\n" * 5, chunking=lambda text: ["same"] * 5)
    assert (result.chunks_created, result.embeddings_created) == (5, 5)
    assert await contents(stack, result) == ["same"] * 5
    assert words.texts == ["same"]


async def test_a_new_version_keeps_identity_and_replaces_the_chunks(stack: LLMStack) -> None:
    first = await add(stack, "it", paragraphs("apple", "birch"), document_type="markdown", chunking_config=SMALL)
    second = await add(stack, "it", paragraphs("cedar"), document_type="markdown", chunking_config=SMALL)
    assert first.document is not None
    assert second.document is not None
    assert (second.document.id, second.document.created_at) == (first.document.id, first.document.created_at)
    assert second.document.updated_at > first.document.updated_at
    assert second.chunks_deleted == first.chunks_created
    assert await counted(stack, Chunk) == second.chunks_created
    assert await counted(stack, ChunkEmbedding) == second.embeddings_created
    assert await found(stack, "apple birch", mode="text") == []
    assert await found(stack, "cedar", mode="text") == ["it"]


async def test_chunks_that_did_not_change_keep_their_row_and_vector(stack: LLMStack, words: Words) -> None:
    async def rows() -> dict[str, Any]:
        chunks = await stack.documents.chunks(owner_id="acme", document_id=document_id, level=None)
        return {chunk.content: chunk.id for chunk in chunks}

    kept = {"document_type": "markdown", "chunking": "semantic"}
    first = await add(stack, "it", paragraphs("apple", "birch", "cedar"), **kept)
    assert first.document is not None
    document_id = first.document.id
    before = await rows()
    changed = await add(stack, "it", paragraphs("zebra", "birch", "apple", "cedar"), **kept)
    after = await rows()
    assert (changed.chunks_created, changed.chunks_kept, changed.chunks_deleted) == (1, 3, 0)
    assert changed.embeddings_created == 1
    assert {content: after[content] for content in before} == before
    assert [content.split()[-1] for content in after] == ["zebra", "birch", "apple", "cedar"]
    assert len(words.texts) == len(set(words.texts)) == 4
    assert await found(stack, "apple", mode="vector", where=DocumentFilter(id_at_origin="it")) == ["it"]


async def test_the_same_text_again_writes_nothing(stack: LLMStack, words: Words) -> None:
    given: dict[str, Any] = {
        "metadata": {"a": [1, 2.5, None, {"b": "ü"}]},
        "document_date": dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
        "chunking": "semantic", "chunking_config": SMALL, "document_type": "markdown",
    }  # fmt: skip
    first = await add(stack, "it", paragraphs("apple", "birch"), **given)
    before, calls = await row_versions(stack), words.calls
    again = await add(stack, "it", paragraphs("apple", "birch"), **given)
    assert again.unchanged
    assert again.document is not None
    assert first.document is not None
    assert again.document.id == first.document.id
    assert (again.chunks_created, again.chunks_deleted, again.embeddings_created) == (0, 0, 0)
    assert await row_versions(stack) == before
    assert words.calls == calls


@pytest.mark.parametrize(
    ("change", "embeds"),
    [
        ({"metadata": {"year": 2}}, False),
        ({"document_type": "text"}, False),
        ({"document_date": dt.datetime(2021, 1, 1, tzinfo=dt.UTC)}, False),
        ({"language": "german"}, False),
        ({"document_name": "Another title"}, True),
    ],
)
async def test_a_change_beside_the_text_is_stored_and_embeds_only_what_it_changes(
    stack: LLMStack, words: Words, change: dict[str, Any], embeds: bool
) -> None:
    await add(stack, "it", "running horses", metadata={"year": 1})
    before = len(words.texts)
    changed = await add(stack, "it", "running horses", **change)
    assert not changed.unchanged
    assert (len(words.texts) > before) is embeds
    assert len(words.texts) == len(set(words.texts))
    again = await add(stack, "it", "running horses", **change)
    assert again.unchanged


async def test_what_did_not_change_is_not_even_cut(stack: LLMStack) -> None:
    cuts = []

    def cut(content: str) -> list[str]:
        cuts.append(content)
        return [content]

    for _ in range(3):
        await add(stack, "it", "some words", chunking=cut)
    assert cuts == ["some words"]


async def test_a_new_language_is_searched_by_at_once(stack: LLMStack) -> None:
    await add(stack, "it", "die Häuser", language="english")
    assert await found(stack, "haus", mode="text") == []
    await add(stack, "it", "die Häuser", language="german")
    assert await found(stack, "haus", mode="text") == ["it"]


async def test_the_callers_metadata_is_left_alone(stack: LLMStack) -> None:
    metadata = {"b": [1, {"c": None}], "a": "x"}
    given = copy.deepcopy(metadata)
    result = await add(stack, "it", metadata=metadata)
    assert result.document is not None
    result.document.metadata_["a"] = "changed"
    assert metadata == given
    assert list(metadata) == list(given)


async def test_a_failing_embedder_costs_nothing_but_time(stack: LLMStack, words: Words) -> None:
    words.fault = lambda texts: 1 / 0
    result = await add(stack, "it", "a lonely giraffe")
    assert result.error is None
    assert "division by zero" in (result.embedding_error or "") or "ZeroDivisionError" in (result.embedding_error or "")
    assert (result.chunks_created, result.embeddings_created, result.embeddings_pending) == (1, 0, 1)
    assert await found(stack, "giraffe", mode="text") == ["it"]
    words.fault = None
    assert (await stack.embeddings.process_pending()).embedded == 1
    assert await found(stack, "giraffe", mode="vector") == ["it"]
    assert words.texts[0] == "a lonely giraffe"


async def test_what_was_pending_is_settled_by_the_next_version(stack: LLMStack, words: Words) -> None:
    words.fault = lambda texts: 1 / 0
    await add(stack, "it", "one\n\ntwo", chunking=lambda text: text.split())
    assert await counted(stack, ChunkEmbeddingJob) == 2
    words.fault = None
    result = await add(stack, "it", "one\n\ntwo\n\nthree", chunking=lambda text: text.split())
    assert (result.embeddings_created, result.embeddings_pending) == (3, 0)
    assert await counted(stack, ChunkEmbeddingJob) == 0
    assert await half_documents(stack) == []


async def test_without_an_embedder_text_search_works(make_stack: MakeStack) -> None:
    stack = make_stack(embedder="none")
    result = await add(stack, "it", "a lonely giraffe")
    assert (result.embeddings_created, result.embeddings_pending, result.embedding_error) == (0, 0, None)
    assert await found(stack, "giraffe") == ["it"]


async def test_a_deleted_document_comes_back_by_adding_it_and_embeds_nothing_again(
    stack: LLMStack, words: Words
) -> None:
    first = await add(stack, "it", paragraphs("apple", "birch"), chunking="semantic", document_type="markdown")
    assert first.document is not None
    await stack.documents.delete(owner_id="acme", document_id=first.document.id)
    again = await add(stack, "it", paragraphs("apple", "cedar"), chunking="semantic", document_type="markdown")
    assert again.document is not None
    assert again.document.id == first.document.id
    assert (again.chunks_created, again.chunks_kept, again.embeddings_created) == (1, 1, 1)
    assert len(words.texts) == 3
    assert await found(stack, "apple", mode="text") == await found(stack, "apple", mode="vector") == ["it"]


async def test_a_document_is_cut_anew_from_its_kept_text(stack: LLMStack, words: Words) -> None:
    text = paragraphs("apple", "birch", "cedar")
    first = await add(stack, "it", text, document_type="markdown", chunking="none", metadata={"a": 1})
    assert first.document is not None
    again = await stack.documents.rechunk(
        owner_id="acme", document_id=first.document.id, chunking="semantic", chunking_config=None
    )
    assert (again.chunks_created, again.chunks_deleted) == (3, 1)
    assert again.document is not None
    assert (again.document.id, again.document.metadata_) == (first.document.id, {"a": 1})
    assert await stack.documents.text(owner_id="acme", document_id=first.document.id) == text
    once_more = await stack.documents.rechunk(owner_id="acme", document_id=first.document.id, chunking="semantic")
    assert (once_more.chunks_created, once_more.chunks_kept, once_more.chunks_deleted) == (0, 3, 0)
    assert len(words.texts) == len(set(words.texts))


async def test_a_text_that_was_not_kept_cannot_be_cut_anew(make_stack: MakeStack) -> None:
    stack = make_stack(keep_text=False)
    result = await add(stack, "it", "a lonely giraffe")
    assert result.document is not None
    with pytest.raises(TextNotKept):
        await stack.documents.rechunk(owner_id="acme", document_id=result.document.id)
    with pytest.raises(TextNotKept):
        await stack.documents.text(owner_id="acme", document_id=result.document.id)
    assert (await add(stack, "it", "a lonely giraffe")).unchanged


async def test_a_text_that_was_not_kept_is_kept_when_it_is_added_again(make_stack: MakeStack, words: Words) -> None:
    without, keeping = make_stack(keep_text=False), make_stack()
    first = await add(without, "it", "a lonely giraffe")
    assert first.document is not None
    again = await add(keeping, "it", "a lonely giraffe")
    assert (again.unchanged, again.is_new, again.chunks_kept, again.chunks_created) == (False, False, 1, 0)
    assert await keeping.documents.text(owner_id="acme", document_id=first.document.id) == "a lonely giraffe"
    assert len(words.texts) == 1
    assert (await add(keeping, "it", "a lonely giraffe")).unchanged
    assert (await add(without, "it", "a lonely giraffe")).unchanged
    assert (await keeping.documents.rechunk(owner_id="acme", document_id=first.document.id)).error is None


async def test_cutting_anew_never_undoes_a_change_made_meanwhile(stack: LLMStack, words: Words) -> None:
    first = await add(stack, "it", paragraphs("apple", "birch"), document_type="markdown", chunking="none")
    assert first.document is not None

    async def meanwhile(texts: list[str]) -> None:
        words.before = None
        await add(stack, "it", paragraphs("cedar", "daisy"), document_type="markdown", chunking="none")

    words.before = meanwhile
    await stack.documents.rechunk(owner_id="acme", document_id=first.document.id, chunking="semantic")
    text = await stack.documents.text(owner_id="acme", document_id=first.document.id)
    assert text == paragraphs("cedar", "daisy")
    assert [content.split()[-1] for content in await contents(stack, first)] == ["cedar", "daisy"]


async def test_cutting_anew_never_brings_back_what_is_deleted_meanwhile(stack: LLMStack, words: Words) -> None:
    first = await add(stack, "it", paragraphs("apple", "birch"), document_type="markdown", chunking="none")
    assert first.document is not None
    document_id = first.document.id

    async def meanwhile(texts: list[str]) -> None:
        await stack.documents.delete(owner_id="acme", document_id=document_id)

    words.before = meanwhile
    with pytest.raises(LookupError):
        await stack.documents.rechunk(owner_id="acme", document_id=document_id, chunking="semantic")
    assert await found(stack, "apple", mode="text") == []


async def test_an_embedder_that_hangs_is_left_after_its_time(make_stack: MakeStack, words: Words) -> None:
    stack = make_stack(embedding_timeout=0.1)
    words.fault = lambda texts: asyncio.sleep(3600)
    result = await asyncio.wait_for(add(stack, "it", "a lonely giraffe"), 5)
    assert "no answer within 0.1 s" in (result.embedding_error or "")
    assert result.embeddings_pending == 1
    with pytest.raises(EmbeddingError, match="no answer"):
        await found(stack, "giraffe", mode="vector")
    assert await found(stack, "giraffe") == ["it"]


async def test_what_another_writer_removes_meanwhile_is_embedded_before_it_is_written(
    stack: LLMStack, words: Words
) -> None:
    kept = {"document_type": "markdown", "chunking": "semantic"}
    await add(stack, "it", paragraphs("apple", "birch"), **kept)
    await add(stack, "other", "quite another matter")

    async def meanwhile(texts: list[str]) -> None:
        words.before = None
        await add(stack, "it", paragraphs("daisy"), **kept)

    words.before = meanwhile
    result = await add(stack, "it", paragraphs("apple", "cedar"), **kept)
    assert (result.chunks_created, result.chunks_kept, result.chunks_deleted) == (2, 0, 1)
    assert (result.embeddings_created, result.embeddings_pending, result.embedding_error) == (2, 0, None)
    assert await counted(stack, ChunkEmbeddingJob) == 0
    assert await half_documents(stack) == []


async def test_a_race_pays_for_its_own_document_only(stack: LLMStack, words: Words) -> None:
    words.fault = lambda texts: 1 / 0
    await add(stack, "backlog", "waits for its vector")
    words.fault = None
    kept = {"document_type": "markdown", "chunking": "semantic"}
    await add(stack, "it", paragraphs("apple"), **kept)

    async def meanwhile(texts: list[str]) -> None:
        words.before = None
        await add(stack, "it", paragraphs("daisy"), **kept)

    words.before = meanwhile
    result = await add(stack, "it", paragraphs("apple", "cedar"), **kept)
    assert (result.embeddings_created, result.embeddings_pending) == (2, 0)
    assert await counted(stack, ChunkEmbeddingJob) == 1


async def test_inputs_are_equal_to_the_arguments_of_add(stack: LLMStack) -> None:
    given = document("it", "some words", metadata={"a": 1}, document_type="text", document_name="It")
    (result,) = [item async for item in stack.documents.add_many([given])]
    assert result.error is None
    again = await add(stack, "it", "some words", metadata={"a": 1}, document_type="text", document_name="It")
    assert again.unchanged


async def test_a_document_is_one_transaction_in_however_many_statements(
    stack: LLMStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_module, "STATEMENT_ROWS", 2)
    text = paragraphs("apple", "birch", "cedar", "daisy", size=100)
    result = await add(stack, "it", text, document_type="markdown", chunking_config=SMALL)
    assert result.document is not None
    chunks = await stack.documents.chunks(owner_id="acme", document_id=result.document.id, level=None)
    assert len(chunks) == result.chunks_created > 8
    assert any(chunk.parent_id for chunk in chunks)
    assert {chunk.created_at for chunk in chunks} == {result.document.created_at}
    assert result.embeddings_created == await counted(stack, ChunkEmbedding)
    assert await half_documents(stack) == []


async def test_another_function_of_the_same_name_cuts_the_text_anew(stack: LLMStack) -> None:
    await add(stack, "it", "one two\nthree", chunking=lambda text: text.splitlines())
    result = await add(stack, "it", "one two\nthree", chunking=lambda text: text.split())
    assert await contents(stack, result) == ["one", "two", "three"]
    assert (await add(stack, "it", "one two\nthree", chunking=lambda text: text.split())).unchanged


async def test_a_result_says_whether_the_document_is_new(stack: LLMStack) -> None:
    first = await add(stack, "it", "one")
    replaced = await add(stack, "it", "two")
    unchanged = await add(stack, "it", "two")
    assert [result.is_new for result in (first, replaced, unchanged)] == [True, False, False]
    assert first.document is not None
    await stack.documents.delete(owner_id="acme", document_id=first.document.id)
    assert (await add(stack, "it", "two")).is_new
    await stack.documents.delete(owner_id="acme", document_id=first.document.id)
    assert (await add(stack, "it", "three")).is_new


async def test_the_time_that_the_embedder_takes_is_part_of_what_is_measured(stack: LLMStack, words: Words) -> None:
    async def slowly(texts: list[str]) -> None:
        await asyncio.sleep(0.2)

    words.before = slowly
    started = time.monotonic()
    result = await add(stack, "it", "a lonely giraffe")
    ended = time.monotonic()
    # A sleep may end a clock's tick early.
    assert 0.19 <= result.elapsed.total_seconds() <= ended - started


async def test_the_vectors_of_a_large_document_wait_in_four_bytes_a_number(
    make_stack: MakeStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def wide(texts: list[str]) -> list[list[float]]:
        asked.extend(texts)
        return [[1.0 + random.random() for _ in range(1000)] for _ in texts]

    embedder = CallableEmbedder(wide, name="wide", dimensions=1000)
    stack = make_stack(embedder=embedder, embedding_batch_size=10, embedding_concurrency=1)
    await add(stack, "first")
    held: list[int] = []
    write = writer.write_documents

    async def measured(*given: Any, **more: Any) -> Any:
        held.append(tracemalloc.get_traced_memory()[0])
        return await write(*given, **more)

    monkeypatch.setattr(ingestion, "write_documents", measured)
    text = " ".join(f"w{number} same" for number in range(400))
    tracemalloc.start()
    try:
        result = await add(stack, "it", text, chunking=str.split)
    finally:
        tracemalloc.stop()
    assert result.embeddings_created == await counted(stack, ChunkEmbedding) - 1 == 800
    # Lists of floats would take 13 MB.
    assert 401 * 4_000 < held[0] < 6_000_000
    assert len(asked) == len(set(asked)) == 402
