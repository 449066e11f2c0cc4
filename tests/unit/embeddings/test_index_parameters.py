"""Presets and parameters of indexes, and what their definition asks of PostgreSQL."""

from __future__ import annotations

from typing import Any

import pytest

from llmstack.embeddings import EmbeddingSpace
from llmstack.embeddings.builds import IndexProgress
from llmstack.embeddings.definition import IndexDefinition, check_indexable, lists_for
from llmstack.embeddings.parameters import PRESETS, index_parameters
from llmstack.errors import ConfigurationError


def space(**values: Any) -> EmbeddingSpace:
    """A space as it comes out of the database."""
    defaults = {
        "id": 7, "name": "s", "dimensions": 256, "distance": "cosine", "storage": "halfvec", "index_method": "hnsw",
        "index_parameters": {}, "quantization": None,
    }  # fmt: skip
    return EmbeddingSpace(**{**defaults, **values})


def definition(**values: Any) -> IndexDefinition:
    return IndexDefinition(space(**values), '"public"')


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_what_its_parameters_say(name: str) -> None:
    found = index_parameters("hnsw", name)
    assert found == {"m": PRESETS[name].m, "ef_construction": PRESETS[name].ef_construction}
    assert index_parameters("hnsw", found) == found


def test_presets_go_from_quick_to_thorough() -> None:
    fast, balanced, accurate = (PRESETS[name] for name in ("fast", "balanced", "accurate"))
    assert fast.m < balanced.m < accurate.m
    assert fast.ef_construction < balanced.ef_construction < accurate.ef_construction


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("hnsw", None),
        ("hnsw", {}),
        ("hnsw", {"m": 2, "ef_construction": 4}),
        ("hnsw", {"m": 100, "ef_construction": 1000}),
        ("hnsw", {"m": 32}),
        ("hnsw", {"ef_construction": 32}),
        ("ivfflat", {"lists": 1}),
        ("ivfflat", {"lists": 32_768}),
        ("ivfflat", None),
        ("none", {}),
    ],
)
def test_what_pgvector_takes_is_taken(method: str, given: Any) -> None:
    assert index_parameters(method, given) == (given or {})


@pytest.mark.parametrize(
    ("method", "given", "said"),
    [
        ("hnsw", {"m": 1}, "m of hnsw must be a whole number from 2 to 100, not 1"),
        ("hnsw", {"m": 101}, "from 2 to 100"),
        ("hnsw", {"m": 16.0}, "not 16.0"),
        ("hnsw", {"m": True}, "not True"),
        ("hnsw", {"m": "16"}, "not '16'"),
        ("hnsw", {"m": None}, "not None"),
        ("hnsw", {"ef_construction": 3}, "from 4 to 1000"),
        ("hnsw", {"ef_construction": 1001}, "from 4 to 1000"),
        ("hnsw", {"m": 65}, r"128 is less than 2 \* 65"),
        ("hnsw", {"m": 40, "ef_construction": 79}, "raise ef_construction or lower m"),
        ("hnsw", {"ef_construction": 31}, "at least twice m"),
        ("hnsw", {"lists": 5}, "hnsw has no parameter lists; it takes m, ef_construction"),
        ("hnsw", {1: 5}, "hnsw has no parameter 1"),
        ("ivfflat", {"lists": 0}, "from 1 to 32768"),
        ("ivfflat", {"lists": 32_769}, "from 1 to 32768"),
        ("ivfflat", {"m": 16}, "ivfflat has no parameter m; it takes lists"),
        ("none", {"m": 16}, "none has no parameter m; it takes none"),
        ("hnsw", "slow", "preset 'slow' is unknown; use one of fast, balanced, accurate"),
        ("hnsw", "", "preset '' is unknown"),
        ("ivfflat", "fast", "presets are those of hnsw"),
        ("none", "fast", "presets are those of hnsw"),
        ("btree", None, "index method 'btree' is unknown; use one of hnsw, ivfflat, none"),
    ],
)
def test_what_pgvector_would_refuse_is_refused_with_what_to_do(method: str, given: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        index_parameters(method, given)


@pytest.mark.parametrize(
    ("rows", "lists"), [(0, 1), (999, 1), (2500, 2), (1_000_000, 1000), (1_000_001, 1000), (4_000_000, 2000)]
)
def test_lists_are_those_that_pgvector_recommends(rows: int, lists: int) -> None:
    assert lists_for(rows) == lists


def test_the_definition_of_a_graph() -> None:
    found = definition(index_parameters={"m": 24, "ef_construction": 90})
    assert found.on('"s"."t"', rows=9) == (
        '"s"."t" USING hnsw ((embedding::"public".halfvec(256)) "public".halfvec_cosine_ops) '
        "WITH (m = 24, ef_construction = 90) WHERE space_id = 7"
    )


def test_the_definition_of_lists_counts_them_only_where_rows_are_known() -> None:
    found = definition(index_method="ivfflat", storage="vector", distance="l2")
    of_rows = found.on('"t"', rows=5000)
    assert of_rows == (
        '"t" USING ivfflat ((embedding_full::"public".vector(256)) "public".vector_l2_ops) '
        "WITH (lists = 5) WHERE space_id = 7"
    )
    assert "WITH" not in found.on('"t"')
    assert found.signature == found.on("").strip()


def test_the_definition_of_bits() -> None:
    found = definition(quantization="binary", distance="inner_product", dimensions=1024).on('"t"', rows=1)
    assert (
        '(("public".binary_quantize(embedding::"public".halfvec(1024))::bit(1024)) "public".bit_hamming_ops)' in found
    )


@pytest.mark.parametrize(
    "other",
    [
        {"distance": "l2"}, {"storage": "vector"}, {"index_method": "ivfflat"}, {"quantization": "binary"},
        {"index_parameters": {"m": 17}}, {"dimensions": 255},
    ],
)  # fmt: skip
def test_whatever_makes_another_index_makes_another_signature(other: dict[str, Any]) -> None:
    assert definition(**other).signature != definition().signature
    assert definition(index_parameters={"m": 16}).signature == definition().signature


def test_memory_grows_with_rows_links_and_dimensions_and_shrinks_with_bits() -> None:
    def needed(rows: int = 1_000_000, **values: Any) -> int:
        return definition(**values)._bytes(rows)

    # Measured: 1,226 bytes a row.
    assert 1_226_000_000 < needed() < 1_500_000_000
    assert needed(2_000_000) > 1.9 * needed()
    assert needed(index_parameters={"m": 32}) > needed() + 500_000_000
    assert needed(storage="vector") > needed() + 500_000_000
    assert needed(quantization="binary") < needed() - 400_000_000
    # The k-means of a thousand lists: 50,000 vectors, and 50,000 times 1,000 distances.
    lists = needed(index_method="ivfflat")
    assert 50_000 * 520 + 50_000 * 1000 * 4 < lists < 300_000_000


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"dimensions": 4001}, "pgvector indexes halfvec up to 4000"),
        ({"dimensions": 2001, "storage": "vector"}, "pgvector indexes vector up to 2000"),
        ({"index_method": "none"}, "it is searched exactly"),
        ({"index_parameters": {"m": 70}}, "embedding space 's': ef_construction must be at least twice m"),
    ],
)
def test_a_space_that_cannot_be_indexed_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        check_indexable(space(**values))


def test_bits_of_more_dimensions_than_vectors_can_be_indexed() -> None:
    check_indexable(space(dimensions=16_000, quantization="binary"))


@pytest.mark.parametrize(
    ("progress", "share"),
    [
        (IndexProgress(1, 16, "initializing", 0, 0), 0.0),
        (IndexProgress(1, 16, "done", 0, 0), 1 / 16),
        (IndexProgress(9, 16, "building index: loading tuples", 500, 1000), 8.5 / 16),
        (IndexProgress(9, 16, "index validation: scanning table", 3000, 1000), 9 / 16),
        (IndexProgress(16, 16, "done", 10, 10), 1.0),
    ],
)
def test_the_share_of_a_build_that_is_done(progress: IndexProgress, share: float) -> None:
    assert progress.share == share
