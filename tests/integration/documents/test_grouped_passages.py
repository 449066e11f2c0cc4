"""What becomes of the fused passages of documents: one for each document or parent, with their neighbours."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import pytest
from document_support import add, added, document, paragraphs
from sqlalchemy import event

from llmstack import LLMStack
from llmstack.documents import ChunkingConfig, DocumentFilter, DocumentHit
from llmstack.retrieval import Recency, SearchHits

SMALL = ChunkingConfig(chunk_size=40, parent_size=120, overlap=0)
MODES: list[Any] = ["text", "vector", "hybrid"]


async def search(stack: LLMStack, query: str = "tax", **more: Any) -> SearchHits[DocumentHit]:
    return await stack.documents.search(**{"owner_id": "acme", "query": query, **more})


async def put(stack: LLMStack, *inputs: Any) -> None:
    """Store documents and let their statistics come to rest, so that scores stay as they are."""
    await added(stack, inputs)
    await stack.documents.settle()


def origins(hits: Sequence[Any]) -> list[str]:
    return [hit.id_at_origin for hit in hits]


async def sections(stack: LLMStack) -> None:
    """A long document about tax in many passages, and two short ones."""
    long = "\n\n".join(f"# Part {n}\n\n" + f"tax law number{n} " * 25 for n in range(12))
    await put(
        stack,
        document("long", long, document_type="markdown", chunking_config=SMALL),
        document("short", "tax in a few words among others that say nothing of it"),
        document("other", "a law about other things, and tax"),
    )


@pytest.mark.parametrize("mode", MODES)
async def test_one_hit_for_each_document_is_its_best_passage(stack: LLMStack, mode: Any) -> None:
    await sections(stack)
    every = await search(stack, mode=mode, limit=100)
    assert origins(every).count("long") > 3
    grouped = await search(stack, mode=mode, group_by="document")
    firsts = {hit.id_at_origin: hit.id for hit in reversed(every)}
    assert {hit.id_at_origin: hit.id for hit in grouped} == firsts
    assert len(grouped) == 3
    assert {hit.id_at_origin: hit.passages for hit in grouped} == {
        name: origins(every).count(name) for name in ("long", "short", "other")
    }
    assert [hit.score for hit in grouped] == sorted((hit.score for hit in grouped), reverse=True)


@pytest.mark.parametrize("mode", MODES)
async def test_children_are_replaced_by_their_parent(stack: LLMStack, mode: Any) -> None:
    await sections(stack)
    every = {hit.ranked_id: hit for hit in await search(stack, mode=mode, limit=100)}
    grouped = await search(stack, mode=mode, group_by="parent", limit=100)
    long = await stack.documents.find(owner_id="acme", id_at_origin="long")
    assert long is not None
    parents = {chunk.id: chunk for chunk in await stack.documents.chunks(owner_id="acme", document_id=long.id, level=1)}
    assert parents
    of_long = [hit for hit in grouped if hit.id_at_origin == "long"]
    assert len({hit.id for hit in of_long}) == len(of_long) == len(parents)
    for hit in of_long:
        assert hit.content == parents[hit.id].content
        assert (hit.start_offset, hit.end_offset) == (
            parents[hit.id].start_offset,
            parents[hit.id].end_offset,
        )
        leaf = every[hit.ranked_id]
        assert hit.score == pytest.approx(leaf.score)
        assert leaf.parent_content == hit.content
    assert sum(hit.passages for hit in grouped) == len(every)


@pytest.mark.parametrize("number", [1, 2])
async def test_neighbours_come_along_in_reading_order(stack: LLMStack, number: int) -> None:
    await add(stack, "it", paragraphs("apple", "birch", "cedar", "daisy", "elm"), chunking_config=SMALL)
    hits = await search(stack, "cedar", mode="text", neighbours=number, limit=50)
    assert hits
    for hit in hits:
        around = await stack.documents.neighbours(owner_id="acme", chunk_id=hit.id, before=number, after=number)
        contents = [chunk.content for chunk in around]
        place = contents.index(hit.content)
        assert hit.before == tuple(contents[:place])
        assert hit.after == tuple(contents[place + 1 :])
    assert any(hit.before and hit.after for hit in hits)
    assert all(hit.before == () and hit.after == () for hit in await search(stack, "cedar", mode="text"))


async def test_neighbours_at_the_edges_and_of_parents(stack: LLMStack) -> None:
    await add(stack, "alone", "a lonely tax")
    (hit,) = await search(stack, mode="text", neighbours=3)
    assert (hit.before, hit.after) == ((), ())
    await sections(stack)
    hits = await search(stack, "number5", mode="text", group_by="parent", neighbours=1)
    around = [*hits[0].before, *hits[0].after]
    long = await stack.documents.find(owner_id="acme", id_at_origin="long")
    assert long is not None
    levels = await stack.documents.chunks(owner_id="acme", document_id=long.id, level=1)
    assert around
    assert set(around) <= {chunk.content for chunk in levels}


async def test_all_of_it_is_still_one_statement(stack: LLMStack) -> None:
    await sections(stack)
    await stack.documents.settle()
    seen: list[str] = []

    def note(*given: Any) -> None:
        seen.append(given[2])

    asked: dict[str, Any] = {
        "expand": ["law", "levy"],
        "recency": Recency(half_life=dt.timedelta(days=9)),
        "min_score": -5.0,
        "group_by": "parent",
        "neighbours": 2,
        "diversity": 0.3,
        "where": DocumentFilter(metadata={"$not": {"draft": True}}),
    }
    await search(stack, **asked)
    engine = stack.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        hits = await search(stack, **asked)
    finally:
        event.remove(engine, "before_cursor_execute", note)
    assert hits
    assert len([statement for statement in seen if "plan_cache_mode" not in statement]) == 1


async def test_another_owners_passages_are_in_none_of_it(stack: LLMStack) -> None:
    await sections(stack)
    text = "\n\n".join(f"# Part {n}\n\n" + "foreign tax " * 20 for n in range(6))
    await add(stack, "foreign", text, owner_id="umbrella", document_type="markdown", chunking_config=SMALL)
    for group_by in ("document", "parent", None):
        hits = await search(stack, group_by=group_by, neighbours=5, diversity=0.5, limit=100)
        shown = [text for hit in hits for text in (hit.content, *hit.before, *hit.after)]
        assert "foreign" not in origins(hits)
        assert not any("foreign" in text for text in shown)
