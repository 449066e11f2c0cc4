"""Indexes of a space: one for each partition, used by the search's expression, repaired when broken."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from embedding_support import Counting, add_chunks, service_with, vector_of
from sqlalchemy import Float, literal, select, text, update

from llmstack.db import Database, Service
from llmstack.db.locks import lock_key
from llmstack.db.migrate import upgrade
from llmstack.documents.models import ChunkEmbedding
from llmstack.embeddings import EmbeddingService, EmbeddingSpace, column_of
from llmstack.embeddings.builds import IndexProgress
from llmstack.embeddings.index import SpaceIndex
from llmstack.errors import ConfigurationError, MigrationLockTimeout
from llmstack.settings import Settings


@pytest.fixture
async def embeddings(llmstack_service: Service) -> EmbeddingService:
    """Forty embedded chunks of eight owners."""
    embeddings = service_with(llmstack_service, Counting())
    for owner in range(8):
        await add_chunks(llmstack_service, [f"{owner} {number}" for number in range(5)], owner_id=f"o{owner}")
    await embeddings.backfill()
    await embeddings.process_pending()
    return embeddings


async def _indexes(service: Service) -> dict[str, bool]:
    statement = text(
        "SELECT c.relname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "WHERE c.relname LIKE 'ix_chunk_embeddings_s%'"
    )
    async with service.session() as session:
        return {row.relname: row.indisvalid for row in await session.execute(statement)}


async def _plan(service: Service, embeddings: EmbeddingService) -> str:
    space = await embeddings.space()
    column = column_of(space, ChunkEmbedding)
    nearest = (
        select(ChunkEmbedding.row_id)
        .where(ChunkEmbedding.space_id == space.id, ChunkEmbedding.owner_id == "o1")
        .order_by(column.op("<=>", return_type=Float())(literal(vector_of("0 0"), column.type)))
        .limit(3)
    )
    sql = nearest.compile(service.engine.sync_engine, compile_kwargs={"literal_binds": True}, schema_translate_map=None)
    async with service.session() as session:
        await session.execute(text("SET LOCAL enable_seqscan = off"))
        await session.execute(text("SET LOCAL enable_sort = off"))
        return "\n".join(await session.scalars(text("EXPLAIN " + str(sql).replace(":", r"\:"))))


@pytest.mark.parametrize("distance", ["cosine", "inner_product", "l2"])
async def test_every_partition_gets_an_index_and_the_whole_is_valid(
    llmstack_service: Service, embeddings: EmbeddingService, distance: str
) -> None:
    async with llmstack_service.session() as session:
        await session.execute(update(EmbeddingSpace).values(distance=distance))
        await session.commit()
    told: list[IndexProgress] = []
    built = await embeddings.build_index(progress=told.append)
    name = f"ix_chunk_embeddings_s{(await embeddings.space()).id}"
    assert built == [f"{name}_p{number:02d}" for number in range(16)]
    assert await _indexes(llmstack_service) == dict.fromkeys([name, *built], True)
    assert [(one.partition, one.partitions) for one in told if one.phase == "done"] == [(n, 16) for n in range(1, 17)]
    assert sum(one.total for one in told if one.phase == "done") == 40
    assert told[-1].share == 1.0
    assert [space.index for space in await embeddings.spaces()] == ["ready"]


async def test_the_column_of_a_space_is_what_its_index_covers(
    llmstack_service: Service, embeddings: EmbeddingService
) -> None:
    await embeddings.build_index()
    assert "ix_chunk_embeddings_s" in await _plan(llmstack_service, embeddings)


async def test_a_second_build_finds_nothing_to_do(embeddings: EmbeddingService) -> None:
    await embeddings.build_index()
    assert await embeddings.build_index() == []


async def test_builders_at_the_same_time_build_each_index_once(
    llmstack_service: Service, embeddings: EmbeddingService
) -> None:
    built = await asyncio.gather(embeddings.build_index(), embeddings.build_index())
    assert sorted(map(len, built)) == [0, 16]
    assert all((await _indexes(llmstack_service)).values())


async def test_a_builder_waits_for_another_no_longer_than_it_may_and_says_for_whom(
    llmstack_service: Service, embeddings: EmbeddingService, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"ix_chunk_embeddings_s{(await embeddings.space()).id}"
    impatient = Database(engine=llmstack_service.database.engine, settings=Settings(migration_lock_timeout=0.3))
    async with llmstack_service.session() as session:
        space = (await session.scalars(select(EmbeddingSpace))).one()
    index = SpaceIndex(impatient.service(), "chunk_embeddings", space)
    async with llmstack_service.engine.connect() as holder:
        database = await holder.scalar(text("SELECT current_database()"))
        key = lock_key(database=str(database), schema=f"llmstack\0{name}")
        pid = await holder.scalar(text("SELECT pg_backend_pid() FROM pg_advisory_lock(:key)"), {"key": key})
        said = f"the build of index '{name}' in schema 'llmstack'; the lock is held by pid {pid}, "
        with pytest.raises(MigrationLockTimeout, match=f"waited 0.3 s for {said}"):
            await index.build()
        assert f"waiting for {said}" in caplog.text
        await holder.invalidate()
    assert len(await index.build()) == 16


async def test_an_invalid_leftover_is_dropped_and_rebuilt(
    llmstack_service: Service, embeddings: EmbeddingService
) -> None:
    name = f"ix_chunk_embeddings_s{(await embeddings.space()).id}"
    engine = llmstack_service.engine.execution_options(isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        # A unique index over equal values fails, and leaves what a broken build leaves.
        broken = f"CREATE UNIQUE INDEX CONCURRENTLY {name}_p03 ON llmstack.chunk_embeddings_p03 ((1))"
        for owner in range(8, 60):
            await add_chunks(llmstack_service, ["a", "b"], owner_id=f"o{owner}")
        await embeddings.backfill()
        await embeddings.process_pending()
        with pytest.raises(Exception, match="could not create unique index"):
            await connection.execute(text(broken))
    assert await _indexes(llmstack_service) == {f"{name}_p03": False}
    assert f"{name}_p03" in await embeddings.build_index()
    assert all((await _indexes(llmstack_service)).values())


async def test_a_build_that_was_broken_off_is_completed(
    llmstack_service: Service, embeddings: EmbeddingService
) -> None:
    def stop(progress: IndexProgress) -> None:
        if progress.partition == 5:
            raise KeyError("stopped")

    with pytest.raises(KeyError):
        await embeddings.build_index(progress=stop)
    assert [space.index for space in await embeddings.spaces()] == ["incomplete"]
    assert len(await embeddings.build_index()) == 11
    assert [space.index for space in await embeddings.spaces()] == ["ready"]


async def test_rows_are_written_while_an_index_is_built(
    llmstack_service: Service, embeddings: EmbeddingService
) -> None:
    building = asyncio.create_task(embeddings.build_index())
    written = 0
    while not building.done():
        await add_chunks(llmstack_service, ["meanwhile"], owner_id=f"w{written}")
        await embeddings.backfill()
        written += (await embeddings.process_pending()).embedded
    assert len(await building) == 16
    assert written > 0


async def test_dropping_leaves_no_index_behind(llmstack_service: Service, embeddings: EmbeddingService) -> None:
    await embeddings.build_index()
    await embeddings.drop_index()
    assert await _indexes(llmstack_service) == {}
    assert [space.index for space in await embeddings.spaces()] == ["absent"]
    await embeddings.drop_index()


async def test_a_build_leaves_no_changed_connection_in_the_pool(
    llmstack_service: Service, embeddings: EmbeddingService
) -> None:
    await embeddings.build_index()
    async with llmstack_service.session() as session:
        assert await session.scalar(text("SHOW statement_timeout")) != "0"
        assert await session.scalar(text("SHOW lock_timeout")) == "0"
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        assert await session.scalar(text(held)) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index_method": "none"}, "searched exactly"),
        ({"index_parameters": {"lists": 5}}, "hnsw has no parameter lists"),
        ({"storage": "vector", "dimensions": 2001}, "up to 2000"),
    ],
)
async def test_an_index_that_cannot_be_is_refused(
    llmstack_service: Service, embeddings: EmbeddingService, change: dict[str, Any], message: str
) -> None:
    async with llmstack_service.session() as session:
        await session.execute(update(EmbeddingSpace).values(**change))
        await session.commit()
    with pytest.raises(ConfigurationError, match=message):
        await embeddings.build_index()


async def test_ivfflat_gets_lists_by_its_rows(llmstack_service: Service, embeddings: EmbeddingService) -> None:
    async with llmstack_service.session() as session:
        await session.execute(update(EmbeddingSpace).values(index_method="ivfflat"))
        await session.commit()
    assert len(await embeddings.build_index()) == 16
    statement = text("SELECT DISTINCT reloptions FROM pg_class WHERE relname LIKE 'ix_chunk_embeddings_s%p__'")
    async with llmstack_service.session() as session:
        assert list(await session.scalars(statement)) == [["lists=1"]]


async def test_a_schema_with_an_awkward_name_gets_its_own_index(llmstack_service: Service) -> None:
    await upgrade(llmstack_service.database.engine, schema="Svc A")
    service = llmstack_service.database.service("Svc A")
    embeddings = service_with(service, Counting())
    await add_chunks(service, ["one"])
    await embeddings.backfill()
    await embeddings.process_pending()
    assert len(await embeddings.build_index()) == 16
    assert [space.index for space in await embeddings.spaces()] == ["ready"]
    assert await service_with(llmstack_service, Counting()).spaces() == []
