"""What a search says of itself."""

from __future__ import annotations

import math
from typing import Any

import pytest
from corpus_support import MakeWorld, Text, World, units, write

from llmstack.retrieval import SearchHits
from llmstack.search import RRF
from llmstack.settings import Settings

VECTORS = {"documents": "chunk_embeddings", "notes": "note_embeddings"}


async def explained(world: World, query: str, **more: Any) -> SearchHits[Any]:
    return await world.corpus.search(owner_id="acme", query=query, explain=True, **more)


async def filled(world: World) -> None:
    texts = {f"d{n}": "tax law " + "words " * n + ("levy " if n == 3 else "") for n in range(30)}
    await write(world, [Text(name, text, title="T") for name, text in texts.items()])
    await world.add({"foreign": "tax levy levy"}, owner_id="umbrella")
    await world.corpus.settle()
    await world.corpus.refresh_statistics()


async def test_each_matched_term_adds_its_part_to_the_text_score(world: World) -> None:
    await filled(world)
    hits = await explained(world, "levy levy tax absent", mode="text")
    assert units(world, hits)[0] == "d3"
    assert [(term.lexeme, term.frequency) for term in hits[0].matched] == [("levi", 2), ("tax", 1)]
    for hit in hits:
        parts = [term.idf * term.frequency * term.weight for term in hit.matched]
        assert sum(parts) == pytest.approx(hit.legs["text"].score, rel=1e-3)
        assert parts == sorted(parts, reverse=True)
    assert all(hit.matched == () for hit in await world.corpus.search(owner_id="acme", query="levy"))


async def test_the_terms_of_the_query_have_their_counts_and_idf(world: World) -> None:
    await filled(world)
    explanation = (await explained(world, "levy tax absent the")).explanation
    assert explanation is not None
    terms = {term.lexeme: term for term in explanation.terms}
    assert set(terms) == {"levi", "tax", "absent"}
    assert [terms[name].document_count for name in ("absent", "levi", "tax")] == [1, 2, 31]
    assert [term.lexeme for term in explanation.terms] == ["absent", "levi", "tax"]
    assert terms["tax"].idf == pytest.approx(math.log(1 + (31 - 31 + 0.5) / (31 + 0.5)))
    assert all(term.is_candidate for term in explanation.terms)
    assert explanation.estimated_rows == pytest.approx(sum(term.estimated_rows for term in explanation.terms))


async def test_the_budget_shows_which_terms_only_score(make_world: MakeWorld) -> None:
    world = make_world(lexical_budget=5, search_candidates=1)
    await filled(world)
    explanation = (await explained(world, "levy tax", mode="text", limit=1)).explanation
    assert explanation is not None
    assert {term.lexeme: term.is_candidate for term in explanation.terms} == {"levi": True, "tax": False}
    assert explanation.budget == 5
    assert explanation.estimated_rows < 5


async def test_mode_space_fusion_settings_and_timings_are_told(world: World) -> None:
    await filled(world)
    explanation = (await explained(world, "tax", expand=["levy"], limit=3)).explanation
    assert explanation is not None
    assert (explanation.mode, explanation.space, explanation.alpha) == ("hybrid", "words", 0.5)
    assert explanation.wordings == ("levy",)
    assert explanation.settings["candidates"] == Settings().search_candidates
    assert explanation.settings["ef_search"] == Settings().ef_search
    assert set(explanation.milliseconds) == {"expansion", "embedding", "statement", "reranking"}
    assert explanation.milliseconds["statement"] > 0
    assert (await explained(world, "tax", alpha=0.25)).explanation.alpha == 0.25  # type: ignore[union-attr]
    assert (await explained(world, "tax", fusion=RRF())).explanation.alpha is None  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", ["text", "vector", "hybrid"])
async def test_the_plan_names_what_was_scanned(world: World, mode: str) -> None:
    await filled(world)
    where = world.where(**{"$not": {"a": 1}})
    explanation = (await explained(world, "tax -levy", mode=mode, where=where)).explanation
    assert explanation is not None
    relations = {step.relation for step in explanation.plan}
    assert any(name.startswith(VECTORS[world.corpus.corpus.name]) for name in relations) == (mode != "text")
    # Its own statements are no part of the plan.
    assert ("lexical_query" in relations) == (mode != "vector")
    assert explanation.planning_milliseconds > 0
    assert explanation.execution_milliseconds > 0
    assert (explanation.terms == []) == (mode == "vector")


async def test_the_order_is_the_same_with_and_without(world: World) -> None:
    await filled(world)
    plain = await world.corpus.search(owner_id="acme", query="levy tax", diversity=0.2)
    told = await explained(world, "levy tax", diversity=0.2)
    assert [(hit.id, hit.score) for hit in told] == [(hit.id, hit.score) for hit in plain]
    assert plain.explanation is None


async def test_a_search_that_finds_nothing_is_explained_too(world: World) -> None:
    hits = await explained(world, "nothing at all", mode="text")
    assert hits == []
    assert hits.explanation is not None
    assert {term.lexeme for term in hits.explanation.terms} <= {"noth"}


async def test_strange_lexemes_are_explained(world: World) -> None:
    text = r"it's a\b 'quoted' C:\temp x{1}:2 <tag> 100% https://example.org/a?b=c"
    await world.add({"it": text})
    (hit,) = await explained(world, text.replace('"', ""), mode="text", operators=False)
    assert len(hit.matched) > 3
