"""What happens to the fused rows: age, threshold, grouping, neighbours, rerankers, diversity."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Sequence
from typing import Any

import pytest
from document_support import MakeStack, Words, add, added, document, paragraphs
from sqlalchemy import event

from llmstack import LLMStack
from llmstack.documents import ChunkingConfig, DocumentFilter, DocumentHit
from llmstack.errors import ValidationError
from llmstack.retrieval import CallableReranker, Recency, SearchHits

SMALL = ChunkingConfig(chunk_size=40, parent_size=120, overlap=0)
MODES: list[Any] = ["text", "vector", "hybrid"]
NOW = dt.datetime.now(dt.UTC)


async def search(stack: LLMStack, query: str = "tax", **more: Any) -> SearchHits[DocumentHit]:
    return await stack.documents.search(**{"owner_id": "acme", "query": query, **more})


async def put(stack: LLMStack, *inputs: Any) -> None:
    """Store documents and let their statistics come to rest, so that scores stay as they are."""
    await added(stack, inputs)
    await stack.documents.settle()


def origins(hits: Sequence[Any]) -> list[str]:
    return [hit.id_at_origin for hit in hits]


async def dated(stack: LLMStack) -> None:
    """Equal texts of different ages, and a better one that is very old."""
    ages = {"new": 0, "month": 30, "year": 365}
    inputs = [
        document(name, "tax law and other words", document_date=NOW - dt.timedelta(days=days))
        for name, days in ages.items()
    ]
    old = document("old", "tax tax tax", document_date=NOW - dt.timedelta(days=20 * 365))
    await put(stack, *inputs, old)


@pytest.mark.parametrize("mode", MODES)
async def test_recency_lowers_the_score_by_its_formula(stack: LLMStack, mode: Any) -> None:
    await dated(stack)
    plain = {hit.id_at_origin: hit.score for hit in await search(stack, mode=mode)}
    assert len(plain) == 4
    recency = Recency(half_life=dt.timedelta(days=30), weight=2.0)
    aged = await search(stack, mode=mode, recency=recency)
    for hit in aged:
        days = {"new": 0, "month": 30, "year": 365, "old": 20 * 365}[hit.id_at_origin]
        assert hit.score == pytest.approx(plain[hit.id_at_origin] + 2.0 * (0.5 ** (days / 30) - 1), abs=1e-3)
    assert [hit.score for hit in aged] == sorted((hit.score for hit in aged), reverse=True)
    assert origins(aged).index("new") < origins(aged).index("month") < origins(aged).index("year")


async def test_recency_reaches_rows_beyond_the_page(stack: LLMStack) -> None:
    await dated(stack)
    assert origins(await search(stack, mode="text", limit=1)) == ["old"]
    recency = Recency(half_life=dt.timedelta(days=10), weight=50.0)
    assert origins(await search(stack, mode="text", limit=1, recency=recency)) == ["new"]


async def test_a_document_without_a_date_is_as_old_as_its_row_and_one_of_the_future_is_new(stack: LLMStack) -> None:
    future = document("future", "tax law", document_date=NOW + dt.timedelta(days=400))
    await put(stack, document("undated", "tax law"), future)
    plain = {hit.id_at_origin: hit.score for hit in await search(stack, mode="text")}
    aged = await search(stack, mode="text", recency=Recency(half_life=dt.timedelta(days=30), weight=5.0))
    assert {hit.id_at_origin: hit.score for hit in aged} == pytest.approx(plain, abs=1e-3)


@pytest.mark.parametrize("mode", MODES)
async def test_a_minimum_score_keeps_what_reaches_it(stack: LLMStack, mode: Any) -> None:
    await put(stack, *(document(f"d{n}", "tax " * (n + 1) + "words " * (9 - n)) for n in range(8)))
    every = await search(stack, mode=mode)
    least = every[3].score
    kept = await search(stack, mode=mode, min_score=least)
    assert origins(kept) == [hit.id_at_origin for hit in every if hit.score >= least]
    assert 4 <= len(kept) < len(every)
    assert await search(stack, mode=mode, min_score=1e6) == []


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


async def reversing(query: str, passages: list[str]) -> list[float]:
    return [float(place) for place in range(len(passages))]


async def test_a_reranker_sees_all_candidates_and_gives_the_order(stack: LLMStack) -> None:
    await put(stack, *(document(f"d{n:02}", "tax " * (n + 1) + "words " * (40 - n)) for n in range(30)))
    plain = await search(stack, mode="text", limit=1000)
    seen: list[int] = []

    def count(query: str, passages: list[str]) -> list[float]:
        assert query == "tax"
        seen.append(len(passages))
        return [float(place) for place in range(len(passages))]

    hits = await search(stack, mode="text", limit=5, candidates=20, reranker=CallableReranker(count))
    assert seen == [20]
    assert hits.reranked
    assert origins(hits) == origins(plain)[19:14:-1]
    assert [hit.score for hit in hits] == [19.0, 18.0, 17.0, 16.0, 15.0]
    assert [hit.fused_score for hit in hits] == [hit.score for hit in plain[19:14:-1]]


async def slow(query: str, passages: list[str]) -> list[float]:
    await asyncio.sleep(30)
    return await reversing(query, passages)


def blocked(query: str, passages: list[str]) -> list[float]:
    time.sleep(3)
    return [0.0] * len(passages)


FAILURES = {
    "slow": slow,
    "blocked": blocked,
    "broken": lambda query, passages: 1 / 0,
    "short": lambda query, passages: [1.0],
    "not a number": lambda query, passages: [float("nan")] * len(passages),
    "no numbers": lambda query, passages: ["high"] * len(passages),
    "nothing": lambda query, passages: None,
}


@pytest.mark.parametrize("fault", FAILURES)
async def test_the_fused_order_stands_when_the_reranker_does_not_answer(
    make_stack: MakeStack, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    stack = make_stack(rerank_timeout=0.2)
    await put(stack, *(document(f"d{n}", "secret tax " * (n + 1)) for n in range(5)))
    plain = await search(stack)
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        hits = await search(stack, reranker=CallableReranker(FAILURES[fault]), min_score=1e9)
    assert time.monotonic() - started < 2.0
    assert hits == list(plain)
    assert not hits.reranked
    assert "the fused order stands" in caplog.text
    assert "secret tax secret" not in caplog.text


async def test_a_minimum_score_is_the_rerankers_where_there_is_one(stack: LLMStack) -> None:
    await put(stack, *(document(f"d{n}", "tax " * (n + 1)) for n in range(5)))
    hits = await search(stack, reranker=CallableReranker(reversing), min_score=3.0)
    assert [hit.score for hit in hits] == [4.0, 3.0]


async def test_equal_scores_of_a_reranker_keep_the_fused_order(stack: LLMStack) -> None:
    await put(stack, *(document(f"d{n}", "tax " * (n + 1)) for n in range(5)))
    plain = await search(stack)
    same = CallableReranker(lambda query, passages: [1.0] * len(passages))
    assert origins(await search(stack, reranker=same)) == origins(plain)


@pytest.mark.parametrize("mode", MODES)
async def test_diversity_prefers_what_is_unlike_the_hits_before_it(stack: LLMStack, mode: Any) -> None:
    same = [document(f"same{n}", f"tax tax tax law law law copy{n}") for n in range(5)]
    other = document("other", "tax upon imported apples, cedars and birches from abroad by ship and by road")
    await put(stack, *same, other)
    assert "other" not in origins(await search(stack, "tax law", mode=mode, limit=2))
    hits = await search(stack, "tax law", mode=mode, limit=2, diversity=0.7)
    assert hits[0].id_at_origin.startswith("same")
    assert hits[1].id_at_origin == "other"
    assert all(hit.similarities == () for hit in hits)


async def test_no_diversity_is_the_plain_order_and_a_little_keeps_the_first(stack: LLMStack) -> None:
    await put(stack, *(document(f"d{n}", "tax " * (n + 1) + f"w{n}") for n in range(8)))
    plain = await search(stack)
    assert origins(await search(stack, diversity=0.0)) == origins(plain)
    some = await search(stack, diversity=0.4)
    assert some[0] == plain[0]
    assert sorted(origins(some)) == sorted(origins(plain))


async def test_diversity_follows_the_rerankers_order(stack: LLMStack) -> None:
    await put(stack, document("a1", "tax tax law"), document("a2", "tax tax law law"), document("b", "tax ships"))
    scores = {"tax ships": 1.0}
    reranker = CallableReranker(lambda query, passages: [scores.get(text.split("\n")[-1], 0.0) for text in passages])
    hits = await search(stack, "tax law", reranker=reranker, diversity=0.5)
    assert hits[0].id_at_origin == "b"


async def test_a_passage_without_a_vector_is_unlike_all(stack: LLMStack, words: Words) -> None:
    await add(stack, "one", "tax law")
    words.fault = lambda texts: 1 / 0
    await add(stack, "pending", "tax law too")
    words.fault = None
    hits = await search(stack, "tax law", mode="hybrid", diversity=0.5)
    assert sorted(origins(hits)) == ["one", "pending"]


async def test_another_owners_passages_are_in_none_of_it(stack: LLMStack) -> None:
    await sections(stack)
    text = "\n\n".join(f"# Part {n}\n\n" + "foreign tax " * 20 for n in range(6))
    await add(stack, "foreign", text, owner_id="umbrella", document_type="markdown", chunking_config=SMALL)
    for group_by in ("document", "parent", None):
        hits = await search(stack, group_by=group_by, neighbours=5, diversity=0.5, limit=100)
        shown = [text for hit in hits for text in (hit.content, *hit.before, *hit.after)]
        assert "foreign" not in origins(hits)
        assert not any("foreign" in text for text in shown)


BAD: dict[str, dict[str, Any]] = {
    "diversity": {"diversity": 1.5},
    "group_by": {"group_by": "owner"},
    "neighbours": {"neighbours": -1},
    "min_score": {"min_score": float("nan")},
    "candidates": {"candidates": 0},
    "reranker": {"reranker": "cohere"},
    "expand": {"expand": "one text"},
}


@pytest.mark.parametrize("field", BAD)
async def test_what_makes_no_sense_is_refused_before_anything_is_embedded(
    stack: LLMStack, words: Words, field: str
) -> None:
    with pytest.raises(ValidationError, match=field):
        await search(stack, **BAD[field])
    assert words.calls == 0


@pytest.mark.parametrize("half_life", [dt.timedelta(0), dt.timedelta(days=-1)])
def test_a_half_life_that_is_none_is_refused(half_life: dt.timedelta) -> None:
    with pytest.raises(ValidationError, match="half_life"):
        Recency(half_life=half_life)


async def test_searches_count_how_their_vector_leg_was_answered(stack: LLMStack) -> None:
    assert stack.documents.vector_paths == {}
    await add(stack, "it", "tax law")
    hits = await search(stack)
    await search(stack, mode="text")
    assert (hits.vector_path, hits.mode) == ("exact", "hybrid")
    assert stack.documents.vector_paths == {"exact": 1}
