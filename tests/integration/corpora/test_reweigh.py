"""Statistics and BM25 weights follow the corpus, whoever changes it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from corpus_support import MakeWorld, Text, World, write
from notes import Note
from sqlalchemy import func, select, text

from llmstack.db import CorpusStatistics
from llmstack.errors import StatementTimeout
from llmstack.retrieval.tuning import statistics
from llmstack.search import refresh_statistics
from llmstack.search import statistics as term_statistics
from llmstack.search.reweigh import has_moved

TABLES = {"documents": "llmstack.chunks", "notes": "notebook.notes"}


async def weighed_by(world: World) -> set[float]:
    async with world.stack.service.session() as session:
        rows: Any = world.corpus.corpus.rows
        return set(await session.scalars(select(rows.bm25_average_length).where(rows.search_vector.is_not(None))))


async def add_short_texts(world: World, count: int) -> None:
    await world.add({str(number): f"kettle number{number} whistles" for number in range(count)}, owner_id="ann")


async def test_a_small_corpus_of_short_texts_is_reweighed_by_itself(world: World) -> None:
    await add_short_texts(world, 5)
    await world.corpus.settle()
    async with world.stack.service.session() as session:
        measured = await session.scalar(select(CorpusStatistics.average_length))
    assert measured is not None
    assert measured < 50
    assert all(length < 50 for length in await weighed_by(world))


async def test_an_average_that_was_adopted_is_followed_when_the_corpus_goes_on_otherwise(world: World) -> None:
    await add_short_texts(world, 5)
    await world.corpus.settle()
    (early,) = await weighed_by(world)
    longer = [Text(f"long{number}", f"kettle number{number} whistles, boils, rocks loudly") for number in range(40)]
    await write(world, longer)
    await world.corpus.refresh_statistics()
    await world.corpus.settle()
    async with world.stack.service.session() as session:
        measured = await session.scalar(select(CorpusStatistics.average_length))
    assert measured is not None
    assert early * 1.25 < measured < early * 2
    await write(
        world, [Text(f"more{number}", f"kettle {number} whistles, boils, rocks loudly") for number in range(40)]
    )
    await world.corpus.settle()
    (later,) = await weighed_by(world)
    assert early * 1.25 < later < early * 2


@pytest.mark.parametrize(
    ("measured", "assumed", "moved"),
    [
        (199, 100, False),
        (201, 100, True),
        (49, 100, True),
        (24, 20, False),
        (26, 20, True),
        (15, 20, True),
        (0, 20, False),
    ],
)
def test_the_default_is_given_up_at_twice_and_what_was_adopted_at_a_quarter(
    measured: float, assumed: float, moved: bool
) -> None:
    assert has_moved(measured, assumed) is moved


async def test_reweigh_gives_every_row_the_measured_average_and_then_finds_nothing_to_do(world: World) -> None:
    await add_short_texts(world, 5)
    await world.corpus.settle()
    await add_short_texts(world, 6)
    await world.corpus.refresh_statistics()
    await world.corpus.reweigh()
    async with world.stack.service.session() as session:
        measured = await session.scalar(select(CorpusStatistics.average_length))
        rows = await session.scalar(select(func.count()).select_from(world.corpus.corpus.rows))
    assert await weighed_by(world) == {measured}
    assert rows == 6
    assert await world.corpus.reweigh() == 0


async def recorded(world: World) -> tuple[int, int]:
    columns = (CorpusStatistics.row_count, CorpusStatistics.changed_rows)
    of_corpus = select(*columns).where(CorpusStatistics.corpus == world.corpus.corpus.name)
    async with world.stack.service.session() as session:
        row = (await session.execute(of_corpus)).one()
        return row.row_count, row.changed_rows


async def test_processes_that_each_change_too_little_refresh_the_statistics_together(make_world: MakeWorld) -> None:
    first, second = make_world(), make_world()
    await write(first, [Text(f"d{number}") for number in range(100)])
    await first.corpus.settle()
    await first.corpus.refresh_statistics()
    assert await recorded(first) == (100, 0)
    await write(first, [Text(f"a{number}") for number in range(15)])
    await first.corpus.settle()
    assert await recorded(first) == (100, 15)
    await write(second, [Text(f"b{number}") for number in range(5)])
    await second.corpus.settle()
    assert await recorded(second) == (100, 20)
    await write(second, [Text("one more")])
    await second.corpus.settle()
    assert await recorded(second) == (121, 0)


async def test_what_is_changed_during_a_refresh_counts_for_the_next(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make_world(), make_world()
    await write(first, [Text(f"d{number}") for number in range(100)])
    await first.corpus.settle()
    await first.corpus.refresh_statistics()
    count = term_statistics._put_terms

    async def interrupted(*given: Any) -> None:
        # The row is free for others until the end of a refresh, and then counts what it did not see.
        await write(second, [Text("meanwhile")])
        await second.corpus.settle()
        await count(*given)

    monkeypatch.setattr(term_statistics, "_put_terms", interrupted)
    await first.corpus.refresh_statistics()
    rows, changed = await recorded(first)
    assert (rows, changed) == (100, 1)


@contextlib.asynccontextmanager
async def rows_in_use(world: World) -> AsyncIterator[None]:
    """Whoever reads the rows waits for a third of a second."""
    async with world.stack.service.engine.connect() as connection:
        await connection.execute(text(f"LOCK TABLE {TABLES[world.corpus.corpus.name]} IN ACCESS EXCLUSIVE MODE"))

        async def let_go() -> None:
            await asyncio.sleep(0.3)
            await connection.rollback()

        letting_go = asyncio.create_task(let_go())
        yield
        await letting_go


async def test_a_refresh_takes_its_time_and_gives_the_time_limit_back(world: World) -> None:
    await world.add({"it": "kettle"}, owner_id="ann")
    await world.corpus.settle()
    limit = text("SELECT set_config('statement_timeout', '100ms', true)")
    async with rows_in_use(world), world.stack.service.session() as session:
        await session.execute(limit)
        found = await refresh_statistics(session, model=world.corpus.corpus.rows, corpus=world.corpus.corpus.name)
        assert await session.scalar(text("SHOW statement_timeout")) == "100ms"
        await session.commit()
    assert found is not None
    assert found.row_count == 1

    async def count_in_time() -> None:
        async with world.stack.service.session() as session:
            await session.execute(limit)
            await session.scalar(select(func.count()).select_from(world.corpus.corpus.rows))

    async with rows_in_use(world):
        with pytest.raises(StatementTimeout):
            await count_in_time()


async def test_a_mass_deletion_and_its_undoing_are_changes_like_any_other(world: World) -> None:
    texts = {f"d{number}": f"kettle number{number} whistles" for number in range(40)}
    await world.add(texts)
    await world.corpus.refresh_statistics()
    await world.corpus.settle()
    assert (await recorded(world))[0] == 40
    await world.delete(*texts)
    await world.corpus.settle()
    assert await recorded(world) == (0, 0)
    await world.restore("d7")
    await world.corpus.settle()
    assert await recorded(world) == (1, 0)


@pytest.mark.parametrize("kind", ["notes"], indirect=True)
@pytest.mark.parametrize("others", [0, 5])
async def test_a_row_that_is_being_written_meanwhile_is_weighed_as_all_others_are(world: World, others: int) -> None:
    await world.add({str(number): f"kettle number{number} whistles" for number in range(others)})
    await world.corpus.settle()
    async with world.stack.service.session() as session:
        # It has read the parameters from before, and nobody sees it yet.
        session.add(Note(owner_id="acme", slug="late", content="a late kettle"))
        await session.flush()
        reweighing = asyncio.create_task(world.corpus.reweigh(average_length=20.0))
        done, _ = await asyncio.wait([reweighing], timeout=0.5)
        assert not done
        await session.commit()
    assert await reweighing == others + 1
    assert await weighed_by(world) == {20.0}


async def test_what_two_refreshes_at_once_tell_is_told_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.add({str(number): f"kettle number{number}" for number in range(20)})
    await world.corpus.settle()
    keeper, refresh = world.corpus._statistics, refresh_statistics
    first_may_go, calls = asyncio.Event(), iter(range(2))

    async def first_waits(session: Any, **given: Any) -> Any:
        if next(calls) == 0:
            await first_may_go.wait()
        return await refresh(session, **given)

    monkeypatch.setattr(statistics, "refresh_statistics", first_waits)
    keeper._changed = 15
    first = asyncio.create_task(world.corpus.refresh_statistics())
    await asyncio.sleep(0)
    assert await world.corpus.refresh_statistics() is not None
    first_may_go.set()
    assert await first is not None
    assert keeper._changed == 0
