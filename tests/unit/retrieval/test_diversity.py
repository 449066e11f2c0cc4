"""Maximal marginal relevance by its definition."""

from __future__ import annotations

import random

import pytest

from llmstack.retrieval import maximal_marginal_relevance


def by_definition(scores: list[float], alike: list[list[float]], diversity: float, limit: int) -> list[int]:
    low, high = min(scores), max(scores)
    relevance = [(score - low) / (high - low) if high > low else 1.0 for score in scores]
    chosen: list[int] = []
    while len(chosen) < min(limit, len(scores)):

        def worth(place: int) -> float:
            nearest = max((alike[place][other] for other in chosen), default=0.0)
            return (1 - diversity) * relevance[place] - diversity * nearest

        left = [place for place in range(len(scores)) if place not in chosen]
        chosen.append(max(left, key=lambda place: (worth(place), -place)))
    return chosen


@pytest.mark.parametrize("diversity", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_each_choice_is_that_of_the_definition(diversity: float) -> None:
    chance = random.Random(11)
    for size in (1, 2, 7, 30):
        scores = sorted((chance.uniform(-3, 3) for _ in range(size)), reverse=True)
        alike = [[0.0] * size for _ in range(size)]
        for one in range(size):
            for other in range(one, size):
                alike[one][other] = alike[other][one] = 1.0 if one == other else chance.uniform(-1, 1)
        for limit in (1, 5, 100):
            found = maximal_marginal_relevance(scores, alike, diversity=diversity, limit=limit)
            assert found == by_definition(scores, alike, diversity, limit)


def test_nothing_is_chosen_from_nothing() -> None:
    assert maximal_marginal_relevance([], [], diversity=0.5, limit=3) == []


def test_of_equals_the_earlier_is_taken() -> None:
    same = [[1.0] * 3 for _ in range(3)]
    assert maximal_marginal_relevance([2.0, 2.0, 2.0], same, diversity=0.5, limit=3) == [0, 1, 2]
