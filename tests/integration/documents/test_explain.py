"""What a search says of itself."""

from __future__ import annotations

import math

import pytest
from document_support import add, added, document

from llmstack import LLMStack
from llmstack.documents import DocumentFilter, DocumentHit
from llmstack.retrieval import SearchHits
from llmstack.search import RRF
from llmstack.settings import Settings


async def explained(stack: LLMStack, query: str, **more: object) -> SearchHits[DocumentHit]:
    return await stack.documents.search(owner_id="acme", query=query, explain=True, **more)  # type: ignore[arg-type]


async def corpus(stack: LLMStack) -> None:
    texts = {f"d{n}": "tax law " + "words " * n + ("levy " if n == 3 else "") for n in range(30)}
    await added(stack, [document(name, text, document_name="T") for name, text in texts.items()])
    await add(stack, "foreign", "tax levy levy", owner_id="umbrella")
    await stack.documents.settle()
    await stack.documents.refresh_statistics()


async def test_each_matched_term_adds_its_part_to_the_text_score(stack: LLMStack) -> None:
    await corpus(stack)
    hits = await explained(stack, "levy levy tax absent", mode="text")
    assert hits[0].id_at_origin == "d3"
    assert [(term.lexeme, term.frequency) for term in hits[0].matched] == [("levi", 2), ("tax", 1)]
    for hit in hits:
        parts = [term.idf * term.frequency * term.weight for term in hit.matched]
        assert sum(parts) == pytest.approx(hit.legs["text"].score, rel=1e-3)
        assert parts == sorted(parts, reverse=True)
    assert all(hit.matched == () for hit in await stack.documents.search(owner_id="acme", query="levy"))


async def test_the_terms_of_the_query_have_their_counts_and_idf(stack: LLMStack) -> None:
    await corpus(stack)
    explanation = (await explained(stack, "levy tax absent the")).explanation
    assert explanation is not None
    terms = {term.lexeme: term for term in explanation.terms}
    assert set(terms) == {"levi", "tax", "absent"}
    assert [terms[name].document_count for name in ("absent", "levi", "tax")] == [1, 2, 31]
    assert [term.lexeme for term in explanation.terms] == ["absent", "levi", "tax"]
    assert terms["tax"].idf == pytest.approx(math.log(1 + (31 - 31 + 0.5) / (31 + 0.5)))
    assert all(term.is_candidate for term in explanation.terms)
    assert explanation.estimated_rows == pytest.approx(sum(term.estimated_rows for term in explanation.terms))


async def test_the_budget_shows_which_terms_only_score(make_stack: object) -> None:
    stack = make_stack(lexical_budget=5, search_candidates=1)  # type: ignore[operator]
    await corpus(stack)
    explanation = (await explained(stack, "levy tax", mode="text", limit=1)).explanation
    assert explanation is not None
    assert {term.lexeme: term.is_candidate for term in explanation.terms} == {"levi": True, "tax": False}
    assert explanation.budget == 5
    assert explanation.estimated_rows < 5


async def test_mode_space_fusion_settings_and_timings_are_told(stack: LLMStack) -> None:
    await corpus(stack)
    explanation = (await explained(stack, "tax", expand=["levy"], limit=3)).explanation
    assert explanation is not None
    assert (explanation.mode, explanation.space, explanation.alpha) == ("hybrid", "words", 0.5)
    assert explanation.wordings == ("levy",)
    assert explanation.settings["candidates"] == Settings().search_candidates
    assert explanation.settings["ef_search"] == Settings().ef_search
    assert set(explanation.milliseconds) == {"expansion", "embedding", "statement", "reranking"}
    assert explanation.milliseconds["statement"] > 0
    assert (await explained(stack, "tax", alpha=0.25)).explanation.alpha == 0.25  # type: ignore[union-attr]
    assert (await explained(stack, "tax", fusion=RRF())).explanation.alpha is None  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", ["text", "vector", "hybrid"])
async def test_the_plan_names_what_was_scanned(stack: LLMStack, mode: str) -> None:
    await corpus(stack)
    where = DocumentFilter(metadata={"$not": {"a": 1}})
    explanation = (await explained(stack, "tax -levy", mode=mode, where=where)).explanation
    assert explanation is not None
    relations = {step.relation for step in explanation.plan}
    assert any(name.startswith("chunk_embeddings") for name in relations) == (mode != "text")
    # Its own statements are no part of the plan.
    assert ("lexical_query" in relations) == (mode != "vector")
    assert explanation.planning_milliseconds > 0
    assert explanation.execution_milliseconds > 0
    assert (explanation.terms == []) == (mode == "vector")


async def test_the_order_is_the_same_with_and_without(stack: LLMStack) -> None:
    await corpus(stack)
    plain = await stack.documents.search(owner_id="acme", query="levy tax", group_by="parent", diversity=0.2)
    told = await explained(stack, "levy tax", group_by="parent", diversity=0.2)
    assert [(hit.id, hit.score) for hit in told] == [(hit.id, hit.score) for hit in plain]
    assert plain.explanation is None


async def test_a_search_that_finds_nothing_is_explained_too(stack: LLMStack) -> None:
    hits = await explained(stack, "nothing at all", mode="text")
    assert hits == []
    assert hits.explanation is not None
    assert {term.lexeme for term in hits.explanation.terms} <= {"noth"}


async def test_strange_lexemes_are_explained(stack: LLMStack) -> None:
    text = r"it's a\b 'quoted' C:\temp x{1}:2 <tag> 100% https://example.org/a?b=c"
    await add(stack, "it", text)
    (hit,) = await explained(stack, text.replace('"', ""), mode="text", operators=False)
    assert len(hit.matched) > 3
