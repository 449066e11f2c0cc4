"""Bad input: a clear error, nothing lost, nothing half-written."""

from __future__ import annotations

import base64
import datetime as dt
import random
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from document_support import (
    DIMENSIONS,
    MakeStack,
    Words,
    add,
    contents,
    counted,
    found,
    half_documents,
    row_versions,
)

from llmstack import LLMStack
from llmstack.documents import Chunk, ChunkEmbedding, ChunkEmbeddingJob, ChunkingConfig, ChunkPiece, DocumentFilter
from llmstack.errors import EmbeddingError, LLMStackError, ValidationError

NUL, LONE = "a\x00b", "a\ud800b"
DEEP: dict[str, Any] = {}
for _ in range(5000):
    DEEP = {"a": DEEP}

ENDLESS: dict[str, Any] = {}
ENDLESS["a"] = [ENDLESS, ENDLESS]


def nested(levels: int) -> list[Any]:
    """Lists within one another."""
    return [nested(levels - 1)] if levels > 1 else []


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("owner_id", {"owner_id": ""}),
    ("owner_id", {"owner_id": " \n"}),
    ("owner_id", {"owner_id": None}),
    ("owner_id", {"owner_id": NUL}),
    ("owner_id", {"owner_id": "ü" * 300}),
    ("id_at_origin", {"id_at_origin": "x" * 10_000}),
    ("id_at_origin", {"id_at_origin": LONE}),
    ("id_at_origin", {"id_at_origin": b"it"}),
    ("document_name", {"document_name": "x" * 10_000}),
    ("document_name", {"document_name": NUL}),
    ("content", {"content": ""}),
    ("content", {"content": " \t\r\n\u2003"}),
    ("content", {"content": "\x00\ud800"}),
    ("content", {"content": None}),
    ("content", {"content": b"bytes"}),
    ("document_type", {"document_type": "novel"}),
    ("document_date", {"document_date": dt.datetime(2020, 1, 1)}),
    ("document_date", {"document_date": dt.date(2020, 1, 1)}),
    ("document_date", {"document_date": dt.datetime.min.replace(tzinfo=dt.timezone(dt.timedelta(hours=9)))}),
    ("language", {"language": 5}),
    ("metadata", {"metadata": "text"}),
    ("metadata", {"metadata": {"a": object()}}),
    ("metadata", {"metadata": {("a", "b"): 1}}),
    ("metadata", {"metadata": {"a": float("inf")}}),
    ("metadata", {"metadata": {"a": NUL}}),
    ("metadata", {"metadata": {LONE: 1}}),
    ("metadata", {"metadata": {"a": dt.datetime.now(dt.UTC)}}),
    ("metadata", {"metadata": DEEP}),
    ("metadata", {"metadata": {"a": nested(200)}}),
    ("metadata", {"metadata": ENDLESS}),
    ("metadata", {"metadata": {"a": 10**5000}}),
    ("metadata", {"metadata": {"a": "x" * 10_000_000}}),
    ("chunking", {"chunking": "by hand"}),
    ("chunk_size", {"chunking_config": ChunkingConfig(chunk_size=0)}),
    ("chunk_size", {"chunking_config": ChunkingConfig(chunk_size=10**9)}),
    ("overlap", {"chunking_config": ChunkingConfig(chunk_size=10, overlap=10)}),
]


async def test_what_cannot_be_stored_is_refused_by_its_name_and_the_old_version_stays(
    stack: LLMStack,
) -> None:
    await add(stack, "it", "the old version", metadata={"a": 1})
    before = await row_versions(stack)
    for field, change in REFUSED:
        with pytest.raises(ValidationError) as refused:
            await stack.documents.add(**{"owner_id": "acme", "id_at_origin": "it", "content": "new", **change})
        assert refused.value.field == field, change
        assert refused.value.message in str(refused.value)
        assert len(str(refused.value)) < 400
    assert await row_versions(stack) == before


async def test_nul_and_lone_surrogates_are_cleaned_out_of_a_text_and_that_is_said(stack: LLMStack) -> None:
    result = await add(stack, "it", "a lon\x00ely \ud83dgiraffe \U0001f600")
    assert result.cleaned
    assert await contents(stack, result) == ["a lonely giraffe \U0001f600"]
    assert result.document is not None
    text = await stack.documents.text(owner_id="acme", document_id=result.document.id)
    assert text == "a lonely giraffe \U0001f600"
    again = await add(stack, "it", "a lonely giraffe \U0001f600")
    assert (again.unchanged, again.cleaned) == (True, False)


async def test_metadata_may_have_two_hundred_levels(stack: LLMStack) -> None:
    result = await add(stack, "it", metadata={"a": nested(199)})
    assert result.document is not None
    stored = await stack.documents.get(owner_id="acme", document_id=result.document.id)
    assert stored.metadata_ == {"a": nested(199)}


async def test_metadata_may_speak_of_escapes(stack: LLMStack) -> None:
    metadata = {"a": "\\u0000", "\\\\": "\\ud800", "b": "\U0001f600\u2028\x01", "n": -(10**40), "f": 1e-300}
    result = await add(stack, "it", metadata=metadata)
    assert result.document is not None
    stored = await stack.documents.get(owner_id="acme", document_id=result.document.id)
    assert stored.metadata_ == metadata
    assert await found(stack, "words", mode="text", where=DocumentFilter(metadata={"a": "\\u0000"})) == ["it"]


async def test_a_text_is_bounded_by_its_bytes(make_stack: MakeStack) -> None:
    stack = make_stack(max_text_bytes=2000)
    with pytest.raises(ValidationError, match="max_text_bytes"):
        await add(stack, "it", "ü" * 1001)
    assert (await add(stack, "it", "ü" * 1000)).error is None


async def test_one_word_of_two_megabytes_is_stored_whole(stack: LLMStack) -> None:
    word = base64.b64encode(random.Random(1).randbytes(1_500_000)).decode()
    result = await add(stack, "it", f"giraffe {word} zebra", chunking="none")
    assert result.error is None
    pieces = await contents(stack, result)
    assert "".join(pieces).replace(" ", "") == f"giraffe{word}zebra"
    assert max(map(len, pieces)) < 100_000
    assert await found(stack, "giraffe", mode="text") == await found(stack, "zebra", mode="text") == ["it"]


async def test_a_chunk_too_large_for_a_text_index_is_refused_and_nothing_is_half_written(
    stack: LLMStack,
) -> None:
    def one_piece(content: str) -> list[ChunkPiece]:
        return [ChunkPiece(content, 0, len(content), token_count=1)]

    await add(stack, "it", "the old version")
    before = await row_versions(stack)
    distinct = " ".join(f"{number:x}" * 2 for number in range(200_000))
    with pytest.raises(ValidationError, match="too large for PostgreSQL"):
        await add(stack, "it", distinct, chunking=one_piece)
    assert await row_versions(stack) == before
    assert await half_documents(stack) == []


def _vectors(vector: list[float]) -> Callable[[list[str]], list[list[float]]]:
    return lambda texts: [vector for _ in texts]


async def never_answers(texts: list[str]) -> None:
    raise ConnectionError("the model is away")


ANSWERS: dict[str, Any] = {
    "too few": lambda texts: [],
    "too many": lambda texts: [[0.5] * DIMENSIONS] * (len(texts) + 1),
    "wrong dimensions": _vectors([0.5] * (DIMENSIONS - 1)),
    "no dimensions": _vectors([]),
    "NaN": _vectors([0.5] * (DIMENSIONS - 1) + [float("nan")]),
    "infinite": _vectors([float("-inf")] * DIMENSIONS),
    "zero": _vectors([0.0] * DIMENSIONS),
    "beyond the storage": _vectors([1e30] * DIMENSIONS),
    "no vectors": lambda texts: "vectors",
    "no list": lambda texts: 5,
    "raises": lambda texts: 1 / 0,
    "breaks": never_answers,
}


async def test_an_embedder_that_answers_badly_never_costs_the_document(stack: LLMStack, words: Words) -> None:
    for number, (name, fault) in enumerate(ANSWERS.items(), 1):
        words.fault = fault
        result = await add(stack, name, f"a giraffe {name}")
        assert result.error is None, name
        assert result.embedding_error, name
        assert (result.chunks_created, result.embeddings_created, result.embeddings_pending) == (1, 0, 1)
        assert await counted(stack, ChunkEmbeddingJob) == number
        with pytest.raises(EmbeddingError):
            await stack.documents.search(owner_id="acme", query="giraffe", mode="vector")
        assert name in await found(stack, "giraffe")
    assert await counted(stack, ChunkEmbedding) == 0
    words.fault = None
    await stack.embeddings.process_pending()
    assert await found(stack, "giraffe", mode="vector") == sorted(ANSWERS)


async def test_a_limit_is_from_one_to_a_thousand(stack: LLMStack) -> None:
    await add(stack, "it")
    limits: list[Any] = [0, -1, 10**9, 10**30, True, 1.5, "5", None]
    for limit in limits:
        for work in (
            stack.documents.list(owner_id="acme", limit=limit),
            stack.documents.search(owner_id="acme", query="words", limit=limit),
            stack.documents.search(owner_id="acme", query="words", limit=limit, mode="text"),
        ):
            with pytest.raises(ValidationError) as refused:
                await work
            assert refused.value.field == "limit"
    assert (await stack.documents.list(owner_id="acme", limit=1000)).total == 1


async def test_every_verb_refuses_a_bad_owner_and_a_bad_id(stack: LLMStack) -> None:
    documents = stack.documents
    id_ = uuid.uuid4()
    verbs: list[Callable[..., Awaitable[Any]]] = [
        documents.get, documents.text, documents.chunks, documents.delete, documents.restore,
        documents.rechunk,
        lambda **given: documents.update_metadata(**given, metadata={}),
    ]  # fmt: skip
    owners: list[Any] = ["", None, NUL, LONE, 5, "x" * 10_000]
    ids: list[Any] = ["", "no id", None, 5, NUL, "x" * 10_000, "{" * 40]
    for verb in verbs:
        for owner in owners:
            with pytest.raises(ValidationError, match="owner_id"):
                await verb(owner_id=owner, document_id=id_)
        for bad in ids:
            with pytest.raises(ValidationError, match="document_id"):
                await verb(owner_id="acme", document_id=bad)
    for owner in owners:
        for work in (
            documents.list(owner_id=owner),
            documents.find(owner_id=owner, id_at_origin="it"),
            documents.search(owner_id=owner, query="words"),
            documents.statistics(owner_id=owner),
            documents.purge(owner_id=owner),
            documents.neighbours(owner_id=owner, chunk_id=id_),
            documents.delete_many(owner_id=owner, where=DocumentFilter(document_ids=[id_])),
        ):
            with pytest.raises(ValidationError, match="owner_id"):
                await work
    origins: list[Any] = ["", None, NUL, LONE, "x" * 10_000]
    for bad in origins:
        with pytest.raises(ValidationError, match="id_at_origin"):
            await documents.find(owner_id="acme", id_at_origin=bad)


async def test_a_filter_with_bad_values_is_refused_by_its_name(stack: LLMStack) -> None:
    await add(stack, "it")
    cases: list[tuple[str, dict[str, Any]]] = [
        ("id_at_origin", {"id_at_origin": NUL}),
        ("id_at_origin", {"id_at_origin": ["it", None]}),
        ("id_at_origin", {"id_at_origin": 5}),
        ("document_ids", {"document_ids": ["no id"]}),
        ("document_ids", {"document_ids": str(uuid.uuid4())}),
        ("document_ids", {"document_ids": 5}),
        ("document_type", {"document_type": "novel"}),
        ("document_type", {"document_type": [["text"]]}),
        ("language", {"language": 5}),
        ("language", {"language": LONE}),
        ("date_from", {"date_from": dt.datetime(2020, 1, 1)}),
        ("date_to", {"date_to": "2020-01-01"}),
        ("metadata", {"metadata": []}),
        ("metadata", {"metadata": "a"}),
        ("metadata", {"metadata": {"a": {"$near": 1}}}),
        ("metadata", {"metadata": {"a": {"$gt": [1]}}}),
        ("metadata", {"metadata": {"a": NUL}}),
        ("metadata", {"metadata": {"a": {"$in": 5}}}),
        ("metadata", {"metadata": {"a": float("nan")}}),
        ("metadata", {"metadata": DEEP}),
        ("metadata", {"metadata": {"a": nested(201)}}),
        ("metadata", {"metadata": ENDLESS}),
    ]
    for field, given in cases:
        for work in (
            stack.documents.list(owner_id="acme", where=DocumentFilter(**given)),
            stack.documents.search(owner_id="acme", query="words", where=DocumentFilter(**given)),
            stack.documents.delete_many(owner_id="acme", where=DocumentFilter(**given)),
        ):
            with pytest.raises(ValidationError) as refused:
                await work
            assert refused.value.field == field, given
    assert (await stack.documents.list(owner_id="acme")).total == 1


async def test_other_bad_arguments_are_refused_by_their_name(stack: LLMStack) -> None:
    documents = stack.documents
    order: Any = "id"
    mode: Any = "magic"
    where: Any = {"metadata": {"a": 1}}
    for field, work in (
        ("where", documents.list(owner_id="acme", where=where)),
        ("where", documents.delete_many(owner_id="acme", where=where)),
        ("order_by", documents.list(owner_id="acme", order_by=order)),
        ("mode", documents.search(owner_id="acme", query="words", mode=mode)),
        ("query", documents.search(owner_id="acme", query=" \n")),
        ("chunk_id", documents.neighbours(owner_id="acme", chunk_id="no id")),
    ):
        with pytest.raises(ValidationError) as refused:
            await work
        assert refused.value.field == field
    result = await add(stack, "it", metadata={"a": 1})
    assert result.document is not None
    for metadata in ([1], None, {"a": {1}}, {"a": NUL}, {"a": "x" * 10_000_000}):
        bad: Any = metadata
        with pytest.raises(ValidationError, match="metadata"):
            await documents.update_metadata(owner_id="acme", document_id=result.document.id, metadata=bad)
    stored = await documents.get(owner_id="acme", document_id=result.document.id)
    assert stored.metadata_ == {"a": 1}


async def test_nothing_is_embedded_for_a_search_that_is_refused(stack: LLMStack, words: Words) -> None:
    bad: list[dict[str, Any]] = [
        {"limit": 0}, {"owner_id": ""}, {"mode": "magic"}, {"query": ""}, {"group_by": "chapter"},
        {"where": DocumentFilter(metadata={"$or": []})}, {"where": {"metadata": {"a": 1}}},
    ]  # fmt: skip
    for given in bad:
        with pytest.raises(ValidationError):
            await stack.documents.search(**{"owner_id": "acme", "query": "words", **given})
    assert words.calls == 0


async def test_the_longest_ids_are_stored_and_found(stack: LLMStack) -> None:
    # Random characters, which an index cannot compress.
    owner = "".join(uuid.uuid4().hex for _ in range(16))
    origin = "".join(uuid.uuid4().hex for _ in range(47))[:1500]
    words_of_many = "\n\n".join(f"passage{number}" for number in range(5))
    result = await add(stack, origin, words_of_many, owner_id=owner, chunking=str.split)
    assert (result.error, result.embedding_error) == (None, None)
    assert await found(stack, "passage3", owner_id=owner) == [origin]
    await stack.documents.settle()
    assert await counted(stack, Chunk) == 5


async def test_an_unmigrated_schema_says_what_to_do(stack: LLMStack) -> None:
    elsewhere = LLMStack(engine=stack.database.engine, schema="elsewhere", embedder="none")
    with pytest.raises(LLMStackError, match="llmstack migrate"):
        await elsewhere.documents.list(owner_id="acme")
    with pytest.raises(LLMStackError, match="llmstack migrate"):
        await add(elsewhere, "it")


async def test_a_word_that_grows_beyond_two_kilobytes_in_lower_case_is_stored_and_spoils_nothing(
    stack: LLMStack,
) -> None:
    grown = "\N{LATIN CAPITAL LETTER A WITH STROKE}" * 1000
    await stack.documents.add(owner_id="ann", id_at_origin="1", content=f"kettle {grown} water")
    assert await stack.documents.refresh_statistics() is not None
    (hit,) = await stack.documents.search(owner_id="ann", query="kettle", mode="text")
    assert hit.id_at_origin == "1"
