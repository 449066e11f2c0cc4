"""What happens to the fused rows: age, threshold, grouping, neighbours, rerankers, diversity."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from typing import Any

import pytest
from corpus_support import MakeWorld, Text, World, units, write
from document_support import Words

from llmstack.errors import ValidationError
from llmstack.retrieval import CallableReranker, Recency, SearchHits

MODES: list[Any] = ["text", "vector", "hybrid"]
NOW = dt.datetime.now(dt.UTC)


async def search(world: World, query: str = "tax", **more: Any) -> SearchHits[Any]:
    return await world.corpus.search(**{"owner_id": "acme", "query": query, **more})


def scored(world: World, hits: SearchHits[Any]) -> dict[str, float]:
    return dict(zip(units(world, hits), (hit.score for hit in hits), strict=True))


async def put(world: World, *texts: Text) -> None:
    """Store rows and let their statistics come to rest, so that scores stay as they are."""
    await write(world, texts)
    await world.corpus.settle()


async def dated(world: World) -> None:
    """Equal texts of different ages, and a better one that is very old."""
    ages = {"new": 0, "month": 30, "year": 365}
    inputs = [
        Text(name, "tax law and other words", moment=NOW - dt.timedelta(days=days)) for name, days in ages.items()
    ]
    old = Text("old", "tax tax tax", moment=NOW - dt.timedelta(days=20 * 365))
    await put(world, *inputs, old)


@pytest.mark.parametrize("mode", MODES)
async def test_recency_lowers_the_score_by_its_formula(world: World, mode: Any) -> None:
    await dated(world)
    plain = scored(world, await search(world, mode=mode))
    assert len(plain) == 4
    recency = Recency(half_life=dt.timedelta(days=30), weight=2.0)
    aged = await search(world, mode=mode, recency=recency)
    for unit, hit in zip(units(world, aged), aged, strict=True):
        days = {"new": 0, "month": 30, "year": 365, "old": 20 * 365}[unit]
        assert hit.score == pytest.approx(plain[unit] + 2.0 * (0.5 ** (days / 30) - 1), abs=1e-3)
    assert [hit.score for hit in aged] == sorted((hit.score for hit in aged), reverse=True)
    assert units(world, aged).index("new") < units(world, aged).index("month") < units(world, aged).index("year")


async def test_recency_reaches_rows_beyond_the_page(world: World) -> None:
    await dated(world)
    assert units(world, await search(world, mode="text", limit=1)) == ["old"]
    recency = Recency(half_life=dt.timedelta(days=10), weight=50.0)
    assert units(world, await search(world, mode="text", limit=1, recency=recency)) == ["new"]


async def test_a_document_without_a_date_is_as_old_as_its_row_and_one_of_the_future_is_new(world: World) -> None:
    future = Text("future", "tax law", moment=NOW + dt.timedelta(days=400))
    await put(world, Text("undated", "tax law"), future)
    plain = scored(world, await search(world, mode="text"))
    aged = await search(world, mode="text", recency=Recency(half_life=dt.timedelta(days=30), weight=5.0))
    assert scored(world, aged) == pytest.approx(plain, abs=1e-3)


@pytest.mark.parametrize("mode", MODES)
async def test_a_minimum_score_keeps_what_reaches_it(world: World, mode: Any) -> None:
    await put(world, *(Text(f"d{n}", "tax " * (n + 1) + "words " * (9 - n)) for n in range(8)))
    every = await search(world, mode=mode)
    least = every[3].score
    kept = await search(world, mode=mode, min_score=least)
    assert units(world, kept) == units(world, [hit for hit in every if hit.score >= least])
    assert 4 <= len(kept) < len(every)
    assert await search(world, mode=mode, min_score=1e6) == []


async def reversing(query: str, passages: list[str]) -> list[float]:
    return [float(place) for place in range(len(passages))]


async def test_a_reranker_sees_all_candidates_and_gives_the_order(world: World) -> None:
    await put(world, *(Text(f"d{n:02}", "tax " * (n + 1) + "words " * (40 - n)) for n in range(30)))
    plain = await search(world, mode="text", limit=1000)
    seen: list[int] = []

    def count(query: str, passages: list[str]) -> list[float]:
        assert query == "tax"
        seen.append(len(passages))
        return [float(place) for place in range(len(passages))]

    hits = await search(world, mode="text", limit=5, candidates=20, reranker=CallableReranker(count))
    assert seen == [20]
    assert hits.reranked
    assert units(world, hits) == units(world, plain)[19:14:-1]
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
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    world = make_world(rerank_timeout=0.2)
    await put(world, *(Text(f"d{n}", "secret tax " * (n + 1)) for n in range(5)))
    plain = await search(world)
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        hits = await search(world, reranker=CallableReranker(FAILURES[fault]), min_score=1e9)
    assert time.monotonic() - started < 2.0
    assert hits == list(plain)
    assert not hits.reranked
    assert "the fused order stands" in caplog.text
    assert "secret tax secret" not in caplog.text


async def test_a_minimum_score_is_the_rerankers_where_there_is_one(world: World) -> None:
    await put(world, *(Text(f"d{n}", "tax " * (n + 1)) for n in range(5)))
    hits = await search(world, reranker=CallableReranker(reversing), min_score=3.0)
    assert [hit.score for hit in hits] == [4.0, 3.0]


async def test_equal_scores_of_a_reranker_keep_the_fused_order(world: World) -> None:
    await put(world, *(Text(f"d{n}", "tax " * (n + 1)) for n in range(5)))
    plain = await search(world)
    same = CallableReranker(lambda query, passages: [1.0] * len(passages))
    assert units(world, await search(world, reranker=same)) == units(world, plain)


@pytest.mark.parametrize("mode", MODES)
async def test_diversity_prefers_what_is_unlike_the_hits_before_it(world: World, mode: Any) -> None:
    same = [Text(f"same{n}", f"tax tax tax law law law copy{n}") for n in range(5)]
    other = Text("other", "tax upon imported apples, cedars and birches from abroad by ship and by road")
    await put(world, *same, other)
    assert "other" not in units(world, await search(world, "tax law", mode=mode, limit=2))
    hits = await search(world, "tax law", mode=mode, limit=2, diversity=0.7)
    first, second = units(world, hits)
    assert first.startswith("same")
    assert second == "other"
    assert all(hit.similarities == () for hit in hits)


async def test_no_diversity_is_the_plain_order_and_a_little_keeps_the_first(world: World) -> None:
    await put(world, *(Text(f"d{n}", "tax " * (n + 1) + f"w{n}") for n in range(8)))
    plain = await search(world)
    assert units(world, await search(world, diversity=0.0)) == units(world, plain)
    some = await search(world, diversity=0.4)
    assert some[0] == plain[0]
    assert sorted(units(world, some)) == sorted(units(world, plain))


async def test_diversity_follows_the_rerankers_order(world: World) -> None:
    await put(world, Text("a1", "tax tax law"), Text("a2", "tax tax law law"), Text("b", "tax ships"))
    scores = {"tax ships": 1.0}
    reranker = CallableReranker(lambda query, passages: [scores.get(text.split("\n")[-1], 0.0) for text in passages])
    hits = await search(world, "tax law", reranker=reranker, diversity=0.5)
    assert units(world, hits)[0] == "b"


async def test_a_passage_without_a_vector_is_unlike_all(world: World, words: Words) -> None:
    await world.add({"one": "tax law"})
    words.fault = lambda texts: 1 / 0
    await world.add({"pending": "tax law too"})
    words.fault = None
    hits = await search(world, "tax law", mode="hybrid", diversity=0.5)
    assert sorted(units(world, hits)) == ["one", "pending"]


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
    world: World, words: Words, field: str
) -> None:
    with pytest.raises(ValidationError, match=field):
        await search(world, **BAD[field])
    assert words.calls == 0


@pytest.mark.parametrize("half_life", [dt.timedelta(0), dt.timedelta(days=-1)])
def test_a_half_life_that_is_none_is_refused(half_life: dt.timedelta) -> None:
    with pytest.raises(ValidationError, match="half_life"):
        Recency(half_life=half_life)


async def test_searches_count_how_their_vector_leg_was_answered(world: World) -> None:
    assert world.corpus.vector_paths == {}
    await world.add({"it": "tax law"})
    hits = await search(world)
    await search(world, mode="text")
    assert (hits.vector_path, hits.mode) == ("exact", "hybrid")
    assert world.corpus.vector_paths == {"exact": 1}


@pytest.mark.parametrize("kind", ["notes"], indirect=True)
async def test_rows_are_grouped_and_followed_as_their_corpus_says(world: World) -> None:
    await world.add({f"n{number}": f"tax number{number} " + "law " * number for number in range(5)})
    (best,) = await search(world, group_by="folder", neighbours=2)
    every = await search(world, neighbours=1)
    assert (best.slug, best.passages) == (units(world, every)[0], 5)
    around = {hit.slug: (hit.before, hit.after) for hit in every}
    texts = {hit.slug: hit.content for hit in every}
    assert around["n0"] == ((), (texts["n1"],))
    assert around["n2"] == ((texts["n1"],), (texts["n3"],))
    assert around["n4"] == ((texts["n3"],), ())
