"""Full and right pages for owners large and small, with filters, whatever has become of the index."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from index_support import change, found_by, search_of
from sqlalchemy import select, text
from vector_support import Floats, add_vector_space, clustered, load_vectors, nearest

from llmstack.db import Service
from llmstack.documents.models import Chunk
from llmstack.embeddings import EmbeddingSpace
from llmstack.embeddings.index import SpaceIndex
from llmstack.search import metadata_filter
from llmstack.search import vectors as vectors_module
from llmstack.testing import servers

ROWS, DIMENSIONS, ASKED = 20_000, 32, 40
BIG, PERCENT, TENTH = "big", "two percent", "a tenth of a percent"
# The big owner has more rows than are compared exactly by default.
OWNERS = np.array([BIG] * 10_500 + [PERCENT] * 400 + [TENTH] * 20 + [f"stranger {n % 200}" for n in range(9080)])
VECTORS = clustered(ROWS, DIMENSIONS).astype(np.float16).astype(np.float64)
QUERIES = clustered(ASKED, DIMENSIONS, seed=4).astype(np.float16).astype(np.float64)
RARE = np.arange(1, ROWS + 1) % 100 == 0


async def _load(url: str, name: str, template: str) -> list[uuid.UUID]:
    await servers.create_copy(url, name, template=template)
    async with servers.open_database(url, name) as database:
        service = database.service()
        space = await add_vector_space(service, dimensions=DIMENSIONS)
        ids = await load_vectors(service, space, OWNERS.tolist(), VECTORS)
        async with service.session() as session:
            await session.execute(
                text('UPDATE llmstack.chunks SET metadata = \'{"kind": "rare"}\' WHERE position % 100 = 0')
            )
            await session.execute(text("ANALYZE"))
            await session.commit()
    return ids


@pytest.fixture(scope="module")
def loaded(llmstack_server_url: str, llmstack_template: str) -> Iterator[tuple[str, list[uuid.UUID]]]:
    name, ids = servers.unique_name(), []

    async def load() -> None:
        ids.extend(await _load(llmstack_server_url, name, llmstack_template))

    try:
        servers.run_apart(load())
        yield name, ids
    finally:
        servers.run_apart(servers.drop(llmstack_server_url, name))


@pytest.fixture
async def service(llmstack_server_url: str, loaded: tuple[str, list[uuid.UUID]]) -> AsyncIterator[Service]:
    async with servers.open_database(llmstack_server_url, loaded[0]) as database:
        yield database.service()


async def only_space(service: Service) -> EmbeddingSpace:
    async with service.session() as session:
        return (await session.scalars(select(EmbeddingSpace))).one()


@pytest.mark.parametrize("method", ["hnsw", "ivfflat"])
async def test_recall_is_at_least_99_percent_for_every_owner_and_filter(
    service: Service, loaded: tuple[str, list[uuid.UUID]], method: str
) -> None:
    space = await change(service, await only_space(service), index_method=method)
    await SpaceIndex(service, "chunk_embeddings", space).rebuild()
    ids = loaded[1]
    rare = [metadata_filter(Chunk.metadata_, {"kind": "rare"})]
    taken: dict[tuple[str, bool, int], set[str]] = {}
    for owner in (BIG, PERCENT, TENTH):
        for is_rare in (False, True):
            rows = np.flatnonzero((owner == OWNERS) & (RARE | (not is_rare)))
            for exact_rows in (10_000, 0):
                given = {"owner_id": owner, "exact_rows": exact_rows, "where": rare if is_rare else []}
                recall, paths = await recall_of(service, space, ids, rows, **given)
                # An owner with half of all rows goes by the graph as it is: the accurate preset is for that.
                least = 0.95 if owner == BIG and not is_rare else 0.99
                assert recall >= least, (owner, is_rare, exact_rows)
                taken[owner, is_rare, exact_rows] = paths
    # Only the big owner, without the filter, is not compared exactly by default.
    assert taken.pop((BIG, False, 10_000)) == {"index"}
    assert {path for (*_, exact_rows), paths in taken.items() if exact_rows for path in paths} == {"exact"}
    assert "exact" not in taken[BIG, False, 0] | taken[PERCENT, False, 0] | taken[BIG, True, 0]


async def recall_of(
    service: Service, space: EmbeddingSpace, ids: Sequence[uuid.UUID], rows: Any, **given: Any
) -> tuple[float, set[str]]:
    """recall@10 among these rows, every page as long as it can be, and the paths that were taken."""
    hits = wanted = 0
    paths: set[str] = set()
    for query in QUERIES:
        truth = {ids[rows[n]] for n in nearest(VECTORS[rows], query, 10)}
        found, taken = await found_by(service, search_of(space, query, limit=10, **given))
        assert len(set(found)) == min(10, len(rows))
        hits, wanted, paths = hits + len(set(found) & truth), wanted + len(truth), paths | taken
    return hits / max(wanted, 1) if wanted else 1.0, paths


MANY = 3000


class Owned:
    """One owner's vectors and their index."""

    def __init__(self, service: Service, space: EmbeddingSpace, ids: list[uuid.UUID], vectors: Floats) -> None:
        self.service, self.space, self.ids, self.vectors = service, space, ids, vectors

    async def execute(self, statement: str, **values: Any) -> None:
        async with self.service.session() as session:
            await session.execute(text(statement), values)
            await session.commit()

    async def page(self, query: Floats, **given: Any) -> tuple[list[uuid.UUID], set[str]]:
        return await found_by(self.service, search_of(self.space, query, **{"limit": 10, **given}))

    def nearest(self, query: Floats, *, among: Any = None) -> list[uuid.UUID]:
        rows = np.arange(len(self.vectors)) if among is None else np.asarray(among)
        return [self.ids[rows[n]] for n in nearest(self.vectors[rows], query, 10)]


async def owned(service: Service, vectors: Floats, **values: Any) -> Owned:
    space = await add_vector_space(service, dimensions=DIMENSIONS, **values)
    ids = await load_vectors(service, space, ["acme"] * len(vectors), vectors)
    await SpaceIndex(service, "chunk_embeddings", space).build()
    return Owned(service, space, ids, vectors)


@pytest.mark.parametrize("method", ["hnsw", "ivfflat"])
@pytest.mark.parametrize("how", ["hidden", "gone"])
async def test_rows_that_were_nearest_and_are_deleted_leave_a_full_page(
    llmstack_service: Service, method: str, how: str
) -> None:
    there = await owned(llmstack_service, VECTORS[:MANY], index_method=method)
    query = QUERIES[0]
    order = nearest(there.vectors, query, MANY)
    deleted, left = order[:2500], order[2500:]
    change_them = {
        "hidden": "UPDATE llmstack.chunk_embeddings SET searchable = false WHERE row_id = ANY(:ids)",
        "gone": "DELETE FROM llmstack.chunks WHERE id = ANY(:ids)",
    }
    await there.execute(change_them[how], ids=[there.ids[row] for row in deleted])
    page, paths = await there.page(query)
    assert page == there.nearest(query, among=left)
    assert paths <= {"index", "guard"}
    few = await there.page(query, options={"candidates": 400})
    assert few[0] == there.nearest(query, among=left)


# So many copies spoil an HNSW graph for their neighbours; what must not be is a page of copies that are far away.
@pytest.mark.parametrize(("method", "least"), [("hnsw", 0.6), ("ivfflat", 0.99)])
async def test_many_equal_vectors_hide_no_others(llmstack_service: Service, method: str, least: float) -> None:
    copies = np.concatenate([np.tile(VECTORS[:1], (2000, 1)), VECTORS[1:1001]])
    there = await owned(llmstack_service, copies, index_method=method)
    same = set(there.ids[:2000])
    page, _ = await there.page(VECTORS[0])
    assert len(set(page)) == 10
    assert set(page) <= same
    shares, taken = [], set()
    for query in QUERIES:
        page, paths = await there.page(query)
        truth = there.nearest(query)
        assert len(set(page)) == 10
        # One copy is as good as another.
        hits = len(set(page) & set(truth) - same) + min(len(set(page) & same), len(set(truth) & same))
        shares.append(hits / 10)
        taken |= paths
        assert (await there.page(query, exact_rows=10_000))[1] == {"exact"}
        assert set(truth) & same or set(page) - same
    assert np.mean(shares) >= least
    assert "index" in taken


async def test_a_search_for_what_hundreds_of_rows_equal_is_answered_exactly(llmstack_service: Service) -> None:
    copies = np.concatenate([np.tile(VECTORS[:1], (2000, 1)), VECTORS[1:1001]])
    there = await owned(llmstack_service, copies)
    assert (await there.page(VECTORS[0]))[1] == {"guard"}
    assert (await there.page(VECTORS[0], limit=1, options={"candidates": 1}))[1] == {"index"}


async def test_rows_are_found_as_soon_as_they_are_committed(llmstack_service: Service) -> None:
    there = await owned(llmstack_service, VECTORS[:MANY])
    more, written = VECTORS[MANY : MANY + 200], []
    pages: list[int] = []

    async def write() -> None:
        for part in range(0, len(more), 10):
            some = more[part : part + 10]
            ids = await load_vectors(llmstack_service, there.space, ["acme"] * 10, some, analyze=False)
            written.extend(ids)
            found, paths = await there.page(some[3])
            assert (found[0], paths) == (ids[3], {"index"})

    async def search() -> None:
        number = 0
        while len(written) < len(more):
            page, _ = await there.page(QUERIES[number % ASKED])
            pages.append(len(set(page)))
            number += 1

    await asyncio.gather(write(), search(), search())
    assert set(pages) == {10}
    assert len(pages) > 5


async def test_an_invalid_index_is_passed_over(llmstack_service: Service) -> None:
    there = await owned(llmstack_service, VECTORS[:MANY])
    await there.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid IN "
        "(SELECT oid FROM pg_class WHERE relname LIKE 'ix_chunk_embeddings_s%')"
    )
    await llmstack_service.database.engine.dispose()
    for query in QUERIES[:10]:
        page, _ = await there.page(query)
        assert page == there.nearest(query)


async def test_too_few_lists_looked_at_are_noticed(llmstack_service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    there = await owned(llmstack_service, VECTORS[:MANY], index_method="ivfflat", index_parameters={"lists": 300})
    monkeypatch.setattr(vectors_module, "_PROBES", 1)
    monkeypatch.setattr(vectors_module, "_MOST_PROBES", 1)
    for query in QUERIES[:10]:
        page, paths = await there.page(query)
        assert (page, paths) == (there.nearest(query), {"guard"})
    monkeypatch.undo()
    found = [await there.page(query) for query in QUERIES]
    assert {path for _, paths in found for path in paths} == {"index"}
    shares = [len({*page} & {*there.nearest(query)}) / 10 for (page, _), query in zip(found, QUERIES, strict=True)]
    # The lists are drawn anew by every build: a single page may miss half, their mean was .85 to .88 in eight builds.
    assert np.mean(shares) >= 0.8
