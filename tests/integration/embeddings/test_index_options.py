"""A space says how it is indexed: presets, parameters and quantization, each checked before anything is made."""

from __future__ import annotations

from typing import Any

import pytest
from embedding_support import Counting, add_chunks, service_with
from sqlalchemy import text

from llmstack.db import Service
from llmstack.embeddings import CallableEmbedder, EmbeddingService
from llmstack.errors import ConfigurationError


def other(dimensions: int = 8) -> CallableEmbedder:
    return CallableEmbedder(lambda texts: [[1.0] * dimensions] * len(texts), name="other", dimensions=dimensions)


@pytest.fixture
async def embeddings(llmstack_service: Service) -> EmbeddingService:
    """A service whose own space serves."""
    embeddings = service_with(llmstack_service, Counting())
    await embeddings.space()
    return embeddings


async def test_a_quantized_space_with_a_preset_is_filled_indexed_and_verified(
    llmstack_service: Service, embeddings: EmbeddingService
) -> None:
    await add_chunks(llmstack_service, [f"text {number}" for number in range(20)])
    space = await embeddings.add_space(other(), index_parameters="fast", quantization="binary")
    assert space.quantization == "binary"
    await embeddings.backfill(space="other")
    await embeddings.process_pending(space="other")
    assert (await embeddings.verify("other")).recall is None
    await embeddings.build_index(space="other")
    found = await embeddings.verify("other")
    assert (found.ready, found.recall) == (True, 1.0)
    async with llmstack_service.single_statements() as session:
        definition = text("SELECT indexdef FROM pg_indexes WHERE indexname = :name")
        made = await session.scalar(definition, {"name": f"ix_chunk_embeddings_s{space.id}_p00"})
    assert "binary_quantize" in str(made)
    assert "m='8', ef_construction='32'" in str(made)


async def test_the_same_options_again_are_the_same_space_and_others_are_refused(embeddings: EmbeddingService) -> None:
    first = await embeddings.add_space(other(), index_parameters="accurate")
    same = {"m": 24, "ef_construction": 200}
    assert await embeddings.add_space(other(), index_parameters=same) == first
    with pytest.raises(ConfigurationError, match="quantization is None, not 'binary'"):
        await embeddings.add_space(other(), index_parameters=same, quantization="binary")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"index_parameters": "quick"}, "preset 'quick' is unknown"),
        ({"index_parameters": "fast", "index_method": "ivfflat"}, "presets are those of hnsw"),
        ({"index_parameters": {"m": 70}}, "ef_construction must be at least twice m"),
        ({"index_parameters": {"lists": 40_000}, "index_method": "ivfflat"}, "from 1 to 32768"),
        ({"quantization": "scalar"}, "quantization 'scalar' is unknown; use one of binary"),
        ({"quantization": "binary", "index_method": "none"}, "that of an index"),
        ({"index_method": "btree"}, "'btree' is unknown"),
    ],
)
async def test_what_no_index_can_be_makes_no_space(
    embeddings: EmbeddingService, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        await embeddings.add_space(other(), **options)
    assert [space.name for space in await embeddings.spaces()] == ["counting"]


async def test_a_space_of_more_dimensions_than_vectors_are_indexed_in_takes_bits(embeddings: EmbeddingService) -> None:
    with pytest.raises(ConfigurationError, match="up to 4000"):
        await embeddings.add_space(other(5000))
    assert (await embeddings.add_space(other(5000), quantization="binary")).dimensions == 5000
