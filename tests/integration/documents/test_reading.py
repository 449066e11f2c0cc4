"""Reading documents: identity, pages, chunks, neighbours, metadata, statistics; never another owner's."""

from __future__ import annotations

import base64
import datetime as dt
import json
import uuid
from collections import Counter
from typing import Any

import pytest
from document_support import MakeStack, Words, add, added, contents, document, found, paragraphs
from sqlalchemy import event, text
from sqlalchemy.dialects import postgresql

from llmstack import LLMStack
from llmstack.documents import (
    ChunkingConfig,
    ChunkNotFound,
    Document,
    DocumentFilter,
    DocumentNotFound,
    DocumentRepository,
    queries,
)
from llmstack.errors import ValidationError
from llmstack.settings import Settings

SMALL = ChunkingConfig(chunk_size=40, overlap=0, parent_size=80)


async def test_a_document_is_found_by_id_in_either_form_and_by_origin(stack: LLMStack) -> None:
    result = await add(stack, "it", metadata={"a": 1})
    assert result.document is not None
    by_id = await stack.documents.get(owner_id="acme", document_id=result.document.id)
    by_text = await stack.documents.get(owner_id="acme", document_id=str(result.document.id))
    by_origin = await stack.documents.find(owner_id="acme", id_at_origin="it")
    assert by_origin is not None
    assert by_id.id == by_text.id == by_origin.id == result.document.id
    assert await stack.documents.find(owner_id="acme", id_at_origin="another") is None


async def test_another_owners_document_is_as_good_as_absent(stack: LLMStack) -> None:
    result = await add(stack, "it", "a lonely giraffe")
    assert result.document is not None
    (chunk,) = await stack.documents.chunks(owner_id="acme", document_id=result.document.id)
    documents = stack.documents

    async def outcomes(owner_id: str, document_id: uuid.UUID, chunk_id: uuid.UUID) -> list[Any]:
        seen: list[Any] = []
        for work in (
            documents.get(owner_id=owner_id, document_id=document_id),
            documents.text(owner_id=owner_id, document_id=document_id),
            documents.chunks(owner_id=owner_id, document_id=document_id),
            documents.neighbours(owner_id=owner_id, chunk_id=chunk_id),
            documents.update_metadata(owner_id=owner_id, document_id=document_id, metadata={"b": 2}),
            documents.rechunk(owner_id=owner_id, document_id=document_id),
        ):
            with pytest.raises(LookupError) as refused:
                await work
            seen.append((type(refused.value), str(refused.value).replace(str(document_id), "id")))
        seen += [
            await documents.find(owner_id=owner_id, id_at_origin="it"),
            await documents.delete(owner_id=owner_id, document_id=document_id),
            await documents.delete_many(owner_id=owner_id, where=DocumentFilter(document_ids=[document_id])),
            await documents.restore(owner_id=owner_id, document_id=document_id),
            await documents.purge(owner_id=owner_id),
            (await documents.list(owner_id=owner_id)).total,
            await found(stack, "giraffe", owner_id=owner_id),
            (await documents.statistics(owner_id=owner_id)).documents,
        ]
        return [str(item).replace(str(chunk_id), "chunk") for item in seen]

    theirs = await outcomes("umbrella", result.document.id, chunk.id)
    assert theirs == await outcomes("umbrella", uuid.uuid4(), uuid.uuid4())
    assert await found(stack, "giraffe") == ["it"]
    document = await documents.get(owner_id="acme", document_id=result.document.id)
    assert document.metadata_ == {}


@pytest.mark.parametrize("order_by", ["created_at", "updated_at", "name"])
@pytest.mark.parametrize("descending", [True, False])
async def test_pages_show_every_document_once_in_order_while_others_are_added(
    stack: LLMStack, order_by: Any, descending: bool
) -> None:
    names = [f"n{number:02}" for number in range(23)]
    await added(stack, [document(name, document_name=name) for name in names[:12]])
    await added(stack, [document(name, document_name="same name") for name in names[12:]])
    seen: list[Document] = []
    cursor, more = None, 0
    while True:
        page = await stack.documents.list(
            owner_id="acme", order_by=order_by, descending=descending, limit=4, cursor=cursor
        )
        assert page.total == 23 + more
        seen += page.items
        await added(stack, [document(f"late{more}", document_name=f"n0{more}"), document(f"z{more}")])
        more += 2
        if (cursor := page.cursor) is None:
            break
        assert len(page.items) == 4
    shown = [item.id_at_origin for item in seen if item.id_at_origin in names]
    assert sorted(shown) == names
    assert len({item.id for item in seen}) == len(seen)
    keys = [(getattr(item, order_by), item.id) for item in seen]
    assert keys == sorted(keys, reverse=descending)


async def test_an_empty_page_still_knows_the_total(stack: LLMStack) -> None:
    assert await stack.documents.list(owner_id="acme") == type(await stack.documents.list(owner_id="acme"))(
        items=[], total=0, cursor=None
    )
    results = await added(stack, [document(f"d{number}") for number in range(4)])
    page = await stack.documents.list(owner_id="acme", limit=2, descending=False)
    for result in results[2:]:
        assert result.document is not None
        await stack.documents.delete(owner_id="acme", document_id=result.document.id)
    empty = await stack.documents.list(owner_id="acme", limit=2, descending=False, cursor=page.cursor)
    assert (list(empty.items), empty.total, empty.cursor) == ([], 2, None)


async def test_a_list_shows_what_its_filter_asks_for(stack: LLMStack) -> None:
    moments = [dt.datetime(year, 1, 1, tzinfo=dt.UTC) for year in (2020, 2021, 2022)]
    results = await added(
        stack,
        [
            document("a", document_type="text", language="en", document_date=moments[0], metadata={"n": 1}),
            document("b", document_type="code", language="de", document_date=moments[1], metadata={"n": 2}),
            document("c", document_type="text", language="de", document_date=moments[2], metadata={"n": 3}),
            document("d"),
        ],
    )
    ids = {result.id_at_origin: result.document.id for result in results if result.document}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"id_at_origin": "b"}, "b"),
        ({"id_at_origin": ["a", "c", "x"]}, "ac"),
        ({"id_at_origin": []}, ""),
        ({"document_ids": [ids["a"], str(ids["d"])]}, "ad"),
        ({"document_type": "text"}, "ac"),
        ({"document_type": ("text", "code")}, "abc"),
        ({"language": "german"}, "bc"),
        ({"language": ["de", "en"]}, "abcd"),
        ({"date_from": moments[1]}, "bc"),
        ({"date_to": moments[1]}, "ab"),
        (
            {"date_from": moments[1].astimezone(dt.timezone(dt.timedelta(hours=5))), "date_to": moments[1]},
            "b",
        ),
        ({"metadata": {"n": 2}}, "b"),
        ({"metadata": {"n": {"$gte": 2}}, "document_type": "text"}, "c"),
        ({"metadata": {}}, "abcd"),
    ]
    for given, wanted in cases:
        where = DocumentFilter(**given)
        page = await stack.documents.list(owner_id="acme", where=where, order_by="name", descending=False)
        assert "".join(item.id_at_origin for item in page.items) == wanted, given
        assert page.total == len(wanted)
        assert "".join(await found(stack, "words", where=where)) == wanted, given


async def test_filters_take_more_values_than_a_statement_takes_parameters(stack: LLMStack) -> None:
    (result,) = await added(stack, [document("it", metadata={"n": 39_999})])
    assert result.document is not None
    many = range(40_000)
    where = DocumentFilter(
        id_at_origin=["it", *map(str, many)],
        document_ids=[result.document.id, *(uuid.UUID(int=number) for number in many)],
        metadata={"n": {"$in": list(many), "$nin": [-number for number in many]}},
    )
    assert (await stack.documents.list(owner_id="acme", where=where)).total == 1


def _cursor(*parts: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


_ID = str(uuid.uuid4())
_STRANGE: list[Any] = [
    "", "nonsense", "ünï", "\ud800", 5, _cursor(), _cursor("name", "x", _ID),
    _cursor("created_at", "2020-01-01T00:00:00", _ID), _cursor("created_at", 5, _ID),
    _cursor("created_at", "2020-01-01T00:00:00+00:00", "no id"),
    _cursor("created_at", "2020-01-01T00:00:00+00:00", 7),
    _cursor("created_at", "0001-01-01T00:00:00+05:00", _ID),
]  # fmt: skip


async def test_a_cursor_that_no_list_gave_is_refused(stack: LLMStack) -> None:
    for cursor in _STRANGE:
        with pytest.raises(ValidationError) as refused:
            await stack.documents.list(owner_id="acme", cursor=cursor)
        assert refused.value.field == "cursor"
    for name in (5, "a\x00b", None):
        with pytest.raises(ValidationError):
            await stack.documents.list(owner_id="acme", order_by="name", cursor=_cursor("name", name, _ID))


async def test_chunks_come_in_reading_order_leaves_or_parents_or_both(stack: LLMStack) -> None:
    text = "\n\n".join(f"Sentence number {number} about nothing in particular." for number in range(60))
    result = await add(stack, "it", text, document_type="text", chunking_config=SMALL)
    leaves, parents = await contents(stack, result), await contents(stack, result, level=1)
    assert len(leaves) > len(parents) > 1
    assert "".join("".join(leaves).split()) == "".join(text.split())
    assert result.document is not None
    both = await stack.documents.chunks(owner_id="acme", document_id=result.document.id, level=None)
    above = {chunk.id: place for place, chunk in enumerate(both) if chunk.level == 1}
    assert all(above[chunk.parent_id] < place for place, chunk in enumerate(both) if chunk.parent_id)


async def test_neighbours_are_the_leaves_around_a_passage(stack: LLMStack) -> None:
    result = await add(stack, "it", " ".join("abcdefg"), chunking=str.split)
    await add(stack, "other", " ".join("abcdefg"), chunking=str.split)
    assert result.document is not None
    chunks = await stack.documents.chunks(owner_id="acme", document_id=result.document.id)

    async def around(place: int, **more: int) -> str:
        shown = await stack.documents.neighbours(owner_id="acme", chunk_id=chunks[place].id, **more)
        return "".join(chunk.content for chunk in shown)

    assert await around(3) == "cde"
    assert await around(3, before=2, after=0) == "bcd"
    assert await around(0) == "ab"
    assert await around(6, before=100, after=100) == "abcdefg"
    assert await around(2, before=0, after=0) == "c"
    with pytest.raises(ChunkNotFound):
        await stack.documents.neighbours(owner_id="acme", chunk_id=uuid.uuid4())


async def test_neighbours_are_counted_sensibly(stack: LLMStack) -> None:
    numbers: list[Any] = [-1, 10**9, 10**30, True, 1.5, None]
    for given in [*({"before": number} for number in numbers), *({"after": number} for number in numbers)]:
        with pytest.raises(ValidationError) as refused:
            await stack.documents.neighbours(owner_id="acme", chunk_id=uuid.uuid4(), **given)
        assert refused.value.field in given


async def test_metadata_is_merged_or_replaced_and_filters_see_it_at_once(stack: LLMStack, words: Words) -> None:
    result = await add(stack, "it", "some words", metadata={"team": "hr", "year": 1})
    assert result.document is not None
    key: dict[str, Any] = {"owner_id": "acme", "document_id": result.document.id}
    calls = words.calls
    merged = await stack.documents.update_metadata(**key, metadata={"year": 2, "tags": ["x"]})
    assert merged.metadata_ == {"team": "hr", "year": 2, "tags": ["x"]}
    assert merged.updated_at > result.document.updated_at
    assert words.calls == calls
    assert await found(stack, "words", mode="text", where=DocumentFilter(metadata={"year": 2})) == ["it"]
    assert await found(stack, "words", mode="text", where=DocumentFilter(metadata={"year": 1})) == []
    replaced = await stack.documents.update_metadata(**key, metadata={"only": None}, replace=True)
    assert replaced.metadata_ == {"only": None}
    assert (await stack.documents.get(**key)).metadata_ == {"only": None}


async def test_metadata_cannot_grow_over_its_limit_by_merging(make_stack: MakeStack) -> None:
    stack = make_stack(max_metadata_bytes=100)
    result = await add(stack, "it", metadata={"a": "x" * 60})
    assert result.document is not None
    with pytest.raises(ValidationError, match="max_metadata_bytes"):
        await stack.documents.update_metadata(owner_id="acme", document_id=result.document.id, metadata={"b": "x" * 60})
    stored = await stack.documents.get(owner_id="acme", document_id=result.document.id)
    assert stored.metadata_ == {"a": "x" * 60}


async def test_statistics_are_what_a_count_finds(stack: LLMStack, words: Words) -> None:
    texts = {f"d{number}": paragraphs("apple", "birch", f"w{number}", size=number + 5) for number in range(9)}
    kinds, languages = ["text", "markdown", "code"], ["english", "german"]
    inputs = [
        document(
            origin,
            content,
            document_type=kinds[place % 3],
            language=languages[place % 2],
            chunking_config=SMALL,
        )
        for place, (origin, content) in enumerate(texts.items())
    ]
    results = await added(stack, inputs)
    words.fault = lambda texts: 1 / 0
    late = await add(stack, "late", "without a vector", document_type="text")
    await add(stack, "foreign", owner_id="umbrella")
    assert results[0].document is not None
    await stack.documents.delete(owner_id="acme", document_id=results[0].document.id)

    living = [result.document for result in [*results[1:], late] if result.document]
    chunks = [chunk for item in living for chunk in await stack.documents.chunks(owner_id="acme", document_id=item.id)]
    counted = await stack.documents.statistics(owner_id="acme")
    assert counted.documents == len(living) == 9
    assert counted.bytes == sum(item.content_bytes for item in living)
    assert counted.chunks == len(chunks)
    assert counted.tokens == sum(chunk.token_count for chunk in chunks)
    assert counted.by_type == Counter(item.document_type for item in living)
    assert counted.by_language == Counter(item.language for item in living)
    assert counted.embedded == {"words": len(chunks) - 1}
    assert counted.coverage("words") == (len(chunks) - 1) / len(chunks)


async def test_an_owner_without_documents_has_statistics_too(stack: LLMStack) -> None:
    counted = await stack.documents.statistics(owner_id="nobody")
    assert (counted.documents, counted.chunks, counted.tokens, counted.bytes) == (0, 0, 0, 0)
    assert (counted.by_type, counted.by_language, counted.embedded) == ({}, {}, {})
    assert counted.coverage("words") == 1.0


async def test_a_repository_works_in_the_callers_transaction(stack: LLMStack) -> None:
    result = await add(stack, "it", "some words", metadata={"a": 1})
    assert result.document is not None
    document_id = result.document.id
    async with stack.service.session() as session:
        documents = DocumentRepository(session)
        assert await documents.delete(owner_id="acme", document_id=document_id) == 1
        assert await documents.find(owner_id="acme", id_at_origin="it") is None
        with pytest.raises(DocumentNotFound):
            await documents.get(owner_id="acme", document_id=document_id)
        await session.rollback()
    assert (await stack.documents.get(owner_id="acme", document_id=document_id)).deleted_at is None


async def test_the_default_page_is_read_in_the_order_of_an_index(stack: LLMStack) -> None:
    statement = """
        INSERT INTO llmstack.documents (id, owner_id, id_at_origin, name, document_type, language,
            content_hash, content_bytes, chunking, created_at)
        SELECT gen_random_uuid(), 'owner' || n % 2, n, 'many', 'text', 'english', '', 0, '{}',
            now() - n * interval '1 second'
        FROM generate_series(1, 10000) AS n
    """
    page = queries.page_of_documents(
        "owner1", DocumentFilter(), order_by="created_at", descending=True, limit=50, cursor=None, deleted=False
    )
    explained = page.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})  # type: ignore[no-untyped-call]
    async with stack.service.session() as session:
        await session.execute(text(statement))
        await session.execute(text("ANALYZE llmstack.documents"))
        plan = "\n".join(await session.scalars(text(f"EXPLAIN {explained}".replace(":", "\\:"))))
    assert "Index Scan Backward using ix_documents_owner_id_created_at_id" in plan


async def test_a_text_is_read_in_one_statement_so_that_no_purge_comes_between(stack: LLMStack) -> None:
    result = await add(stack, "it", "a lonely giraffe")
    assert result.document is not None
    await stack.documents.settle()
    seen: list[str] = []

    def note(*given: Any) -> None:
        seen.append(given[2])

    engine = stack.database.engine.sync_engine
    async with stack.service.session() as session:
        documents = DocumentRepository(session)
        event.listen(engine, "before_cursor_execute", note)
        try:
            assert await documents.text(owner_id="acme", document_id=result.document.id) == "a lonely giraffe"
        finally:
            event.remove(engine, "before_cursor_execute", note)
        await stack.documents.delete(owner_id="acme", document_id=result.document.id)
        with pytest.raises(DocumentNotFound):
            await documents.text(owner_id="acme", document_id=result.document.id)
    assert len(seen) == 1


async def test_a_repository_reads_the_environment_once(stack: LLMStack, monkeypatch: pytest.MonkeyPatch) -> None:
    async with stack.service.session() as session:
        DocumentRepository(session)
        monkeypatch.setenv("LLMSTACK_MAX_METADATA_BYTES", "not a number")
        DocumentRepository(session)
        with pytest.raises(ValueError, match="max_metadata_bytes"):
            Settings()


async def test_search_finds_what_is_dated_from_and_to_and_nothing_else(stack: LLMStack) -> None:
    moments = [dt.datetime(2024, month, 1, tzinfo=dt.UTC) for month in (1, 2, 3)]
    dated = [document(f"m{moment.month}", "same words", document_date=moment) for moment in moments]
    await added(stack, [*dated, document("undated", "same words")])
    second = dt.timedelta(seconds=1)
    expected: list[tuple[dict[str, Any], list[str]]] = [
        ({}, ["m1", "m2", "m3", "undated"]),
        ({"date_from": moments[1]}, ["m2", "m3"]),
        ({"date_from": moments[1] + second}, ["m3"]),
        ({"date_to": moments[1]}, ["m1", "m2"]),
        ({"date_to": moments[1] - second}, ["m1"]),
        ({"date_from": moments[1], "date_to": moments[1]}, ["m2"]),
        ({"date_from": moments[2] + second}, []),
        ({"date_to": moments[0] - second}, []),
        ({"date_from": moments[2], "date_to": moments[0]}, []),
    ]
    for mode in ("text", "vector", "hybrid"):
        for dates, origins in expected:
            assert await found(stack, "words", mode=mode, where=DocumentFilter(**dates)) == origins, (mode, dates)
