"""Index builds as they run: told step by step, and nothing invalid left however they end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import pytest
from sqlalchemy import text
from sqlalchemy.pool import QueuePool
from vector_support import add_vector_space, clustered, load_vectors

from llmstack.db import Database, Service
from llmstack.embeddings import builds as builds_module
from llmstack.embeddings import definition
from llmstack.embeddings.builds import IndexProgress
from llmstack.embeddings.index import SpaceIndex
from llmstack.errors import DatabaseUnavailable
from llmstack.settings import Settings

ROWS, DIMENSIONS = 3000, 64
Found = TypeVar("Found")
WAITING = "waiting for writers before build"


@pytest.fixture
async def index(llmstack_service: Service) -> SpaceIndex:
    """Three thousand vectors of one owner, not yet indexed."""
    space = await add_vector_space(llmstack_service, dimensions=DIMENSIONS, index_parameters={"m": 24})
    await load_vectors(llmstack_service, space, ["acme"] * ROWS, clustered(ROWS, DIMENSIONS))
    return SpaceIndex(llmstack_service, "chunk_embeddings", space)


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builds_module, "_POLL_SECONDS", 0.01)


async def states(service: Service) -> dict[str, bool]:
    """Every index of a space, and whether it is valid."""
    statement = text(
        "SELECT relname, indisvalid FROM pg_index JOIN pg_class ON oid = indexrelid "
        "WHERE relname LIKE 'ix_chunk_embeddings_s%'"
    )
    async with service.single_statements() as session:
        return {row.relname: row.indisvalid for row in await session.execute(statement)}


def checked_out(service: Service) -> int:
    pool = service.database.engine.pool
    assert isinstance(pool, QueuePool)
    return pool.checkedout()


async def partition_of(service: Service, owner: str = "acme") -> str:
    statement = text("SELECT DISTINCT tableoid::regclass::text FROM llmstack.chunk_embeddings WHERE owner_id = :owner")
    async with service.single_statements() as session:
        return str(await session.scalar(statement, {"owner": owner}))


@contextlib.asynccontextmanager
async def held_up(service: Service) -> AsyncIterator[None]:
    """A writer in the owner's partition, for whose end every build there waits."""
    partition = await partition_of(service)
    async with service.session() as session:
        await session.execute(text(f"LOCK TABLE {partition} IN ROW EXCLUSIVE MODE"))
        yield
        await session.rollback()


async def builder(service: Service) -> int | None:
    """The backend that waits for writers before it builds."""
    async with service.single_statements() as session:
        statement = text("SELECT pid FROM pg_stat_progress_create_index WHERE phase = :phase")
        return (await session.execute(statement, {"phase": WAITING})).scalar_one_or_none()


async def _again(look: Callable[[], Awaitable[Found]]) -> AsyncIterator[Found]:
    while True:
        yield await look()
        await asyncio.sleep(0.02)


async def until_waiting(service: Service) -> int:
    async with asyncio.timeout(30):
        async for pid in _again(lambda: builder(service)):
            if pid is not None:
                return pid
    raise AssertionError


async def test_a_build_tells_its_phases_and_the_rows_of_the_partition(index: SpaceIndex) -> None:
    told: list[IndexProgress] = []
    await index.build(progress=told.append)
    loading = [one for one in told if one.phase == "building index: loading tuples" and one.total == ROWS]
    assert loading
    assert any(0 < one.done < ROWS for one in loading)
    assert [one.done for one in loading] == sorted(one.done for one in loading)
    shares = [one.share for one in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    done = [(one.partition, one.done, one.total) for one in told if one.phase == "done"]
    assert [number for number, *_ in done] == list(range(1, 17))
    assert sum(total for *_, total in done) == ROWS


async def test_a_cancelled_build_leaves_nothing_invalid_and_no_backend(
    llmstack_service: Service, index: SpaceIndex
) -> None:
    async with held_up(llmstack_service):
        building = asyncio.create_task(index.build())
        pid = await until_waiting(llmstack_service)
        assert False in (await states(llmstack_service)).values()
        building.cancel()
        # The index that was under way can only be dropped when the writer is gone.
        await asyncio.sleep(0.2)
    with pytest.raises(asyncio.CancelledError):
        await building
    assert set((await states(llmstack_service)).values()) <= {True}
    async with llmstack_service.single_statements() as session:
        assert await session.scalar(text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid"), {"pid": pid}) == 0
    await index.build()
    assert list((await states(llmstack_service)).values()) == [True] * 17


async def test_a_build_cancelled_twice_is_cleaned_up_all_the_same(llmstack_service: Service, index: SpaceIndex) -> None:
    async with held_up(llmstack_service):
        building = asyncio.create_task(index.build())
        await until_waiting(llmstack_service)
        building.cancel()
        await asyncio.sleep(0.1)
        building.cancel()
        with pytest.raises(asyncio.CancelledError):
            await building
    async with asyncio.timeout(30):
        async for found in _again(lambda: states(llmstack_service)):
            if False not in found.values():
                break
        # The cleaning up has gone on by itself, and now gives its connection back.
        async for _ in _again(lambda: states(llmstack_service)):
            if checked_out(llmstack_service) == 0:
                return


async def test_a_build_whose_backend_is_killed_leaves_nothing_invalid(
    llmstack_service: Service, index: SpaceIndex
) -> None:
    async with held_up(llmstack_service):
        building = asyncio.create_task(index.build())
        pid = await until_waiting(llmstack_service)
        async with llmstack_service.single_statements() as session:
            await session.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
    with pytest.raises(DatabaseUnavailable):
        await building
    assert set((await states(llmstack_service)).values()) <= {True}
    await index.build()
    assert list((await states(llmstack_service)).values()) == [True] * 17


async def test_what_a_progress_callback_raises_ends_the_build_and_is_raised(
    llmstack_service: Service, index: SpaceIndex
) -> None:
    stopped = asyncio.Event()

    def stop(progress: IndexProgress) -> None:
        if progress.phase.startswith("waiting"):
            stopped.set()
            raise KeyError(progress.phase)

    async with held_up(llmstack_service):
        building = asyncio.create_task(index.build(progress=stop))
        await stopped.wait()
    with pytest.raises(KeyError, match="waiting"):
        await building
    assert set((await states(llmstack_service)).values()) <= {True}


async def test_progress_needs_no_second_connection_to_go_on(llmstack_service: Service, index: SpaceIndex) -> None:
    url = llmstack_service.database.engine.url
    async with Database(url, settings=Settings(pool_size=1, max_overflow=0, pool_timeout=0.05)) as narrow:
        told: list[IndexProgress] = []
        built = await SpaceIndex(narrow.service(), "chunk_embeddings", index.space).build(progress=told.append)
    assert len(built) == 16
    assert {one.phase for one in told} == {"done"}


async def notices(index: SpaceIndex, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What pgvector says while it builds."""
    heard: list[str] = []
    original = builds_module.Build.run

    async def listening(self: Any, statement: str) -> None:
        driver: Any = (await self.connection.get_raw_connection()).driver_connection
        driver.add_log_listener(lambda _connection, message: heard.append(message.message))
        await original(self, statement)

    monkeypatch.setattr(builds_module.Build, "run", listening)
    await index.build()
    return heard


async def test_the_graph_of_a_partition_fits_into_the_memory_that_is_asked_for(
    llmstack_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = await add_vector_space(llmstack_service, dimensions=64, index_parameters={"m": 32})
    await load_vectors(llmstack_service, space, ["acme"] * 10_000, clustered(10_000, 64))
    # Nothing but the estimate.
    monkeypatch.setattr(definition, "_LEAST_MEMORY", 1 << 20)
    async with llmstack_service.session() as session:
        database = llmstack_service.database.engine.url.database
        await session.execute(text(f"ALTER DATABASE {database} SET maintenance_work_mem = '1MB'"))
        await session.commit()
    await llmstack_service.database.engine.dispose()
    index = SpaceIndex(llmstack_service, "chunk_embeddings", space)
    assert await notices(index, monkeypatch) == []
