"""BM25 in SQL equals BM25 in Python."""

from __future__ import annotations

import random
from typing import Any

import pytest
from search_support import (
    Passage,
    add_passages,
    bm25,
    contents_of,
    dimension,
    document_weights,
    refresh,
    search,
)
from sqlalchemy import Text, cast, literal
from sqlalchemy import select as sql_select
from sqlalchemy.dialects.postgresql import REAL
from sqlalchemy.ext.asyncio import AsyncSession

from llmstack.db import Service
from llmstack.db.schemas import schema_function
from llmstack.search import SearchOptions

WORDS = [f"w{tens}{ones}" for tens in "abcdef" for ones in "bcdfghjklm"]


def a_corpus(size: int, *, seed: int = 7) -> list[Passage]:
    """Texts of Zipf-like words, some with a context."""
    chosen = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(len(WORDS))]

    def words(most: int) -> str:
        return " ".join(chosen.choices(WORDS, weights, k=chosen.randint(1, most)))

    return [Passage(words(150), context=words(5) if number % 2 else "") for number in range(size)]


async def weights_in_sql(
    session: AsyncSession,
    content: str,
    context: str = "",
    *,
    owner_id: str = "acme",
    k1: float = 1.2,
    b: float = 0.75,
    average: float = 100.0,
    title: float = 1.0,
) -> dict[int, float]:
    parts = (owner_id, "simple", context, content)
    document = schema_function("search_document", *(cast(literal(part), Text) for part in parts))
    numbers = (cast(literal(number), REAL) for number in (k1, b, average, title))
    found = await session.scalar(sql_select(cast(schema_function("bm25_weights", document, *numbers), Text)))
    assert found is not None
    entries, dimensions = found.removeprefix("{").split("}/")
    assert dimensions == str(2**28)
    pairs = (entry.split(":") for entry in entries.split(",") if entry)
    return {int(place): float(weight) for place, weight in pairs}


def by_dimension(weights: dict[str, float]) -> Any:
    return pytest.approx({dimension(word): weight for word, weight in weights.items()}, abs=6e-5)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"k1": 0.9, "b": 0.4},
        {"k1": 2.0, "b": 0.0},
        {"average": 7.0},
        {"title": 3.0},
        {"title": 0.5},
        {"title": 0.0},
    ],
)
async def test_the_weights_of_a_document_are_those_of_the_formula(
    llmstack_session: AsyncSession, parameters: dict[str, Any]
) -> None:
    content, context = "tax law tax tax court reform", "tax handbook"
    found = await weights_in_sql(llmstack_session, content, context, **parameters)
    assert found == by_dimension(document_weights(content, context, **parameters))


async def test_the_owner_has_no_weight_and_no_length(llmstack_session: AsyncSession) -> None:
    first = await weights_in_sql(llmstack_session, "tax law", owner_id="a")
    assert first == await weights_in_sql(llmstack_session, "tax law", owner_id="another owner")
    assert set(first) == {dimension("tax"), dimension("law")}
    assert await weights_in_sql(llmstack_session, "") == {}


async def test_words_that_share_a_dimension_add_their_weights(llmstack_session: AsyncSession) -> None:
    seen: dict[int, str] = {}
    pair = None
    for number in range(200_000):
        word = f"c{number}"
        if (other := seen.setdefault(dimension(word), word)) != word:
            pair = other, word
            break
    assert pair is not None
    found = await weights_in_sql(llmstack_session, f"{pair[0]} {pair[1]} {pair[1]}")
    expected = document_weights(f"{pair[0]} {pair[1]} {pair[1]}")
    assert found == {dimension(pair[0]): pytest.approx(sum(expected.values()), abs=6e-5)}


async def test_a_text_of_more_words_than_a_sparse_vector_holds_keeps_the_heaviest(
    llmstack_session: AsyncSession,
) -> None:
    many = " ".join(f"n{number}" for number in range(17_000))
    found = await weights_in_sql(llmstack_session, f"again again {many}", average=20_000.0)
    assert len(found) == 16_000
    assert found[dimension("again")] > 1.2 * min(found.values())


@pytest.mark.parametrize(
    "query", ["wab", "waf web", "wac wac wac wdb", "wfm wad wad wfl", "wab wac wad waf wag wah waj", "wak unknown"]
)
async def test_a_ranking_is_that_of_the_formula(llmstack_service: Service, query: str) -> None:
    passages = a_corpus(120)
    ids = await add_passages(llmstack_service, passages)
    for known in (False, True):
        if known:
            await refresh(llmstack_service)
        scores = bm25(query, passages, known=known)
        rows = await search(llmstack_service, query=query, limit=120)
        expected = {id_: score for id_, score in zip(ids, scores, strict=True) if score > 0}
        assert {row.id: row.score for row in rows} == pytest.approx(expected, rel=1e-3)
        assert [row.id for row in rows] == sorted(
            (row.id for row in rows), key=lambda id_: (-next(r.score for r in rows if r.id == id_), id_)
        )


async def test_a_repeated_word_of_the_query_counts_as_often_as_it_is_said(llmstack_service: Service) -> None:
    await add_passages(llmstack_service, [Passage("tax law"), Passage("court law")])
    (once,) = [row.score for row in await search(llmstack_service, query="tax")]
    (thrice,) = [row.score for row in await search(llmstack_service, query="tax tax tax")]
    assert thrice == pytest.approx(3 * once, rel=1e-6)


async def test_statistics_older_than_the_rows_never_make_a_word_count_against_a_text(
    llmstack_service: Service,
) -> None:
    await add_passages(llmstack_service, [Passage("tax law"), Passage("tax court")])
    await refresh(llmstack_service)
    await add_passages(llmstack_service, [Passage(f"tax tax number {number}") for number in range(30)])
    rows = await search(llmstack_service, query="tax", limit=100)
    assert len(rows) == 32
    assert all(row.score > 0 for row in rows)


@pytest.mark.parametrize("budget", [0, 1, 5, 100_000])
async def test_a_budget_bounds_the_work_and_never_a_page(llmstack_service: Service, budget: int) -> None:
    passages = a_corpus(150)
    await add_passages(llmstack_service, passages)
    await refresh(llmstack_service)
    options = SearchOptions(budget=budget, candidates=10)
    rows = await search(llmstack_service, query="wab wfb", limit=10, options=options)
    assert len(rows) == 10
    scores = sorted(bm25("wab wfb", passages), reverse=True)
    if budget == 100_000:
        assert [row.score for row in rows] == pytest.approx(scores[:10], rel=1e-3)


async def test_an_owner_finds_common_words_though_the_rare_one_is_a_strangers(
    llmstack_service: Service,
) -> None:
    strangers = [Passage(f"zeta number {number}", owner_id="stranger") for number in range(60)]
    own = [Passage(f"contract number {number}") for number in range(80)]
    await add_passages(llmstack_service, [*strangers, *own])
    await refresh(llmstack_service)
    options = SearchOptions(budget=1, candidates=5)
    rows = await search(llmstack_service, query="zeta contract", limit=5, options=options)
    assert len(rows) == 5


async def test_an_owner_newer_than_the_statistics_is_ranked_by_all_words(llmstack_service: Service) -> None:
    await add_passages(llmstack_service, [Passage("tax law", owner_id="old") for _ in range(40)])
    await refresh(llmstack_service)
    await add_passages(llmstack_service, [*[Passage("tax tax")] * 5, *[Passage("law")] * 5])
    options = SearchOptions(budget=2, candidates=1)
    rows = await search(llmstack_service, query="tax law", limit=5, options=options)
    assert await contents_of(llmstack_service, rows) == ["tax tax"] * 5
