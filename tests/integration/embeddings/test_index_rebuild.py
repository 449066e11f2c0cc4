"""An index built anew beside the old one: no search fails or lacks an index, and nothing is left over."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from index_support import change, found_by, indexes_in_plan, lists_of, oids, search_of, states
from sqlalchemy import text
from vector_support import add_vector_space, clustered, load_vectors, nearest

from llmstack.db import Database, Service
from llmstack.embeddings import index as index_module
from llmstack.embeddings.builds import IndexProgress
from llmstack.embeddings.index import SpaceIndex
from llmstack.settings import Settings

ROWS, DIMENSIONS = 2500, 32
VECTORS = clustered(ROWS, DIMENSIONS)
SEVENTEEN = [True] * 17


async def index_with(service: Service, **values: Any) -> SpaceIndex:
    """An index over the vectors of one owner, built."""
    space = await add_vector_space(service, dimensions=DIMENSIONS, **values)
    await load_vectors(service, space, ["acme"] * ROWS, VECTORS)
    index = SpaceIndex(service, "chunk_embeddings", space)
    await index.build()
    return index


def stop_at(partition: int) -> Any:
    def stop(progress: IndexProgress) -> None:
        if progress.partition == partition:
            raise KeyError("killed")

    return stop


async def interrupted(index: SpaceIndex, *, at: int = 6) -> None:
    with pytest.raises(KeyError, match="killed"):
        await index.rebuild(progress=stop_at(at))


@pytest.mark.parametrize("method", ["hnsw", "ivfflat"])
async def test_searches_go_on_by_an_index_while_it_is_rebuilt(llmstack_service: Service, method: str) -> None:
    index = await index_with(llmstack_service, index_method=method)
    before = await oids(llmstack_service)
    running, searches, pages = True, 0, []

    async def search_on(start: int) -> None:
        nonlocal searches
        number = start
        while running:
            number = (number + 7) % ROWS
            statement = search_of(index.space, VECTORS[number], limit=10)
            assert any(name.startswith(index.name) for name in await indexes_in_plan(llmstack_service, statement))
            ids, paths = await found_by(llmstack_service, statement)
            pages.append((len(ids), paths))
            searches += 1

    searching = [asyncio.create_task(search_on(start)) for start in range(3)]
    for _ in range(3):
        assert len(await index.rebuild()) == 16
    running = False
    await asyncio.gather(*searching)
    assert searches > 10
    assert {length for length, _ in pages} == {10}
    assert list((await states(llmstack_service)).values()) == SEVENTEEN
    after = await oids(llmstack_service)
    assert set(after) == set(before)
    assert not set(after.values()) & set(before.values())


async def test_the_lists_follow_the_rows(llmstack_service: Service) -> None:
    index = await index_with(llmstack_service, index_method="ivfflat")
    assert await lists_of(llmstack_service, f"{index.name}_p%") == {1, 2}
    more = clustered(4000, DIMENSIONS, seed=8)
    await load_vectors(llmstack_service, index.space, ["acme"] * len(more), more)
    assert await index.build() == []
    assert await lists_of(llmstack_service, f"{index.name}_p%") == {1, 2}
    built = await index.rebuild()
    assert built == [f"{index.name}_p{number:02d}" for number in range(16)]
    assert await lists_of(llmstack_service, f"{index.name}_p%") == {1, 6}
    assert list((await states(llmstack_service)).values()) == SEVENTEEN


async def test_an_interrupted_rebuild_goes_on_where_it_was(llmstack_service: Service) -> None:
    index = await index_with(llmstack_service)
    await interrupted(index)
    left = {name: oid for name, oid in (await oids(llmstack_service)).items() if "_new" in name}
    assert len(left) >= 5
    assert set((await states(llmstack_service)).values()) == {True}
    built = await index.rebuild()
    assert len(built) == 16 - len(left)
    after = await oids(llmstack_service)
    assert list((await states(llmstack_service)).values()) == SEVENTEEN
    assert {after[name.replace("_new", "")] for name in left} == set(left.values())


async def test_what_was_made_by_other_parameters_is_made_again(llmstack_service: Service) -> None:
    index = await index_with(llmstack_service)
    await interrupted(index)
    changed = await change(llmstack_service, index.space, index_parameters={"m": 8, "ef_construction": 40})
    assert len(await SpaceIndex(llmstack_service, "chunk_embeddings", changed).rebuild()) == 16
    async with llmstack_service.single_statements() as session:
        options = text("SELECT DISTINCT reloptions FROM pg_class WHERE relname LIKE 'ix_chunk_embeddings_s%'")
        assert list(await session.scalars(options)) == [["m=8", "ef_construction=40"]]


async def test_parts_that_are_united_already_are_made_again_for_another_distance(llmstack_service: Service) -> None:
    index = await index_with(llmstack_service)
    # Killed right before the swap: the new index is whole.
    swap, index_module.SpaceIndex._swap = index_module.SpaceIndex._swap, _killed  # type: ignore[method-assign]
    try:
        with pytest.raises(KeyError):
            await index.rebuild()
    finally:
        index_module.SpaceIndex._swap = swap  # type: ignore[method-assign]
    assert list((await states(llmstack_service)).values()) == [True] * 34
    changed = await change(llmstack_service, index.space, distance="l2")
    assert len(await SpaceIndex(llmstack_service, "chunk_embeddings", changed).rebuild()) == 16
    assert list((await states(llmstack_service)).values()) == SEVENTEEN
    statement = search_of(changed, VECTORS[5], limit=10)
    assert any(name.startswith(index.name) for name in await indexes_in_plan(llmstack_service, statement))


async def _killed(self: Any, connection: Any) -> None:
    raise KeyError("killed")


@pytest.mark.parametrize("verb", ["build", "drop"])
async def test_what_an_interrupted_rebuild_left_goes_with_the_next_build_or_drop(
    llmstack_service: Service, verb: str
) -> None:
    index = await index_with(llmstack_service)
    before = await oids(llmstack_service)
    await interrupted(index)
    assert len(await oids(llmstack_service)) > 17
    await getattr(index, verb)()
    assert await oids(llmstack_service) == (before if verb == "build" else {})


async def test_a_rebuild_without_an_index_is_a_build(llmstack_service: Service) -> None:
    index = await index_with(llmstack_service)
    await index.drop()
    assert len(await index.rebuild()) == 16
    assert list((await states(llmstack_service)).values()) == SEVENTEEN


async def test_builds_and_rebuilds_at_the_same_time_end_with_one_index(llmstack_service: Service) -> None:
    index = await index_with(llmstack_service)
    await asyncio.gather(index.rebuild(), index.build(), index.rebuild())
    assert list((await states(llmstack_service)).values()) == SEVENTEEN


async def test_a_long_transaction_keeps_the_old_index_and_not_the_new_one_away(
    llmstack_service: Service, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = await index_with(llmstack_service)
    before = await oids(llmstack_service)
    monkeypatch.setattr("llmstack.db.locks._BRIEF_WAITS", 2)
    hasty = Database(engine=llmstack_service.database.engine, settings=Settings(ddl_lock_timeout=0.05))
    async with llmstack_service.session() as reader:
        await reader.execute(text("LOCK TABLE llmstack.chunk_embeddings IN ACCESS SHARE MODE"))
        with caplog.at_level(logging.WARNING):
            assert len(await SpaceIndex(hasty.service(), "chunk_embeddings", index.space).rebuild()) == 16
        assert f"{index.name}_old" in caplog.text
        after = await oids(llmstack_service)
        assert {after[f"{index.name}_old{name.removeprefix(index.name)}"] for name in before} == set(before.values())
        assert len(after) == 34
        await reader.rollback()
    assert await index.build() == []
    assert list((await states(llmstack_service)).values()) == SEVENTEEN
    assert not set((await oids(llmstack_service)).values()) & set(before.values())


async def test_rows_written_during_a_rebuild_are_in_the_new_index(llmstack_service: Service) -> None:
    index = await index_with(llmstack_service)
    more = clustered(600, DIMENSIONS, seed=21)
    rebuilding = asyncio.create_task(index.rebuild())
    ids = []
    for part in range(6):
        chunk = more[part * 100 : part * 100 + 100]
        ids += await load_vectors(llmstack_service, index.space, ["acme"] * 100, chunk, analyze=False)
    await rebuilding
    for row in range(0, 600, 60):
        statement = search_of(index.space, more[row], limit=1)
        assert index.name in str(await indexes_in_plan(llmstack_service, statement))
        found, _ = await found_by(llmstack_service, statement)
        assert found == [ids[nearest(more, more[row], 1)[0]]]
