"""How a query is read: its terms, what they are expected to bring, and what is left out of a very long one."""

from __future__ import annotations

from typing import Any

import pytest
from search_support import CORPUS, Passage, add_passages, bm25, dimension, refresh, search
from sqlalchemy import Text, cast, func, literal, select, text
from sqlalchemy.dialects.postgresql import TSQUERY

from llmstack.db import Service
from llmstack.db.explain import Explain
from llmstack.documents.models import Chunk
from llmstack.search import hybrid
from llmstack.search.columns import LEXICAL_DIMENSIONS
from llmstack.search.hybrid import languages_cte
from llmstack.search.lexical import QueryReading, query_terms


def _reading(words: str, languages: tuple[str, ...], **bounds: Any) -> QueryReading:
    return QueryReading(
        words=literal(words, Text),
        further_words=literal("", Text),
        corpus=CORPUS,
        owner=literal("acme", Text),
        languages=languages_cte(languages),
        **{"budget": 2000, "floor": 1, **bounds},
    )


async def terms_of(
    service: Service, words: str, *, languages: tuple[str, ...] = ("simple",), **bounds: Any
) -> list[Any]:
    read = query_terms(_reading(words, languages, **bounds))
    async with service.session() as session:
        return list(await session.execute(select(read)))


async def test_terms_come_rarest_first_with_what_they_are_expected_to_bring(llmstack_service: Service) -> None:
    passages = [Passage("common"), Passage("common"), Passage("common few"), Passage("common few", owner_id="other")]
    await add_passages(llmstack_service, passages)
    await refresh(llmstack_service)
    terms = await terms_of(llmstack_service, "common few few never")
    assert [(term.lexeme, term.frequency, term.document_count, term.place) for term in terms] == [
        ("never", 1, 1, 1),
        ("few", 2, 2, 2),
        ("common", 1, 4, 3),
    ]
    # Three of four rows are this owner's.
    assert [term.estimated_rows for term in terms] == [0.75, 1.5, 3.0]
    assert all(term.is_candidate for term in terms)
    bounded = await terms_of(llmstack_service, "common few few never", budget=2, floor=0)
    assert [term.is_candidate for term in bounded] == [True, False, False]
    # A term more while fewer rows than the floor are expected.
    floored = await terms_of(llmstack_service, "common few few never", budget=2, floor=1)
    assert [term.is_candidate for term in floored] == [True, True, False]


async def test_a_lexeme_of_several_languages_is_one_term(llmstack_service: Service) -> None:
    terms = await terms_of(llmstack_service, "houses houses Haus", languages=("english", "german"))
    assert {term.lexeme: term.frequency for term in terms} == {"hous": 2, "haus": 1}


async def test_a_lexeme_is_quoted_as_a_tsquery_reads_it(llmstack_service: Service) -> None:
    passages = [Passage("http://e.com/a?x='y'"), Passage("http://e.org/a?\\z"), Passage("plain")]
    ids = await add_passages(llmstack_service, passages)
    for passage, id_ in zip(passages, ids, strict=True):
        async with llmstack_service.session() as session:
            stored = func.unnest(func.tsvector_to_array(Chunk.search_vector))
            lexemes = await session.scalars(select(stored).where(Chunk.id == id_))
        terms = await terms_of(llmstack_service, passage.content)
        assert terms
        assert {term.lexeme for term in terms} <= set(lexemes)
        async with llmstack_service.session() as session:
            for term in terms:
                matches = Chunk.search_vector.op("@@")(cast(term.quoted, TSQUERY))
                assert list(await session.scalars(select(Chunk.id).where(matches))) == [id_], term.quoted


async def test_the_256_rarest_terms_bring_rows_and_all_of_them_score(llmstack_service: Service) -> None:
    letters = "bcdfghjklmnpqrst"
    rare = [f"rare{one}{other}" for one in letters for other in letters]
    passages = [Passage("common"), Passage("common"), Passage(f"common {rare[0]}"), Passage(rare[1])]
    ids = await add_passages(llmstack_service, passages)
    await refresh(llmstack_service)
    terms = await terms_of(llmstack_service, " ".join([*rare, "common"]))
    assert [term.lexeme for term in terms if not term.is_candidate] == ["common"]
    rows = await search(llmstack_service, query=" ".join([*rare, "common"]))
    scores = bm25(f"common {rare[0]} {rare[1]}", passages, known=True)
    assert [row.id for row in rows] == ids[2:]
    assert [row.score for row in rows] == pytest.approx(scores[2:], rel=1e-3)


async def test_a_query_of_more_terms_than_a_sparse_vector_holds_keeps_the_heaviest(llmstack_service: Service) -> None:
    words = "again again " + " ".join(f"n{number}" for number in range(17_000))
    called = _reading(words, ("simple",)).call("lexical_query").table_valued("weights")
    async with llmstack_service.session() as session:
        entries, dimensions = (await session.scalars(select(called.c.weights))).one().removeprefix("{").split("}/")
    assert int(dimensions) == LEXICAL_DIMENSIONS
    weights = {int(entry.split(":")[0]): float(entry.split(":")[1]) for entry in entries.split(",")}
    assert len(weights) == 16_000
    assert weights[dimension("again")] == pytest.approx(2 * min(weights.values()))


async def test_a_search_by_text_alone_may_be_planned_in_parallel(llmstack_service: Service) -> None:
    ids = await add_passages(llmstack_service, [Passage(f"tax {number}") for number in range(2000)])
    costs = (
        "parallel_setup_cost",
        "parallel_tuple_cost",
        "min_parallel_table_scan_size",
        "min_parallel_index_scan_size",
    )
    statement = hybrid(Chunk, corpus=CORPUS, owner_id="acme", query="tax", languages=("simple",), limit=1000)
    async with llmstack_service.session() as session:
        await session.execute(text("ANALYZE llmstack.chunks"))
        for name in costs:
            await session.execute(text(f"SET LOCAL {name} = 0"))
        plan = "\n".join(await session.scalars(Explain(statement)))
        assert "Parallel" in plan, plan
        assert [row.id for row in await session.execute(statement)] == ids[:1000]
