"""Rows weighed by different parameters never decide a ranking together."""

from __future__ import annotations

from typing import Any

import pytest
from corpus_support import Text, World, write
from sqlalchemy import func, select, text

from llmstack.db import CorpusStatistics
from llmstack.retrieval.tuning import statistics
from llmstack.search.reweigh import reweigh_batch, set_parameters

QUERIES = ("kettle", "kettle tea", "tea water", "steam")
TEXTS = [
    f"kettle {'tea ' * (number % 4)}{'water ' * (number % 7)}{'steam ' * (number % 3)}{'mug ' * (number % 11)}x{letter}"
    for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz")
]


async def rankings(world: World) -> list[list[tuple[str, Any]]]:
    found = []
    for query in QUERIES:
        hits = await world.corpus.search(owner_id="acme", query=query, mode="text", limit=50)
        found.append([(hit.content, pytest.approx(hit.score, rel=1e-4)) for hit in hits])
    return found


async def is_mixed(world: World) -> bool:
    async with world.stack.service.session() as session:
        return bool(await session.scalar(select(CorpusStatistics.is_mixed)))


async def weighed(world: World) -> int:
    """By how many different averages."""
    async with world.stack.service.session() as session:
        rows: Any = world.corpus.corpus.rows
        return int(await session.scalar(select(func.count(rows.bm25_average_length.distinct()))) or 0)


async def filled(world: World) -> None:
    await write(world, [Text(str(number), content) for number, content in enumerate(TEXTS)])
    await world.corpus.settle()
    await world.corpus.refresh_statistics()


@pytest.mark.parametrize("rewritten", [0, 1, 13])
async def test_a_rewrite_that_has_come_anywhere_changes_no_ranking(world: World, rewritten: int) -> None:
    await filled(world)
    corpus = world.corpus.corpus
    before = await rankings(world)

    async def begin(session: Any) -> None:
        await set_parameters(session, corpus=corpus.name, parameters={"k1": 2.0, "b": 0.3, "average_length": 5.0})

    await world.stack.service.transaction(begin)
    if rewritten:
        await world.stack.service.transaction(
            lambda session: reweigh_batch(session, model=corpus.rows, corpus=corpus.name, after=None, rows=rewritten)
        )
    assert await is_mixed(world)
    assert await weighed(world) == (2 if rewritten else 1)
    meanwhile = await rankings(world)
    assert meanwhile != before
    # A row that comes now is weighed by the new ones.
    await write(world, [Text("new", "kettle new")])
    await world.corpus.reweigh(k1=2.0, b=0.3, average_length=5.0)
    assert not await is_mixed(world)
    assert await weighed(world) == 1
    await world.delete("new")
    assert await rankings(world) == meanwhile


async def test_a_rewrite_that_was_stopped_goes_on_by_itself(world: World) -> None:
    await filled(world)
    corpus = world.corpus.corpus

    async def begin(session: Any) -> None:
        await set_parameters(session, corpus=corpus.name, parameters={"k1": 2.0})

    await world.stack.service.transaction(begin)
    # A fifth more is due for a refresh, which sees what was left.
    await write(world, [Text(f"more{number}", f"kettle more{number}") for number in range(10)])
    await world.corpus.settle()
    assert not await is_mixed(world)


async def test_the_explanation_weighs_as_the_search_does(world: World) -> None:
    await filled(world)

    async def begin(session: Any) -> None:
        await set_parameters(session, corpus=world.corpus.corpus.name, parameters={"k1": 2.0, "b": 0.1})

    await world.stack.service.transaction(begin)
    hits = await world.corpus.search(owner_id="acme", query="tea water", mode="text", explain=True)
    for hit in hits:
        assert sum(term.idf * term.frequency * term.weight for term in hit.matched) == pytest.approx(
            hit.score, rel=1e-3
        )


@pytest.mark.parametrize("kind", ["documents"])
async def test_what_was_loaded_is_ranked_at_once_as_it_is_later_on(world: World) -> None:
    # The first texts are short: an average is adopted that is left on the way.
    await write(world, [Text(f"short{number}", f"kettle s{number}") for number in range(60)])
    long = [Text(f"long{number}", f"kettle {'tea water ' * (3 + number % 5)}l{number}") for number in range(90)]
    await write(world, long)
    at_once = await rankings(world)
    await world.corpus.settle()
    assert await rankings(world) == at_once


async def test_a_writer_who_outlasts_the_wait_keeps_searches_weighing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "WRITERS_AWAITED", 0.1)
    await filled(world)
    rows: Any = world.corpus.corpus.rows
    table = rows.__table__
    name = f"{table.schema}.{table.name}"
    async with world.stack.service.session() as session:
        await session.execute(text(f"LOCK TABLE {name} IN ROW EXCLUSIVE MODE"))
        await world.corpus.reweigh(k1=1.9)
        assert await is_mixed(world)
        await session.commit()
    await world.corpus.reweigh(k1=1.9)
    assert not await is_mixed(world)
