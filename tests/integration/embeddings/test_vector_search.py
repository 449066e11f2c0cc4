"""Every storage, distance and index method: the search uses the space's own index and ranks as numpy does."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
from index_support import change, found_by, indexes_in_plan, search_of
from sqlalchemy import select
from vector_support import Floats, add_vector_space, clustered, load_vectors, nearest

from llmstack.db import Service
from llmstack.embeddings import EmbeddingSpace
from llmstack.embeddings.index import SpaceIndex
from llmstack.testing import servers

ROWS, DIMENSIONS, QUERIES = 4000, 64, 25
# Of other lengths, so that the three distances order them differently.
VECTORS = clustered(ROWS, DIMENSIONS) * np.random.default_rng(5).uniform(0.5, 1.5, (ROWS, 1))
ASKED = clustered(QUERIES, DIMENSIONS, seed=9)
DISTANCES = ("cosine", "inner_product", "l2")
METHODS = ("hnsw", "ivfflat", "none")

Loaded = tuple[str, dict[str, tuple[int, list[uuid.UUID]]]]


def as_stored(storage: str) -> Floats:
    kind: Any = np.float16 if storage == "halfvec" else np.float32
    return VECTORS.astype(kind).astype(np.float64)


async def _load(url: str, name: str, template: str) -> dict[str, tuple[int, list[uuid.UUID]]]:
    await servers.create_copy(url, name, template=template)
    found = {}
    async with servers.open_database(url, name) as database:
        service = database.service()
        for storage in ("halfvec", "vector"):
            space = await add_vector_space(service, dimensions=DIMENSIONS, storage=storage)
            found[storage] = space.id, await load_vectors(service, space, ["acme"] * ROWS, VECTORS)
    return found


@pytest.fixture(scope="module")
def loaded(llmstack_server_url: str, llmstack_template: str) -> Iterator[Loaded]:
    """A database with the same vectors in two storages; tests change the space's options and its index."""
    name, found = servers.unique_name(), []

    async def load() -> None:
        found.append(await _load(llmstack_server_url, name, llmstack_template))

    try:
        servers.run_apart(load())
        yield name, found[0]
    finally:
        servers.run_apart(servers.drop(llmstack_server_url, name))


@pytest.fixture
async def service(llmstack_server_url: str, loaded: Loaded) -> AsyncIterator[Service]:
    async with servers.open_database(llmstack_server_url, loaded[0]) as database:
        yield database.service()


async def space_with(service: Service, loaded: Loaded, storage: str, **values: Any) -> EmbeddingSpace:
    async with service.session() as session:
        statement = select(EmbeddingSpace).where(EmbeddingSpace.id == loaded[1][storage][0])
        found = (await session.scalars(statement)).one()
    return await change(service, found, **{"index_parameters": {}, "quantization": None, **values})


async def recall_of(service: Service, space: EmbeddingSpace, ids: list[uuid.UUID], **given: Any) -> float:
    """recall@10 against numpy, after checking that every page is full and in numpy's order."""
    stored, hits = as_stored(space.storage), 0
    place = {id_: row for row, id_ in enumerate(ids)}
    for asked in ASKED:
        target = asked.astype(np.float16).astype(np.float64) if space.storage == "halfvec" else asked
        found, _ = await found_by(service, search_of(space, asked, limit=10, **given))
        rows = [place[id_] for id_ in found]
        assert len(set(rows)) == 10
        assert rows == [rows[n] for n in nearest(stored[rows], target, 10, distance=space.distance)]
        hits += len(set(rows) & set(nearest(stored, target, 10, distance=space.distance)))
    return hits / (10 * len(ASKED))


def recall_by_bits(distance: str, *, taken: int) -> float:
    """recall@10 of an exact scan of the bits whose nearest rows are ranked by their vectors."""
    hits = 0
    for asked in ASKED:
        differing = ((VECTORS > 0) != (asked > 0)).sum(axis=1)
        rows = np.argsort(differing, kind="stable")[:taken]
        hits += len(set(rows) & set(nearest(VECTORS, asked, 10, distance=distance)))
    return hits / (10 * len(ASKED))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("storage", ["halfvec", "vector"])
async def test_the_search_uses_the_index_of_the_space_and_ranks_as_numpy_does(
    service: Service, loaded: Loaded, storage: str, distance: str, method: str
) -> None:
    space = await space_with(service, loaded, storage, distance=distance, index_method=method)
    index = SpaceIndex(service, "chunk_embeddings", space)
    if method != "none":
        await index.rebuild()
    try:
        used = await indexes_in_plan(service, search_of(space, ASKED[0], limit=10))
        assert {name.rpartition("_p")[0] for name in used if "_s" in name} == (
            {index.name} if method != "none" else set()
        )
        assert await recall_of(service, space, loaded[1][storage][1]) >= (0.99 if method != "none" else 1.0)
        assert await recall_of(service, space, loaded[1][storage][1], exact_rows=ROWS) == 1.0
    finally:
        await index.drop()


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("storage", ["halfvec", "vector"])
@pytest.mark.parametrize("method", ["hnsw", "ivfflat"])
async def test_bits_choose_and_vectors_rank(
    service: Service, loaded: Loaded, storage: str, distance: str, method: str
) -> None:
    space = await space_with(service, loaded, storage, distance=distance, quantization="binary", index_method=method)
    index = SpaceIndex(service, "chunk_embeddings", space)
    await index.rebuild()
    try:
        used = await indexes_in_plan(service, search_of(space, ASKED[0], limit=10))
        assert {name.rpartition("_p")[0] for name in used if "_s" in name} == {index.name}
        recall = await recall_of(service, space, loaded[1][storage][1])
        assert recall > recall_by_bits(distance, taken=400) - 0.05
        assert recall > recall_by_bits(distance, taken=100) + 0.1
        assert await recall_of(service, space, loaded[1][storage][1], exact_rows=ROWS) == 1.0
    finally:
        await index.drop()


async def test_the_more_rows_are_taken_by_their_bits_the_better(service: Service, loaded: Loaded) -> None:
    space = await space_with(service, loaded, "halfvec", distance="cosine", quantization="binary", index_method="hnsw")
    index = SpaceIndex(service, "chunk_embeddings", space)
    await index.rebuild()
    try:
        few = await recall_of(service, space, loaded[1]["halfvec"][1], options={"candidates": 10, "ef_search": 400})
        many = await recall_of(service, space, loaded[1]["halfvec"][1], options={"candidates": 100})
        assert few < many
    finally:
        await index.drop()


async def test_more_dimensions_than_vectors_may_have_are_indexed_as_bits(llmstack_service: Service) -> None:
    dimensions = 4100
    space = await add_vector_space(llmstack_service, dimensions=dimensions, quantization="binary")
    vectors = clustered(300, dimensions)
    ids = await load_vectors(llmstack_service, space, ["acme"] * 300, vectors)
    index = SpaceIndex(llmstack_service, "chunk_embeddings", space)
    assert len(await index.build()) == 16
    statement = search_of(space, vectors[7], limit=5, options={"candidates": 5})
    found, paths = await found_by(llmstack_service, statement)
    assert found == [ids[row] for row in nearest(vectors.astype(np.float16).astype(float), vectors[7], 5)]
    assert paths == {"index"}
