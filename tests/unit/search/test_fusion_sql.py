"""Fusion as SQL."""

from __future__ import annotations

import math

import pytest
from sql_support import BOTH, compiled, cte, search_sql, searched

from llmstack.errors import ValidationError
from llmstack.search import RRF, Weighted


def test_a_leg_is_numbered_by_score_and_then_id() -> None:
    sql = search_sql(**BOTH)
    assert "row_number() OVER (ORDER BY text.score DESC, text.id)" in cte(sql, "text_leg")
    assert "row_number() OVER (ORDER BY vec.score DESC, vec.id)" in cte(sql, "vector_leg")


def test_rows_of_either_leg_are_kept() -> None:
    sql = search_sql(**BOTH)
    assert "FROM text_leg_parts FULL OUTER JOIN vector_leg_parts ON text_leg_parts.id = vector_leg_parts.id" in sql


def test_z_scores_are_the_default() -> None:
    named = search_sql(**BOTH, fusion=Weighted())
    assert cte(search_sql(**BOTH), "text_leg_parts") == cte(named, "text_leg_parts")
    body = cte(search_sql(**BOTH), "text_leg_parts")
    assert "avg(text_leg.score) OVER ()" in body
    assert "stddev_pop(text_leg.score) OVER ()" in body


def test_without_a_fusion_the_weights_are_those_of_the_corpus() -> None:
    assert "corpus_statistics.fusion_alpha" in cte(search_sql(**BOTH), "blend")
    assert "fusion_alpha" not in search_sql(**BOTH, fusion=Weighted())
    assert "fusion_alpha" not in search_sql(query="tax")


def test_each_normalisation_has_its_own_expression() -> None:
    minmax = search_sql(**BOTH, fusion=Weighted(normalize="minmax"))
    assert "stddev_pop" not in minmax
    assert "max(vector_leg.score) OVER () - min(vector_leg.score) OVER ()" in cte(minmax, "vector_leg_parts")
    rrf = search_sql(**BOTH, fusion=RRF())
    assert "OVER ()" not in rrf
    assert "text_leg.rank" in cte(rrf, "text_leg_parts")


def test_weights_and_constants_are_cast_parameters() -> None:
    statement = compiled(searched(**BOTH, fusion=Weighted(alpha=0.3)))
    assert all(weight in statement.params.values() for weight in (0.3, 0.7))
    statement = compiled(searched(**BOTH, fusion=RRF(k=1.5, weights=(0.25, 2.0))))
    assert all(number in statement.params.values() for number in (1.5, 0.25, 2.0))
    assert "AS FLOAT) + CAST(text_leg.rank AS FLOAT)" in cte(" ".join(str(statement).split()), "text_leg_parts")


def test_the_same_shape_gives_the_same_sql_so_that_it_is_compiled_once() -> None:
    first, second = (
        searched(**BOTH, fusion=Weighted(alpha=alpha), limit=limit) for alpha, limit in ((0.1, 3), (0.9, 8))
    )
    assert first._generate_cache_key().key == second._generate_cache_key().key


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_an_alpha_that_is_no_share_is_refused(alpha: float) -> None:
    with pytest.raises(ValidationError, match="alpha"):
        Weighted(alpha=alpha)


def test_an_unknown_normalisation_is_refused() -> None:
    with pytest.raises(ValidationError, match="normalize"):
        Weighted(normalize="softmax")  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [0, -1, math.nan, math.inf])
def test_a_k_that_ranks_nothing_is_refused(k: float) -> None:
    with pytest.raises(ValidationError, match="k"):
        RRF(k=k)


@pytest.mark.parametrize("weights", [(0, 0), (-1, 1), (math.nan, 1), (1, math.inf)])
def test_weights_that_weigh_nothing_are_refused(weights: tuple[float, float]) -> None:
    with pytest.raises(ValidationError, match="weights"):
        RRF(weights=weights)
