"""Recall as `measure_recall` tells it: right against numpy, read-only, and honest about what was measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from embedding_support import TABLE, Counting, add_chunks, service_with
from index_support import change, found_by, search_of
from sqlalchemy import event, text
from vector_support import Floats, add_vector_space, clustered, load_vectors, nearest

from llmstack.db import Service
from llmstack.embeddings import EmbeddingSpace, SpaceNotFound, recall
from llmstack.embeddings.index import SpaceIndex
from llmstack.embeddings.recall import Recall, measure_recall
from llmstack.errors import ValidationError
from llmstack.search import SearchOptions

ROWS, DIMENSIONS = 1500, 64
VECTORS = clustered(ROWS, DIMENSIONS, clusters=5)


async def space_of(service: Service, vectors: Floats = VECTORS, **values: Any) -> EmbeddingSpace:
    """A space whose vectors are one owner's, with its index."""
    space = await add_vector_space(service, dimensions=DIMENSIONS, **values)
    await load_vectors(service, space, ["acme"] * len(vectors), vectors)
    await SpaceIndex(service, "chunk_embeddings", space).build()
    return space


async def measured(service: Service, space: EmbeddingSpace, **arguments: Any) -> Recall:
    return await measure_recall(service, TABLE, space, **arguments)


async def test_a_good_index_is_found_to_be_good(llmstack_service: Service) -> None:
    space = await space_of(llmstack_service)
    found = await measured(llmstack_service, space, sample=60)
    assert (found.sample, found.k, found.owners, found.by_index) == (60, 10, 1, 1.0)
    assert found.mean >= 0.98
    assert 0.0 <= found.lowest <= found.mean


@pytest.mark.parametrize("distance", ["cosine", "inner_product", "l2"])
async def test_a_poor_index_is_found_to_be_as_poor_as_numpy_says(llmstack_service: Service, distance: str) -> None:
    # A narrow scan of a graph with few links.
    options = SearchOptions(candidates=11, ef_search=11)
    parameters = {"m": 2, "ef_construction": 4}
    space = await add_vector_space(
        llmstack_service, dimensions=DIMENSIONS, distance=distance, index_parameters=parameters
    )
    ids = await load_vectors(llmstack_service, space, ["acme"] * ROWS, VECTORS)
    await SpaceIndex(llmstack_service, "chunk_embeddings", space).build()
    found = await measured(llmstack_service, space, sample=300, options=options)
    assert found.sample == 300
    halves, shares = VECTORS.astype(np.float16).astype(np.float64), []
    narrow = {"candidates": 11, "ef_search": 11}
    for row in range(0, ROWS, 7):
        page, _ = await found_by(llmstack_service, search_of(space, halves[row], limit=11, options=narrow))
        truth = [n for n in nearest(halves, halves[row], 11, distance=distance) if n != row][:10]
        shares.append(len({ids[n] for n in truth} & set([id_ for id_ in page if id_ != ids[row]][:10])) / 10)
    assert found.mean < 0.9
    assert found.mean == pytest.approx(np.mean(shares), abs=0.07)
    assert found.lowest < found.mean


async def test_equal_vectors_are_as_good_as_one_another(llmstack_service: Service) -> None:
    space = await space_of(llmstack_service, np.tile(VECTORS[:5], (40, 1)))
    found = await measured(llmstack_service, space, sample=50, k=5)
    assert (found.mean, found.lowest) == (1.0, 1.0)


async def test_small_owners_and_absent_indexes_are_exact_and_not_counted_as_by_index(llmstack_service: Service) -> None:
    space = await add_vector_space(llmstack_service, dimensions=DIMENSIONS)
    owners = [f"owner {number % 100}" for number in range(ROWS)]
    await load_vectors(llmstack_service, space, owners, VECTORS)
    found = await measured(llmstack_service, space, sample=200)
    assert (found.mean, found.lowest, found.by_index) == (1.0, 1.0, 0.0)
    assert found.owners > 50
    await load_vectors(llmstack_service, space, ["big"] * ROWS, VECTORS)
    assert (await measured(llmstack_service, space, sample=50)).by_index == 0.0
    await SpaceIndex(llmstack_service, "chunk_embeddings", space).build()
    assert 0.0 < (await measured(llmstack_service, space, sample=200)).by_index < 1.0


async def test_an_owner_with_a_single_vector_has_no_neighbour_to_miss(llmstack_service: Service) -> None:
    space = await add_vector_space(llmstack_service, dimensions=DIMENSIONS)
    assert await measured(llmstack_service, space) == Recall(0, 10, 1.0, 1.0, 0, 0.0)
    await load_vectors(llmstack_service, space, ["a", "b", "c", "c"], VECTORS[:4])
    found = await measured(llmstack_service, space)
    assert (found.sample, found.mean, found.owners) == (2, 1.0, 1)


async def test_vectors_of_other_spaces_and_hidden_ones_do_not_count(llmstack_service: Service) -> None:
    space = await space_of(llmstack_service)
    other = await add_vector_space(llmstack_service, dimensions=DIMENSIONS, storage="vector")
    await load_vectors(llmstack_service, other, ["acme"] * 30, VECTORS[:30])
    async with llmstack_service.session() as session:
        await session.execute(
            text("UPDATE llmstack.chunk_embeddings SET searchable = false WHERE space_id = :id"), {"id": space.id}
        )
        await session.commit()
    assert (await measured(llmstack_service, space)).sample == 0
    assert (await measured(llmstack_service, other, sample=100)).sample == 30


@pytest.mark.parametrize("quantization", [None, "binary"])
async def test_it_writes_nothing_and_asks_for_no_more_than_three_statements_a_sample(
    llmstack_service: Service, quantization: str | None
) -> None:
    space = await space_of(llmstack_service, quantization=quantization)
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    engine = llmstack_service.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    found = await measured(llmstack_service, space, sample=20)
    event.remove(engine, "before_cursor_execute", note)
    assert found.sample == 20
    assert len(sent) <= 20 * 3 + 4
    assert all(statement.lstrip().startswith(("SELECT", "WITH", "EXPLAIN WITH")) for statement in sent)
    assert not any("ANALYZE" in statement for statement in sent)


async def test_a_small_sample_reads_few_pages(llmstack_service: Service) -> None:
    space = await space_of(llmstack_service, clustered(6000, DIMENSIONS))
    sampled: list[float] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "TABLESAMPLE" in statement:
            sampled.append(next(value for value in parameters if isinstance(value, float)))

    engine = llmstack_service.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    assert (await measured(llmstack_service, space, sample=5)).sample == 5
    event.remove(engine, "before_cursor_execute", note)
    # Pages are taken by chance: where they held too few rows, the next round takes more of them.
    assert len(sampled) <= recall._ROUNDS
    assert sampled[0] == pytest.approx(100 * 20 * 5 / 6000, rel=0.1)
    assert sampled == [min(100.0, sampled[0] * recall._WIDER**number) for number in range(len(sampled))]


@pytest.mark.parametrize("values", [{"sample": 0}, {"sample": 10_001}, {"k": 0}, {"k": 101}, {"k": True}, {"k": 1.5}])
async def test_what_cannot_be_measured_is_refused(llmstack_service: Service, values: dict[str, Any]) -> None:
    space = await add_vector_space(llmstack_service, dimensions=4)
    with pytest.raises(ValidationError, match="whole number"):
        await measured(llmstack_service, space, **values)


async def test_the_service_measures_the_serving_space_or_the_one_named(llmstack_service: Service) -> None:
    embeddings = service_with(llmstack_service, Counting())
    await add_chunks(llmstack_service, [f"text {number}" for number in range(12)])
    await embeddings.backfill()
    await embeddings.process_pending()
    found = await embeddings.measure_recall(sample=5, k=3)
    assert (found.sample, found.k, found.mean) == (5, 3, 1.0)
    assert await embeddings.measure_recall("counting", sample=12) == Recall(12, 10, 1.0, 1.0, 1, 0.0)
    with pytest.raises(SpaceNotFound):
        await embeddings.measure_recall("unheard of")


async def test_a_change_of_the_space_is_measured_as_it_is(llmstack_service: Service) -> None:
    space = await space_of(llmstack_service)
    changed = await change(llmstack_service, space, index_method="ivfflat")
    await SpaceIndex(llmstack_service, "chunk_embeddings", changed).rebuild()
    found = await measured(llmstack_service, changed, sample=30)
    assert found.by_index == 1.0
    assert found.mean >= 0.99
