"""The vector leg as SQL."""

from __future__ import annotations

import dataclasses
import re

import pytest
from pgvector.sqlalchemy import VECTOR
from sql_support import SOURCE, compiled, cte, search_sql, searched, sql_of
from sql_support import VECTOR as TARGET
from sqlalchemy import cast

from llmstack.documents.models import Chunk, ChunkEmbedding
from llmstack.errors import ValidationError
from llmstack.search import SearchOptions, VectorSource
from llmstack.search.vectors import binary, check_vector

SEARCH = {"vector": TARGET, "source": SOURCE}
IVFFLAT = ("probes", "iterative_scan", "max_probes")
BITS = dataclasses.replace(SOURCE, bits=binary(SOURCE.embedding, 3))


def test_the_index_arm_orders_by_the_distance_alone() -> None:
    body = cte(search_sql(**SEARCH), "near")
    order = body.split("ORDER BY ")[1].split(" LIMIT")[0]
    assert order.startswith("CAST(llmstack.chunk_embeddings.embedding AS HALFVEC(3)) <=> (SELECT CAST(")
    assert re.search(r" AS HALFVEC\(3\)\) AS anon_\d+\)$", order)


def test_the_exact_arm_orders_totally_by_an_expression_that_no_index_has() -> None:
    body = cte(search_sql(**SEARCH), "exact")
    order = body.split("ORDER BY ")[1].split(" LIMIT")[0]
    assert re.search(r" AS HALFVEC\(3\)\) AS anon_\d+\)\) \+ ", order)
    assert order.endswith(", llmstack.chunk_embeddings.row_id")


def test_bits_order_the_index_arm_and_the_vectors_what_came_of_it() -> None:
    body = cte(search_sql(vector=TARGET, source=BITS), "near")
    taken = body[body.index("FROM (") : body.index(") AS taken")]
    order, limit = taken.split("ORDER BY ")[1].split(" LIMIT ")
    assert order.startswith("CAST(binary_quantize(CAST(llmstack.chunk_embeddings.embedding AS HALFVEC(3))) AS BIT(3))")
    assert " <~> CAST(binary_quantize((SELECT CAST(" in order
    outer = body[body.index(") AS taken") :]
    assert "ORDER BY taken.distance, taken.id" in outer
    values = compiled(searched(vector=TARGET, source=BITS)).params
    assert values[limit.removeprefix(":").split("::")[0]] == 400
    assert values[outer.split("LIMIT :")[1].split("::")[0]] == 100


def test_the_exact_arm_of_bits_is_that_of_the_vectors() -> None:
    arms = [cte(search_sql(vector=TARGET, source=source), "exact") for source in (BITS, SOURCE)]
    assert len({re.sub(r":param_\d+", ":param", arm) for arm in arms}) == 1


@pytest.mark.parametrize("oversampling", [0, -1, 101])
def test_an_oversampling_that_cannot_be_is_refused(oversampling: int) -> None:
    with pytest.raises(ValidationError, match="from 1 to 100"):
        dataclasses.replace(BITS, oversampling=oversampling)


def test_the_breadth_of_the_scan_covers_what_is_taken_for_ranking() -> None:
    options = SearchOptions(ef_search=40, candidates=60)
    assert "240" in compiled(searched(vector=TARGET, source=BITS, options=options)).params.values()


def test_the_settings_are_made_before_the_index_arm_and_local() -> None:
    sql = search_sql(**SEARCH)
    assert "(SELECT settings.ready" in cte(sql, "near")
    body = cte(sql, "settings")
    for name in ("hnsw.ef_search", "hnsw.iterative_scan", *(f"ivfflat.{n}" for n in IVFFLAT)):
        assert f"set_config('{name}'" in body
    assert body.count(", true)") == 5


@pytest.mark.parametrize(
    ("ef_search", "candidates", "expected"), [(200, 100, "200"), (40, 300, "300"), (900, 5000, "1000")]
)
def test_the_breadth_of_the_scan_covers_the_candidates_up_to_what_pgvector_takes(
    ef_search: int, candidates: int, expected: str
) -> None:
    options = SearchOptions(ef_search=ef_search, candidates=candidates)
    assert expected in compiled(searched(**SEARCH, options=options)).params.values()


def test_rows_are_counted_one_beyond_the_bound_and_at_least_to_the_candidates() -> None:
    for exact_rows, counted in ((10_000, 10_001), (0, 101)):
        options = SearchOptions(exact_rows=exact_rows)
        assert counted in compiled(searched(**SEARCH, options=options)).params.values()


@pytest.mark.parametrize(("candidates", "distances"), [(1, 0), (2, 1), (99, 1), (100, 2), (1000, 20)])
def test_pages_of_equal_distances_are_not_believed(candidates: int, distances: int) -> None:
    statement = searched(**SEARCH, limit=1, options=SearchOptions(candidates=candidates))
    body = cte(sql_of(statement), "doubt")
    assert body.startswith("SELECT count(*) < ")
    bound = re.search(r"count\(DISTINCT near\.distance\) <= :(\w+)", body)
    assert bound is not None
    assert compiled(statement).params[bound[1]] == distances


def test_the_rows_are_joined_only_when_something_is_asked_of_them() -> None:
    assert "chunks" not in cte(search_sql(**SEARCH), "near").replace("chunk_embeddings", "")
    body = cte(search_sql(**SEARCH, where=[Chunk.position > 3]), "near")
    assert "JOIN llmstack.chunks ON llmstack.chunks.id = llmstack.chunk_embeddings.row_id" in body
    assert "llmstack.chunks.owner_id = llmstack.chunk_embeddings.owner_id" in body


def test_a_vector_in_the_searched_table_itself_leaves_unsearchable_rows_out() -> None:
    own = VectorSource(id=Chunk.id, owner_id=Chunk.owner_id, embedding=cast(Chunk.content, VECTOR(3)))
    for name in ("reach", "near", "exact"):
        assert "llmstack.chunks.search_vector IS NOT NULL" in cte(search_sql(vector=TARGET, source=own), name)


def test_the_vector_is_sent_once() -> None:
    values = list(compiled(searched(**SEARCH)).params.values())
    assert values.count([1.0, 0.0, 0.5]) == 1


@pytest.mark.parametrize(("distance", "operator"), [("cosine", "<=>"), ("inner_product", "<#>"), ("l2", "<->")])
def test_each_distance_has_its_operator(distance: str, operator: str) -> None:
    source = dataclasses.replace(SOURCE, distance=distance)
    assert f" {operator} " in cte(search_sql(vector=TARGET, source=source), "near")


def test_an_unknown_distance_is_refused() -> None:
    with pytest.raises(ValidationError, match="hamming"):
        dataclasses.replace(SOURCE, distance="hamming")


@pytest.mark.parametrize(
    "vector", [[], [1.0, 2.0], [float("nan"), 0, 0], [0, float("-inf"), 0], [0, 0, 0], [7e4, 0, 0]]
)
def test_a_vector_without_meaning_is_refused(vector: list[float]) -> None:
    with pytest.raises(ValidationError):
        check_vector(SOURCE, vector)


def test_what_a_type_can_hold_is_taken() -> None:
    full = VectorSource(
        id=ChunkEmbedding.row_id,
        owner_id=ChunkEmbedding.owner_id,
        embedding=cast(ChunkEmbedding.embedding_full, VECTOR()),
        distance="l2",
    )
    assert check_vector(full, [7e4, 1]) == [7e4, 1.0]
    assert check_vector(full, (0, 0)) == [0.0, 0.0]
