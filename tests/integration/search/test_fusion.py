"""Fusion in SQL equals fusion in Python, row by row."""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from search_support import Passage, Scores, add_passages, add_space, normalised, search

from llmstack.db import Service
from llmstack.embeddings import Space
from llmstack.search import RRF, SearchOptions, Weighted
from llmstack.search.fusion import Fusion

QUERY, TARGET = "tax law", [1.0, 0.2, 0.0, 0.0]
OPTIONS = SearchOptions(candidates=12)


@pytest.fixture
async def space(llmstack_service: Service) -> Space:
    """Thirty passages of which each leg returns twelve, some the same."""
    chosen = random.Random(3)
    space = await add_space(llmstack_service)
    words = ["tax", "law", "court", "reform"]
    passages = [
        Passage(" ".join(chosen.choices(words, k=6)), vector=[chosen.uniform(-1, 1) for _ in range(4)])
        for _ in range(30)
    ]
    await add_passages(llmstack_service, passages, space=space)
    return space


def fused(text: Scores, vector: Scores, fusion: Fusion) -> dict[uuid.UUID, float]:
    """The score of each row of either leg."""
    weights = fusion.weights if isinstance(fusion, RRF) else (1 - fusion.alpha, fusion.alpha)
    total: dict[uuid.UUID, float] = {}
    for scores, weight in zip((text, vector), weights, strict=True):
        parts, absent = normalised(scores, fusion)
        for id_ in {*text, *vector}:
            total[id_] = total.get(id_, 0.0) + weight * parts.get(id_, absent)
    return total


def scores_of(rows: Sequence[Any]) -> dict[uuid.UUID, float]:
    return {row.id: row.score for row in rows}


async def both_legs(service: Service, space: Space, query: str = QUERY) -> tuple[Scores, Scores]:
    text = await search(service, query=query, options=OPTIONS, limit=12)
    vector = await search(service, vector=TARGET, space=space, options=OPTIONS, limit=12)
    return scores_of(text), scores_of(vector)


FUSIONS: list[Fusion] = [
    Weighted(),
    Weighted(alpha=0.3),
    Weighted(alpha=0.0),
    Weighted(alpha=1.0),
    Weighted(normalize="minmax"),
    Weighted(alpha=0.9, normalize="minmax"),
    RRF(),
    RRF(k=1.5),
    RRF(k=10, weights=(0.25, 2)),
    RRF(weights=(0, 1)),
]


@pytest.mark.parametrize("fusion", FUSIONS, ids=str)
async def test_the_fused_scores_and_their_order_are_those_of_the_definition(
    llmstack_service: Service, space: Space, fusion: Fusion
) -> None:
    text, vector = await both_legs(llmstack_service, space)
    assert len(text) == len(vector) == 12
    assert set(text) - set(vector)
    rows = await search(
        llmstack_service, query=QUERY, vector=TARGET, space=space, fusion=fusion, options=OPTIONS, limit=12
    )
    expected = fused(text, vector, fusion)
    best = sorted(expected, key=lambda id_: (-round(expected[id_], 9), id_))[:12]
    assert [row.id for row in rows] == best
    assert [row.score for row in rows] == pytest.approx([expected[id_] for id_ in best], rel=1e-6, abs=1e-9)
    for row in rows:
        assert row.text_score == (pytest.approx(text[row.id]) if row.id in text else None)
        assert row.vector_score == (pytest.approx(vector[row.id]) if row.id in vector else None)


@pytest.mark.parametrize("fusion", [Weighted(), Weighted(normalize="minmax"), RRF()], ids=str)
async def test_every_row_of_either_leg_is_kept(llmstack_service: Service, space: Space, fusion: Fusion) -> None:
    text, vector = await both_legs(llmstack_service, space)
    rows = await search(
        llmstack_service,
        query=QUERY,
        vector=TARGET,
        space=space,
        fusion=fusion,
        options=SearchOptions(candidates=1),
        limit=12,
    )
    everything = fused(text, vector, fusion)
    assert {row.id for row in rows} <= set(everything)
    assert any(row.text_rank is None for row in rows)
    assert any(row.vector_rank is None for row in rows)


@pytest.mark.parametrize(("alpha", "leg"), [(0.0, "text"), (1.0, "vector")])
@pytest.mark.parametrize("normalize", ["zscore", "minmax"])
async def test_an_extreme_alpha_ranks_as_that_leg_alone(
    llmstack_service: Service, space: Space, alpha: float, leg: str, normalize: Any
) -> None:
    fusion = Weighted(alpha=alpha, normalize=normalize)
    text, vector = await both_legs(llmstack_service, space)
    alone = text if leg == "text" else vector
    rows = await search(
        llmstack_service, query=QUERY, vector=TARGET, space=space, fusion=fusion, options=OPTIONS, limit=12
    )
    order = sorted(alone, key=lambda id_: (-alone[id_], id_))
    # The lowest of a leg counts like a row that it did not return.
    above = [id_ for id_ in order if alone[id_] > min(alone.values())]
    assert [row.id for row in rows][: len(above)] == above


@pytest.mark.parametrize("fusion", [Weighted(), Weighted(normalize="minmax"), RRF()], ids=str)
async def test_an_empty_leg_leaves_the_order_of_the_other(
    llmstack_service: Service, space: Space, fusion: Fusion
) -> None:
    _, vector = await both_legs(llmstack_service, space)
    rows = await search(
        llmstack_service,
        query="unheard",
        vector=TARGET,
        space=space,
        fusion=fusion,
        options=OPTIONS,
        limit=12,
    )
    assert [row.id for row in rows] == sorted(vector, key=lambda id_: (-vector[id_], id_))
    empty = await add_space(llmstack_service)
    text, _ = await both_legs(llmstack_service, space)
    rows = await search(
        llmstack_service, query=QUERY, vector=TARGET, space=empty, fusion=fusion, options=OPTIONS, limit=12
    )
    assert [row.id for row in rows] == sorted(text, key=lambda id_: (-text[id_], id_))


@pytest.mark.parametrize("fusion", [Weighted(), Weighted(normalize="minmax"), RRF()], ids=str)
async def test_the_only_row_with_a_rare_word_beats_its_equals_without(
    llmstack_service: Service, fusion: Fusion
) -> None:
    space = await add_space(llmstack_service)
    vectors = [[1.0, number / 10, 0.0, 0.0] for number in range(5)]
    passages = [Passage("tax" if number != 2 else "tax XK4711", vector=v) for number, v in enumerate(vectors)]
    ids = await add_passages(llmstack_service, passages, space=space)
    rows = await search(
        llmstack_service, query="XK4711", vector=[1.0, 0.0, 0.0, 0.0], space=space, fusion=fusion, limit=5
    )
    places = [row.id for row in rows]
    assert places.index(ids[2]) < places.index(ids[1])
    expected = fused({ids[2]: rows[places.index(ids[2])].text_score}, {r.id: r.vector_score for r in rows}, fusion)
    assert scores_of(rows) == pytest.approx(expected)


@pytest.mark.parametrize("fusion", [Weighted(), Weighted(normalize="minmax"), RRF()], ids=str)
async def test_ties_are_broken_by_id_and_the_order_is_the_same_each_time(
    llmstack_service: Service, fusion: Fusion
) -> None:
    space = await add_space(llmstack_service)
    ids = await add_passages(llmstack_service, [Passage("tax", vector=TARGET)] * 40, space=space)
    legs: tuple[dict[str, Any], ...] = ({"query": "tax"}, {"vector": TARGET, "space": space})
    for given in (*legs, legs[0] | legs[1]):
        for limit in (7, 40):
            rows = await search(llmstack_service, **given, fusion=fusion, limit=limit)
            assert [row.id for row in rows] == ids[:limit]
