"""The choice by judged queries, on figures that can be checked by hand."""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping, Sequence

import pytest

from llmstack.retrieval.tuning.measures import (
    ALPHAS,
    DEFAULT_ALPHA,
    Choice,
    TermCounts,
    TextSettings,
    best_of,
    choose,
    fused,
    ndcg,
    standardised,
    stricter,
)

A, B, C, D = (uuid.UUID(int=number) for number in range(1, 5))


def from_default(alpha: float) -> float:
    return round(abs(alpha - DEFAULT_ALPHA), 6)


def chosen(
    scores: Mapping[float, Sequence[float]], *, current: float = 0.5, standard_errors: float = 1.0
) -> Choice[float]:
    return choose(scores, current=current, distance=from_default, standard_errors=standard_errors)


def test_a_clear_gain_is_taken() -> None:
    choice = chosen({0.5: [0.2, 0.3, 0.25, 0.2], 0.9: [0.6, 0.65, 0.7, 0.6]})
    assert choice.chosen == 0.9
    assert choice.gain == pytest.approx(0.4)


def test_a_gain_within_its_error_is_not() -> None:
    # One query gains, the others lose a little: the mean gain is below one standard error.
    scores = {0.5: [0.5, 0.5, 0.5, 0.5], 0.9: [0.9, 0.4, 0.45, 0.45]}
    choice = chosen(scores)
    assert choice.best == 0.9
    assert 0 < choice.gain < choice.standard_error
    assert choice.chosen == 0.5
    assert chosen(scores, standard_errors=0.0).chosen == 0.9


def test_of_settings_as_good_as_the_best_the_nearest_to_the_default_is_taken() -> None:
    scores = {
        0.5: [0.1, 0.2, 0.1, 0.2],
        0.6: [0.3, 0.4, 0.3, 0.4],
        0.7: [0.6, 0.7, 0.7, 0.6],
        0.9: [0.7, 0.6, 0.72, 0.62],
    }
    choice = chosen(scores)
    assert (choice.best, choice.chosen) == (0.9, 0.7)


def test_what_is_in_force_stays_rather_than_the_default_where_they_are_equal() -> None:
    assert chosen({0.5: [0.5, 0.6], 0.8: [0.5, 0.6]}, current=0.8).chosen == 0.8


def test_the_way_back_to_the_default_needs_a_clear_gain_too() -> None:
    assert chosen({0.5: [0.6, 0.7, 0.6], 0.8: [0.2, 0.3, 0.3]}, current=0.8).chosen == 0.5


def test_more_comparisons_need_more_standard_errors() -> None:
    assert stricter(1.0, 1) == 1.0
    # .1587 / 27 = .00588, which a normal deviate passes at 2.52.
    assert stricter(1.0, 27) == pytest.approx(2.519, abs=1e-3)
    assert stricter(10.0, 27) > 10.0
    gains = {0.5: [0.5] * 4, 0.9: [0.7, 0.5, 0.6, 0.45]}
    one = choose(gains, current=0.5, distance=from_default)
    assert one.chosen == 0.9
    assert choose(gains, current=0.5, distance=from_default, comparisons=27).chosen == 0.5


def test_among_settings_without_any_difference_noise_is_seldom_chosen() -> None:
    rng = random.Random(5)
    moved = 0
    for _ in range(200):
        base = [rng.random() for _ in range(50)]
        scores = {setting: [value + rng.gauss(0, 0.1) for value in base] for setting in range(27)}
        choice = choose(scores, current=0, distance=float, comparisons=26)
        moved += choice.chosen != 0
    # One comparison at one standard error is deceived in 16 of 100; 26 without the correction nearly always.
    assert moved < 60


def test_z_scores_have_mean_zero_and_an_absent_row_counts_the_lowest() -> None:
    scores, absent = standardised({A: 1.0, B: 2.0, C: 3.0})
    assert sum(scores.values()) == pytest.approx(0)
    assert absent == scores[A] == pytest.approx(-1.2247449)
    assert standardised({A: 0.1 + 0.2, B: 0.3 + 1e-17 + 0.1 - 0.1}) != ({}, 0.0)


def test_equal_scores_count_nothing_and_an_absent_row_less() -> None:
    assert standardised({A: 3.0, B: 3.0}) == ({A: 0.0, B: 0.0}, -1.0)
    assert standardised({}) == ({}, 0.0)


def test_rows_of_one_leg_alone_are_kept_and_ties_are_broken_by_id() -> None:
    rankings = fused({B: 2.0, A: 2.0}, {C: 1.0, D: 1.0}, ALPHAS)
    assert rankings[0] == [A, B, C, D]
    assert rankings[5] == [A, B, C, D]
    assert rankings[10] == [C, D, A, B]


def test_a_document_counts_once_where_its_first_passage_stands() -> None:
    units = {A: "one", B: "one", C: "two", D: "three"}
    assert ndcg([A, B, C], units, {"one": 1.0, "two": 1.0}) == pytest.approx(1.0)
    assert ndcg([D, C], units, {"two": 1.0}) == pytest.approx(0.63093, abs=1e-5)
    assert ndcg([A], units, {"two": 1.0}) == 0.0
    # Two found in the wrong order: (1 + 2 / log2 3) / (2 + 1 / log2 3).
    assert ndcg([A, C], units, {"one": 1.0, "two": 2.0}) == pytest.approx(0.85972, abs=1e-5)
    assert ndcg([A], units, {}) == 0.0


def test_bm25_of_counts() -> None:
    row = TermCounts(A, length=10, context_length=2, terms=((2.0, 3, 1),))
    # 2 * 3 * 2.2 / (3 + 1.2 * (1 - .75 + .75 * 10 / 20))
    assert row.score(TextSettings(), 20.0) == pytest.approx(13.2 / 3.75)
    # The one in the context counts four times, and makes the row longer: 6 of 16.
    assert row.score(TextSettings(1.2, 0.75, 4.0), 20.0) == pytest.approx(2 * 6 * 2.2 / (6 + 1.2 * (0.25 + 0.75 * 0.8)))
    # Without length normalisation, and a word that stands in the context alone and is not to count.
    assert TermCounts(A, 5, 5, ((1.0, 1, 1),)).score(TextSettings(1.2, 0.0, 0.0), 20.0) == 0.0
    rows = [TermCounts(key, 10, 0, ((1.0, count, 0),)) for key, count in ((A, 1), (B, 3), (C, 2))]
    assert list(best_of(rows, TextSettings(), average_length=10.0, limit=2)) == [B, C]


def test_the_defaults_are_at_no_distance_and_each_step_of_the_grid_is_one() -> None:
    assert TextSettings().distance == 0.0
    assert TextSettings(1.6, 0.75, 2.0).distance == pytest.approx(2.0)
    assert TextSettings(1.2, 0.75, 0.0).distance < 20
