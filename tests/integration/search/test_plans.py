"""The plans of a real search over twenty thousand chunks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from search_support import CORPUS
from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import asyncpg

from llmstack.db import Service
from llmstack.documents import queries
from llmstack.documents.models import Chunk
from llmstack.documents.results import PLAIN
from llmstack.embeddings import EmbeddingSpace, Space
from llmstack.embeddings.index import SpaceIndex
from llmstack.search import SearchOptions, refresh_statistics
from llmstack.testing import servers

CHUNKS, OWNERS, DIMENSIONS = 20_000, 40, 16
BIG, SMALL = "big", "small 1"
# Half of the chunks are one owner's, the others are those of forty small ones.
_LOAD = (
    "SELECT setseed(0.5)",
    """
    INSERT INTO documents (id, owner_id, id_at_origin, name, document_type, language, content_hash,
                           content_bytes, chunking)
    SELECT gen_random_uuid(), CASE WHEN d % 2 = 0 THEN 'big' ELSE 'small ' || d % :owners END, d, 'D', 'text',
           'simple', 'x', 1, '{}' FROM generate_series(1, 400) AS d""",
    """
    INSERT INTO chunks (id, owner_id, document_id, position, content, language, token_count, start_offset,
                        end_offset, content_hash)
    SELECT gen_random_uuid(), owner_id, id, p, words, 'simple', 1, 0, 1, p::text::bytea
    FROM documents, generate_series(1, :chunks / 400) AS p, LATERAL (
        SELECT string_agg('w' || floor(5000 * power(random(), 3))::int, ' ') AS words
        FROM generate_series(1, 15) WHERE p > 0) AS text""",
    """
    INSERT INTO chunk_embeddings (owner_id, chunk_id, space_id, embedding)
    SELECT owner_id, id, :space, vector FROM chunks, LATERAL (
        SELECT array_agg(random() - 0.5)::real[]::halfvec AS vector
        FROM generate_series(1, :dimensions) WHERE position > 0) AS made""",
)


async def _build(url: str, name: str, template: str) -> None:
    await servers.create_copy(url, name, template=template)
    async with servers.open_database(url, name) as database:
        service = database.service()
        async with service.session() as session:
            space = EmbeddingSpace(name="s", provider="test", model="test", dimensions=DIMENSIONS)
            session.add(space)
            await session.flush()
            await session.refresh(space)
            await session.execute(text("SET LOCAL search_path = llmstack, public"))
            given = {"owners": OWNERS, "chunks": CHUNKS, "space": space.id, "dimensions": DIMENSIONS}
            for statement in map(text, _LOAD):
                await session.execute(statement, {key: given[key] for key in statement._bindparams})
            await refresh_statistics(session, model=Chunk, corpus=CORPUS)
            await session.commit()
        await SpaceIndex(service, "chunk_embeddings", space).build()
        async with service.single_statements() as session:
            await session.execute(text("VACUUM ANALYZE"))


@pytest.fixture(scope="module")
def corpus(llmstack_server_url: str, llmstack_template: str) -> Iterator[str]:
    """The name of the loaded database; nothing writes to it."""
    name = servers.unique_name()
    try:
        servers.run_apart(_build(llmstack_server_url, name, llmstack_template))
        yield name
    finally:
        servers.run_apart(servers.drop(llmstack_server_url, name))


@pytest.fixture
async def service(llmstack_server_url: str, corpus: str) -> AsyncIterator[Service]:
    async with servers.open_database(llmstack_server_url, corpus) as database:
        yield database.service()


async def plan_of(service: Service, owner_id: str, *, exact_rows: int = 1000, **arguments: Any) -> Any:
    """The executed plan of the statement that `stack.documents.search` sends."""
    async with service.session() as session:
        space = Space.of((await session.scalars(select(EmbeddingSpace))).one())
        asked: dict[str, Any] = {"query": None, "vector": None, "limit": 10, "fusion": None, "results": PLAIN}
        statement = queries.search(
            owner_id=owner_id,
            space=space if "vector" in arguments else None,
            options=SearchOptions(exact_rows=exact_rows),
            **{**asked, **arguments},
        )
        compiled = statement.compile(dialect=asyncpg.dialect())  # type: ignore[no-untyped-call]
        connection = (await (await session.connection()).get_raw_connection()).driver_connection
        assert connection is not None
        values = [compiled.params[name] for name in compiled.positiontup or ()]
        found = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {compiled}", *values)
        return found[0]["Plan"]


def nodes(plan: Any) -> Iterator[Any]:
    """Every node that was executed."""
    if plan.get("Actual Loops"):
        yield plan
        for below in plan.get("Plans", ()):
            yield from nodes(below)


def scanned_whole(plan: Any) -> set[str]:
    """The tables that were read from end to end, without those of a handful of rows."""
    found = (node for node in nodes(plan) if node["Node Type"] == "Seq Scan")
    return {node["Relation Name"] for node in found if node["Relation Name"].startswith("chunk")}


def indexes(plan: Any) -> set[str]:
    return {node["Index Name"] for node in nodes(plan) if "Index Name" in node}


QUERY, VECTOR = "w17 w300 w2500", [0.1 * (number % 5) - 0.2 for number in range(DIMENSIONS)]


async def test_the_text_leg_reads_the_gin_index_alone(service: Service) -> None:
    plan = await plan_of(service, BIG, query=QUERY)
    assert "ix_chunks_search_vector" in indexes(plan)
    assert not scanned_whole(plan)
    candidates = [node for node in nodes(plan) if node.get("Index Name") == "ix_chunks_search_vector"]
    # The owner is part of the index condition: strangers' rows never leave it.
    assert all(node["Actual Rows"] <= CHUNKS / 2 for node in candidates)
    assert "BitmapAnd" not in {node["Node Type"] for node in nodes(plan)}


async def test_the_vector_leg_of_a_large_owner_reads_the_hnsw_index(service: Service) -> None:
    plan = await plan_of(service, BIG, vector=VECTOR)
    assert any(name.startswith("ix_chunk_embeddings_s") for name in indexes(plan))
    whole = [node for node in nodes(plan) if node.get("Relation Name", "").startswith("chunk_embeddings")]
    assert all(node["Actual Rows"] <= 1001 for node in whole)


async def test_the_exact_arm_of_a_large_owner_does_not_run(service: Service) -> None:
    plan = await plan_of(service, BIG, query=QUERY, vector=VECTOR)
    exact = [node for node in nodes(plan) if node.get("Subplan Name") == "CTE exact"]
    assert [node["Actual Rows"] for node in exact] == [0]
    below = [node for node in nodes(exact[0]) if "Relation Name" in node]
    assert below == []


async def test_a_hybrid_search_reads_both_indexes_and_no_table_from_end_to_end(service: Service) -> None:
    plan = await plan_of(service, BIG, query=QUERY, vector=VECTOR)
    assert "ix_chunks_search_vector" in indexes(plan)
    assert any(name.startswith("ix_chunk_embeddings_s") for name in indexes(plan))
    assert "chunks" not in scanned_whole(plan)
    read = [node["Actual Rows"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"]
    assert max(read, default=0) <= 1001


async def test_a_small_owners_vectors_are_read_within_one_partition(service: Service) -> None:
    plan = await plan_of(service, SMALL, query=QUERY, vector=VECTOR)
    assert "ix_chunks_search_vector" in indexes(plan)
    assert "chunks" not in scanned_whole(plan)
    named = (node.get("Relation Name", "") for node in nodes(plan))
    assert len({name for name in named if name.startswith("chunk_embeddings")}) == 1


async def test_a_filter_keeps_the_indexes(service: Service) -> None:
    plan = await plan_of(service, BIG, query=QUERY, vector=VECTOR, where=[Chunk.position <= 25])
    assert "ix_chunks_search_vector" in indexes(plan)
    assert any(name.startswith("ix_chunk_embeddings_s") for name in indexes(plan))
