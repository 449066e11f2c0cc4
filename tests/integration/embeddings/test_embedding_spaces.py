"""Spaces: made once, by whoever comes first, and never mixed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from embedding_support import Counting, add_chunks, service_with, vector_of
from sqlalchemy import Float, literal, select

from llmstack.db import Service
from llmstack.documents.models import ChunkEmbedding
from llmstack.embeddings import (
    CallableEmbedder,
    EmbeddingSpace,
    LiteLLMEmbedder,
    LocalEmbedder,
    SpaceNotFound,
    SpaceRepository,
    column_of,
)
from llmstack.errors import ConfigurationError, EmbeddingError, MissingExtra


def _embedder(name: str, dimensions: int) -> CallableEmbedder:
    def embed(texts: list[str]) -> list[list[float]]:
        return [[1.0] * dimensions for _ in texts]

    return CallableEmbedder(embed, name=name, dimensions=dimensions)


async def test_eight_first_uses_at_once_make_one_space(llmstack_service: Service) -> None:
    async def use() -> int:
        return (await service_with(llmstack_service, _embedder("m", 8)).space()).id

    assert len(set(await asyncio.gather(*(use() for _ in range(8))))) == 1


async def test_of_many_spaces_made_at_once_exactly_one_is_the_default(llmstack_service: Service) -> None:
    await asyncio.gather(*(service_with(llmstack_service, _embedder(f"m{number}", 8)).space() for number in range(8)))
    async with llmstack_service.session() as session:
        spaces = await SpaceRepository(session).list()
        default = await SpaceRepository(session).default()
    assert len(spaces) == 8
    assert [space.name for space in spaces if space.is_default] == [default.name if default else None]


async def test_the_first_space_of_a_schema_is_the_default_and_stays_it(llmstack_service: Service) -> None:
    async with llmstack_service.session() as session:
        repository = SpaceRepository(session)
        assert await repository.default() is None
        first = await repository.ensure(_embedder("first", 8))
        second = await repository.ensure(_embedder("second", 16))
        assert (first.is_default, second.is_default) == (True, False)
        assert (await repository.get("second")).dimensions == 16
        with pytest.raises(SpaceNotFound, match="'third'"):
            await repository.get("third")


async def test_a_known_name_with_other_dimensions_is_refused_with_a_way_out(
    llmstack_service: Service,
) -> None:
    await service_with(llmstack_service, _embedder("m", 8)).space()
    with pytest.raises(ConfigurationError, match=r"8 dimensions.*makes 16.*another name"):
        await service_with(llmstack_service, _embedder("m", 16)).space()


async def test_a_space_that_is_known_needs_no_call_to_learn_its_dimensions(llmstack_service: Service) -> None:
    await service_with(llmstack_service, _embedder("openai/unlisted", 8)).space()
    unknown = LiteLLMEmbedder("openai/unlisted", api_base="http://127.0.0.1:9", api_key="none")
    assert unknown.dimensions == 0
    assert (await service_with(llmstack_service, unknown).space()).dimensions == 8


async def test_vectors_of_another_length_than_the_space_are_refused(llmstack_service: Service) -> None:
    embedder = _embedder("m", 8)
    embeddings = service_with(llmstack_service, embedder)
    await embeddings.space()
    embedder.dimensions = 16
    short = CallableEmbedder(lambda texts: [[1.0] * 7 for _ in texts], name="m", dimensions=8)
    with pytest.raises(EmbeddingError, match="has 7 dimensions instead of 8"):
        await service_with(llmstack_service, short).embed(["text"])


async def test_more_than_4000_dimensions_are_stored_and_not_indexed(llmstack_service: Service) -> None:
    embeddings = service_with(llmstack_service, _embedder("huge", 4001))
    assert (await embeddings.space()).index_method == "none"
    await add_chunks(llmstack_service, ["text"])
    await embeddings.backfill()
    assert (await embeddings.process_pending()).embedded == 1
    with pytest.raises(ConfigurationError, match="up to 4000"):
        await embeddings.build_index()


async def test_dimensions_that_no_space_can_hold_are_refused(llmstack_service: Service) -> None:
    with pytest.raises(ConfigurationError, match="1 to 16000"):
        await service_with(llmstack_service, _embedder("m", 16_001)).space()


async def test_without_an_embedder_the_error_says_what_to_configure(llmstack_service: Service) -> None:
    switched_off = service_with(llmstack_service, None, embedder="none")
    with pytest.raises(ConfigurationError, match="LLMSTACK_EMBEDDER"):
        await switched_off.space()
    assert (await switched_off.pending()).waiting == 0
    assert await switched_off.spaces() == []


async def test_without_an_embedder_and_without_the_local_one_the_error_says_what_to_install(
    llmstack_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmstack.embeddings.serving.local_is_installed", lambda: False)
    with pytest.raises(MissingExtra, match=r"llmstack\[local\]"):
        await service_with(llmstack_service, None).embed(["text"])


async def test_the_status_of_spaces_shows_vectors_coverage_and_index(llmstack_service: Service) -> None:
    counting = service_with(llmstack_service, Counting())
    await add_chunks(llmstack_service, ["one", "two", "three", "four"])
    await counting.backfill()
    await counting.process_pending(limit=3)
    await service_with(llmstack_service, LocalEmbedder()).space()
    first, second = await counting.spaces()
    assert (first.name, first.vectors, first.wanted, first.coverage) == ("counting", 3, 4, 0.75)
    assert (first.is_default, first.index) == (True, "absent")
    assert (second.name, second.dimensions, second.coverage) == ("local/wordllama-256", 256, 0.0)


@pytest.mark.parametrize("storage", ["halfvec", "vector"])
async def test_either_storage_keeps_vectors_that_can_be_compared(llmstack_service: Service, storage: str) -> None:
    embeddings = service_with(llmstack_service, Counting())
    await add_chunks(llmstack_service, ["near", "far"])
    async with llmstack_service.session() as session:
        row = await SpaceRepository(session).ensure(CallableEmbedder(vectors, name="counting", dimensions=8))
        row.storage = storage
        await session.commit()
    await embeddings.backfill()
    await embeddings.process_pending()
    space = await embeddings.space()
    column = column_of(space, ChunkEmbedding)
    distance = column.op("<=>", return_type=Float())(literal(vector_of("\nnear"), column.type))
    async with llmstack_service.session() as session:
        distances = (await session.scalars(select(distance).order_by(distance))).all()
        stored = (await session.scalars(select(EmbeddingSpace.storage))).one()
    assert stored == storage
    assert distances[0] == pytest.approx(0, abs=1e-5)
    assert distances[1] > 0.01


def vectors(texts: list[str]) -> list[Any]:
    return [vector_of(content) for content in texts]
