"""Several wordings of a query, fused in one statement."""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping
from typing import Any

import pytest
from search_support import Passage, Scores, add_passages, add_space, normalised, refresh, search

from llmstack.db import Service
from llmstack.db.models import CorpusStatistics
from llmstack.embeddings import Space
from llmstack.errors import ValidationError
from llmstack.search import RRF, SearchOptions, Variant, Weighted
from llmstack.search.fusion import Fusion
from llmstack.search.hybrid import MAX_VARIANTS

OPTIONS = SearchOptions(candidates=12)
QUERY, TARGET = "tax law", [1.0, 0.2, 0.0, 0.0]
OTHERS = [
    Variant(query="court", vector=[0.0, 1.0, 0.0, 0.3], weight=0.5),
    Variant(query="reform", vector=[0.0, 0.0, 1.0, 0.1], weight=2.0),
]


@pytest.fixture
async def space(llmstack_service: Service) -> Space:
    chosen = random.Random(5)
    space = await add_space(llmstack_service)
    words = ["tax", "law", "court", "reform", "levy"]
    passages = [
        Passage(" ".join(chosen.choices(words, k=6)), vector=[chosen.uniform(-1, 1) for _ in range(4)])
        for _ in range(40)
    ]
    await add_passages(llmstack_service, passages, space=space)
    await refresh(llmstack_service)
    return space


async def leg(service: Service, **arguments: Any) -> Scores:
    return {row.id: row.score for row in await search(service, options=OPTIONS, limit=12, **arguments)}


async def legs(service: Service, space: Space | None) -> list[tuple[str, float, Scores]]:
    """(kind, weight, scores) of each leg, searched by itself."""
    questions = [(QUERY, TARGET, 1.0), *((one.query, one.vector, one.weight) for one in OTHERS)]
    found = [("text", weight, await leg(service, query=query)) for query, _, weight in questions]
    if space is not None:
        found += [("vector", weight, await leg(service, vector=v, space=space)) for _, v, weight in questions]
    return found


def fused(
    found: list[tuple[str, float, Scores]], fusion: Fusion, shares: Mapping[str, float]
) -> dict[uuid.UUID, float]:
    total: dict[uuid.UUID, float] = {}
    weights = sum(weight for kind, weight, _ in found if kind == "text")
    for kind, weight, scores in found:
        parts, absent = normalised(scores, fusion)
        for id_ in {id_ for _, _, scores in found for id_ in scores}:
            total[id_] = total.get(id_, 0.0) + shares[kind] * weight / weights * parts.get(id_, absent)
    return total


@pytest.mark.parametrize(
    ("fusion", "shares"),
    [
        (Weighted(), (0.5, 0.5)),
        (Weighted(alpha=0.8, normalize="minmax"), (0.2, 0.8)),
        (RRF(weights=(2.0, 1.0)), (2.0, 1.0)),
    ],
    ids=["zscore", "minmax", "rrf"],
)
async def test_the_weight_of_a_kind_is_shared_by_the_weights_of_the_wordings(
    llmstack_service: Service, space: Space, fusion: Fusion, shares: tuple[float, float]
) -> None:
    expected = fused(await legs(llmstack_service, space), fusion, dict(zip(("text", "vector"), shares, strict=True)))
    rows = await search(
        llmstack_service, query=QUERY, vector=TARGET, space=space, variants=OTHERS, fusion=fusion, options=OPTIONS,
        limit=12, rows=1000,
    )  # fmt: skip
    assert {row.id: row.score for row in rows} == pytest.approx(expected)
    order = [(-row.score, row.id) for row in rows]
    assert order == sorted(order)


async def test_words_alone_may_have_variants_too(llmstack_service: Service, space: Space) -> None:
    expected = fused(await legs(llmstack_service, None), Weighted(), {"text": 1.0})
    others = [Variant(query=one.query, weight=one.weight) for one in OTHERS]
    rows = await search(llmstack_service, query=QUERY, variants=others, options=OPTIONS, limit=12, rows=1000)
    assert {row.id: row.score for row in rows} == pytest.approx(expected)


async def test_a_row_tells_its_place_in_each_leg(llmstack_service: Service, space: Space) -> None:
    found = await legs(llmstack_service, space)
    names = ["text", "text_2", "text_3", "vector", "vector_2", "vector_3"]
    rows = await search(llmstack_service, query=QUERY, vector=TARGET, space=space, variants=OTHERS, options=OPTIONS,
                        limit=12, rows=1000)  # fmt: skip
    for row in rows:
        for name, (_, _, scores) in zip(names, found, strict=True):
            place, score = row._mapping[f"{name}_rank"], row._mapping[f"{name}_score"]
            if row.id not in scores:
                assert (place, score) == (None, None)
                continue
            ranked = sorted(scores, key=lambda id_: (-scores[id_], id_))
            assert (place, score) == (ranked.index(row.id) + 1, pytest.approx(scores[row.id]))


async def test_a_wordings_punctuation_is_only_text(llmstack_service: Service, space: Space) -> None:
    plain = await search(llmstack_service, query=QUERY, variants=[Variant(query="court reform")])
    marked = await search(llmstack_service, query=QUERY, variants=[Variant(query='"court" -reform')])
    assert [(row.id, row.score) for row in marked] == [(row.id, row.score) for row in plain]


async def test_what_the_query_forbids_no_wording_brings_back(llmstack_service: Service, space: Space) -> None:
    rows = await search(llmstack_service, query="tax -court", variants=[Variant(query="court")], limit=40)
    wrong = await search(llmstack_service, query="court", limit=40)
    assert rows
    assert not {row.id for row in rows} & {row.id for row in wrong}


async def test_without_a_fusion_the_calibrated_weight_is_used(llmstack_service: Service, space: Space) -> None:
    async def scores(**more: Any) -> list[Any]:
        rows = await search(llmstack_service, query=QUERY, vector=TARGET, space=space, **more)
        return [(row.id, row.score) for row in rows]

    before = await scores()
    assert before == await scores(fusion=Weighted(alpha=0.5))
    async with llmstack_service.session() as session:
        corpus = await session.get(CorpusStatistics, "documents")
        assert corpus is not None
        corpus.fusion_alpha = 0.125
        await session.commit()
    assert await scores() == await scores(fusion=Weighted(alpha=0.125))
    assert await scores() != before
    assert await scores(fusion=Weighted(alpha=0.5)) == before


async def test_too_many_or_half_wordings_are_refused(llmstack_service: Service, space: Space) -> None:
    with pytest.raises(ValidationError, match="variants"):
        await search(llmstack_service, query=QUERY, variants=[Variant(query="a")] * (MAX_VARIANTS + 1))
    with pytest.raises(ValidationError, match="vector"):
        await search(llmstack_service, query=QUERY, vector=TARGET, space=space, variants=[Variant(query="a")])
    with pytest.raises(ValidationError, match="weight"):
        Variant(query="a", weight=0.0)


async def test_as_many_wordings_as_are_allowed_are_answered(llmstack_service: Service, space: Space) -> None:
    many = [Variant(query=f"tax law w{n}", vector=[1.0, n / 9, 0.0, 0.1]) for n in range(MAX_VARIANTS)]
    rows = await search(llmstack_service, query=QUERY, vector=TARGET, space=space, variants=many)
    assert len(rows) == 10
