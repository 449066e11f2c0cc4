"""The plans of a real search over a hundred thousand chunks."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
from search_support import CORPUS
from sqlalchemy import ColumnElement, select, text
from sqlalchemy.dialects.postgresql import asyncpg

from llmstack import documents
from llmstack.db import Service
from llmstack.documents import DocumentFilter
from llmstack.documents.models import Chunk
from llmstack.embeddings import EmbeddingSpace, Space
from llmstack.embeddings.index import SpaceIndex
from llmstack.retrieval import Search
from llmstack.retrieval.hits import Mode
from llmstack.retrieval.statements import prepare
from llmstack.search import SearchOptions, refresh_statistics
from llmstack.testing import servers

CHUNKS, DOCUMENTS, OF_BIG, OWNERS, DIMENSIONS = 100_000, 10_000, 1100, 40, 32
BIG, SMALL = "big", "small 1"
# One owner has more chunks than are compared exactly, the others are those of forty small ones. Rows are as wide as
# those of long texts, which take much longer to index, because it is by the pages that a plan is chosen.
_LOAD = (
    "SELECT setseed(0.5)",
    """
    INSERT INTO documents (id, owner_id, id_at_origin, name, document_type, language, content_hash,
                           content_bytes, chunking, metadata, document_date, content)
    SELECT gen_random_uuid(),
           CASE WHEN d <= CAST(:big AS int) THEN 'big' ELSE 'small ' || d % :owners END, d, 'D',
           CASE WHEN d / 40 % 10 = 0 THEN 'pdf' ELSE 'text' END, 'simple', 'x', 1, '{}',
           CASE WHEN d / 40 % 100 = 0 THEN '{"kind": "rare"}' ELSE '{"kind": "common"}' END::jsonb,
           timestamptz '2024-01-01' + d * interval '1 hour', repeat('x', 1500)
    FROM generate_series(1, CAST(:documents AS int)) AS d""",
    """
    INSERT INTO chunks (id, owner_id, document_id, position, content, language, token_count, start_offset,
                        end_offset, content_hash, summary)
    SELECT gen_random_uuid(), owner_id, id, p, words, 'simple', 1, 0, 1, p::text::bytea, repeat('x', 1200)
    FROM documents, generate_series(1, CAST(:chunks AS int) / CAST(:documents AS int)) AS p, LATERAL (
        SELECT string_agg('w' || floor(20000 * power(random(), 3))::int, ' ') AS words
        FROM generate_series(1, 10) WHERE documents.id IS NOT NULL) AS text""",
    """
    INSERT INTO chunk_embeddings (owner_id, row_id, space_id, embedding)
    SELECT owner_id, id, :space, vector FROM chunks, LATERAL (
        SELECT array_agg(random() - 0.5)::real[]::halfvec AS vector
        FROM generate_series(1, :dimensions) WHERE chunks.id IS NOT NULL) AS made""",
)
_INDEX_OF_WORDS = "SELECT pg_get_indexdef(CAST('llmstack.ix_chunks_search_vector' AS regclass))"


async def _build(url: str, name: str, template: str) -> None:
    await servers.create_copy(url, name, template=template)
    async with servers.open_database(url, name) as database:
        service = database.service()
        async with service.session() as session:
            space = EmbeddingSpace(
                name="s", provider="test", model="test", dimensions=DIMENSIONS, index_parameters={"m": 8}
            )
            session.add(space)
            await session.flush()
            await session.refresh(space)
            await session.execute(text("SET LOCAL search_path = llmstack, public"))
            # The rows are right by themselves, and the index of words is quicker made afterwards.
            await session.execute(text("SET LOCAL session_replication_role = replica"))
            for trigger in ("chunks_searchable", "chunks_unsearchable"):
                await session.execute(text(f"ALTER TABLE chunks ENABLE ALWAYS TRIGGER {trigger}"))
            index = await session.scalar(text(_INDEX_OF_WORDS))
            await session.execute(text("DROP INDEX ix_chunks_search_vector"))
            given = {
                "owners": OWNERS, "documents": DOCUMENTS, "big": OF_BIG, "chunks": CHUNKS,
                "space": space.id, "dimensions": DIMENSIONS,
            }  # fmt: skip
            for statement in map(text, _LOAD):
                await session.execute(statement, {key: given[key] for key in statement._bindparams})
            await session.execute(text(str(index)))
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


async def plan_of(
    service: Service,
    owner_id: str,
    *,
    query: str | None = None,
    vector: list[float] | None = None,
    where: Sequence[ColumnElement[bool]] = (),
    exact_rows: int = 1000,
) -> Any:
    """The executed plan of the statement that `stack.documents.search` sends."""
    async with service.session() as session:
        space = Space.of((await session.scalars(select(EmbeddingSpace))).one())
        search: Search[DocumentFilter] = Search(owner_id=owner_id, query=query or QUERY)
        mode: Mode = "vector" if query is None else "text" if vector is None else "hybrid"
        shape = search.shape(mode=mode, space=space, options=SearchOptions(exact_rows=exact_rows))
        prepared = prepare(documents.DOCUMENTS, search, shape, where=where, vector=vector)
        compiled = prepared.statement.compile(dialect=asyncpg.dialect())  # type: ignore[no-untyped-call]
        connection = (await (await session.connection()).get_raw_connection()).driver_connection
        assert connection is not None
        known = {**compiled.params, **prepared.values}
        given = (known[name] for name in compiled.positiontup or ())
        values = [json.dumps(value) if isinstance(value, dict) else value for value in given]
        found = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {compiled}", *values)
        return found[0]["Plan"]


def nodes(plan: Any) -> Iterator[Any]:
    """Every node that was executed."""
    if plan.get("Actual Loops"):
        yield plan
        for below in plan.get("Plans", ()):
            yield from nodes(below)


def scanned(plan: Any) -> set[str]:
    """The tables that were read row by row, not by an index, without that of a handful of rows."""
    found = {node["Relation Name"] for node in nodes(plan) if "Seq Scan" in node["Node Type"]}
    return found - {"corpus_statistics"}


def indexes(plan: Any) -> set[str]:
    return {node["Index Name"] for node in nodes(plan) if "Index Name" in node}


def counted(plan: Any) -> bool:
    """Whether the owner's vectors were counted to choose between the two scans."""
    (reach,) = (node for node in nodes(plan) if node.get("Subplan Name") == "CTE reach")
    return any(name.startswith("chunk_embeddings") for name in indexes(reach) | scanned(reach))


QUERY, VECTOR = "w17 w300 w2500", [0.1 * (number % 5) - 0.2 for number in range(DIMENSIONS)]


async def test_the_text_leg_reads_the_gin_index_alone(service: Service) -> None:
    plan = await plan_of(service, BIG, query=QUERY)
    assert "ix_chunks_search_vector" in indexes(plan)
    assert not scanned(plan)
    candidates = [node for node in nodes(plan) if node.get("Index Name") == "ix_chunks_search_vector"]
    # The owner is part of the index condition: strangers' rows never leave it.
    assert all(node["Actual Rows"] <= CHUNKS * OF_BIG / DOCUMENTS for node in candidates)
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
    assert "chunks" not in scanned(plan)
    read = [node["Actual Rows"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"]
    assert max(read, default=0) <= 1001


@pytest.mark.parametrize(
    ("owner", "asked", "is_counted"),
    [
        (BIG, {"exact_rows": 1000}, False),
        # The statistics may lag behind: it has to be far more.
        (BIG, {"exact_rows": 10_000}, True),
        (BIG, {"exact_rows": 1000, "where": [Chunk.position <= 5]}, True),
        (SMALL, {"exact_rows": 10_000}, True),
        ("nobody", {"exact_rows": 1000}, True),
    ],
)
async def test_an_owner_known_to_have_far_more_vectors_is_not_counted(
    service: Service, owner: str, asked: dict[str, Any], is_counted: bool
) -> None:
    assert counted(await plan_of(service, owner, query=QUERY, vector=VECTOR, **asked)) == is_counted


async def test_a_small_owners_vectors_are_read_within_one_partition(service: Service) -> None:
    plan = await plan_of(service, SMALL, query=QUERY, vector=VECTOR)
    assert "ix_chunks_search_vector" in indexes(plan)
    assert "chunks" not in scanned(plan)
    named = (node.get("Relation Name", "") for node in nodes(plan))
    assert len({name for name in named if name.startswith("chunk_embeddings")}) == 1


async def test_a_filter_keeps_the_indexes(service: Service) -> None:
    plan = await plan_of(service, BIG, query=QUERY, vector=VECTOR, where=[Chunk.position <= 5])
    assert "ix_chunks_search_vector" in indexes(plan)
    assert any(name.startswith("ix_chunk_embeddings_s") for name in indexes(plan))


FILTERS: dict[str, DocumentFilter] = {
    "none": DocumentFilter(),
    "rare metadata": DocumentFilter(metadata={"kind": "rare"}),
    "common metadata": DocumentFilter(metadata={"kind": "common"}),
    "type": DocumentFilter(document_type="pdf"),
    "language": DocumentFilter(language="simple"),
    "dates": DocumentFilter(date_from=dt.datetime(2025, 1, 1, tzinfo=dt.UTC)),
    "origin": DocumentFilter(id_at_origin="42"),
}
MODES: dict[str, dict[str, Any]] = {
    "text": {"query": QUERY},
    "vector": {"vector": VECTOR},
    "hybrid": {"query": QUERY, "vector": VECTOR},
}


@pytest.mark.parametrize("wanted", FILTERS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("owner", [BIG, SMALL])
async def test_nothing_scans_a_whole_table(service: Service, owner: str, mode: str, wanted: str) -> None:
    plan = await plan_of(service, owner, exact_rows=10_000, where=FILTERS[wanted].conditions(owner), **MODES[mode])
    read = scanned(plan)
    # An owner's rows may be most of their partition, which is then read as it is; never a second one.
    partitions = [name for name in read if name.startswith("chunk_embeddings")]
    assert len(partitions) <= 1
    assert read == set(partitions)
    if mode != "vector" and wanted in ("none", "language", "common metadata"):
        assert "ix_chunks_search_vector" in indexes(plan)
