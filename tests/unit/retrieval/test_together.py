from __future__ import annotations

import uuid
from typing import Any

import pytest

from llmstack.retrieval import Leg, Recency, Search, SearchHit, SearchHits
from llmstack.retrieval.together import merged
from llmstack.search import RRF, Weighted


def hit(number: int, *, score: float = 0.0, text: float | None = None, vector: float | None = None) -> SearchHit:
    legs = {name: Leg(value, 1) for name, value in (("text", text), ("vector", vector)) if value is not None}
    key = uuid.UUID(int=number)
    return SearchHit(id=key, ranked_id=key, content=str(number), context="", score=score, fused_score=score, legs=legs)


def search(**parts: Any) -> Search[Any]:
    return Search(owner_id="acme", query="q", **parts)


def numbers(found: SearchHits[SearchHit]) -> list[int]:
    return [one.id.int for one in found]


def test_legs_are_compared_over_both() -> None:
    # By their own scores the second corpus' poor hit would be the best.
    first = SearchHits([hit(1, score=1.0, vector=0.9), hit(2, score=-1.0, vector=0.8)], mode="vector")
    second = SearchHits([hit(3, score=3.0, vector=0.1)], mode="vector")
    assert numbers(merged(first, second, search())) == [1, 2, 3]


def test_scores_are_those_of_one_corpus_that_holds_both() -> None:
    first = SearchHits([hit(1, text=3.0, vector=0.5), hit(2, text=1.0)])
    second = SearchHits([hit(3, text=2.0, vector=0.7)])
    found = merged(first, second, search(fusion=Weighted(alpha=0.25)))
    # Text has mean 2 and deviation .8165; the vector leg mean .6 and deviation .1, and 2 counts as its lowest there.
    expected = {1: 0.75 * 1.2247 - 0.25, 3: 0.25, 2: -0.75 * 1.2247 - 0.25}
    assert {one.id.int: one.score for one in found} == pytest.approx(expected, abs=1e-3)
    assert numbers(found) == [1, 3, 2]


def test_what_one_leg_alone_found_beats_what_it_did_not_find() -> None:
    first = SearchHits([hit(1, vector=0.5), hit(2, vector=0.5)])
    second = SearchHits([hit(3, text=1.0, vector=0.5)])
    assert numbers(merged(first, second, search()))[0] == 3


@pytest.mark.parametrize(
    "parts", [{"fusion": RRF()}, {"recency": Recency(half_life=__import__("datetime").timedelta(1))}]
)
def test_where_something_else_orders_scores_stay(parts: dict[str, Any]) -> None:
    first, second = SearchHits([hit(1, score=0.1, vector=0.9)]), SearchHits([hit(2, score=0.2, vector=0.1)])
    assert [one.score for one in merged(first, second, search(**parts))] == [0.2, 0.1]


def test_a_reranker_has_the_last_word() -> None:
    first = SearchHits([hit(1, score=0.1, vector=0.9)], reranked=True)
    second = SearchHits([hit(2, score=0.2, vector=0.1)], reranked=True)
    assert numbers(merged(first, second, search())) == [2, 1]


def test_the_best_of_a_group_stands_for_all_and_ties_go_by_id() -> None:
    first = SearchHits([hit(1, vector=0.9), hit(4, vector=0.2)])
    second = SearchHits([hit(3, vector=0.5), hit(2, vector=0.2)])
    assert numbers(merged(first, second, search())) == [1, 3, 2, 4]
    grouped = merged(first, second, search(), group=lambda one: one.id.int % 2)
    assert [(one.id.int, one.passages) for one in grouped] == [(1, 2), (2, 2)]


def test_one_side_without_hits_leaves_the_other_as_it_is() -> None:
    first: SearchHits[SearchHit] = SearchHits([hit(1, score=7.0, text=1.0)], mode="text", vector_path=None)
    found = merged(first, SearchHits(), search(limit=1))
    assert (numbers(found), found[0].score, found.mode) == ([1], 7.0, "text")
