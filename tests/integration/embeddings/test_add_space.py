"""A space in the shadow: made once, as it was asked for, and owed every document from then on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from change_support import MakeStack, Model, add, add_papers, found, places, scalar, statements
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from llmstack import LLMStack
from llmstack.documents import DocumentInput
from llmstack.embeddings import CallableEmbedder
from llmstack.errors import ConfigurationError, Conflict


async def test_it_is_made_in_the_shadow_and_its_embedder_is_known_from_then_on(only_old: LLMStack, new: Model) -> None:
    await add_papers(only_old)
    options: dict[str, Any] = {
        "distance": "l2", "storage": "vector", "index_method": "ivfflat", "index_parameters": {"lists": 3}
    }  # fmt: skip
    space = await only_old.embeddings.add_space(new.embedder(), **options)
    assert (space.name, space.dimensions, space.distance, space.storage) == ("new", 16, "l2", "vector")
    assert await only_old.embeddings.add_space(new.embedder(), **options) == space
    first, second = await only_old.embeddings.spaces()
    assert (first.state, first.is_default) == ("active", True)
    assert (second.state, second.is_default, second.wanted, second.covered) == ("shadow", False, 12, 0)
    assert await only_old.embeddings.backfill(space="new") == 12
    assert (await only_old.embeddings.process_pending(space="new")).embedded == 12
    await only_old.embeddings.build_index(space="new")
    assert "lists='3'" in await scalar(
        only_old, "SELECT pg_get_indexdef('llmstack.ix_chunk_embeddings_s2_p00'::regclass)"
    )


async def test_a_first_space_that_is_added_does_not_take_the_place_of_the_process_own(
    both: LLMStack, new: Model
) -> None:
    await both.embeddings.add_space(new.embedder())
    assert {space.name: space.is_default for space in await both.embeddings.spaces()} == {"old": True, "new": False}


async def test_the_own_space_can_be_made_with_other_options_and_serves_at_once(only_old: LLMStack, old: Model) -> None:
    await only_old.embeddings.add_space(old.embedder(), storage="vector", distance="l2")
    await add_papers(only_old)
    assert await found(only_old) == old.ranking[:10]
    (space,) = await only_old.embeddings.spaces()
    assert (space.is_default, space.storage, space.covered) == (True, "vector", 12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distance": "l2"}, "distance is 'cosine', not 'l2'"),
        ({"storage": "vector"}, "storage is 'halfvec', not 'vector'"),
        ({"index_method": "none"}, "index_method is 'hnsw', not 'none'"),
        ({"index_parameters": {"m": 8}}, r"index_parameters is \{\}, not \{'m': 8\}"),
        ({"dimensions": 17}, "two embedders are named 'new' and make other vectors"),
    ],
)
async def test_a_space_that_is_there_with_other_options_is_refused_by_what_differs(
    only_old: LLMStack, new: Model, change: dict[str, Any], message: str
) -> None:
    await only_old.embeddings.add_space(new.embedder())
    embedder = CallableEmbedder(new, name="new", dimensions=change.pop("dimensions", 16))
    with pytest.raises(ConfigurationError, match=message):
        await only_old.embeddings.add_space(embedder, **change)
    # What was refused is not known either.
    assert {one.name: one.dimensions for one in only_old.embeddings.embedders} == {"old": 8, "new": 16}


@pytest.mark.parametrize(
    ("dimensions", "options", "message"),
    [
        (16, {"distance": "hamming"}, "'hamming' is unknown; use one of cosine, inner_product, l2"),
        (16, {"storage": "bit"}, "use one of halfvec, vector"),
        (16, {"index_method": "diskann"}, "use one of hnsw, ivfflat, none"),
        (16, {"index_parameters": {"lists": 3}}, "hnsw has no .*parameter '?lists"),
        (16, {"index_method": "none", "index_parameters": {"m": 3}}, "none has no .*parameter '?m"),
        (16, {"index_parameters": {"m": "16"}}, "m of hnsw must be a whole number"),
        (16, {"index_parameters": {"m": True}}, "m of hnsw must be a whole number"),
        (16, {"index_parameters": {"m": 0}}, "m of hnsw must be a whole number"),
        (4001, {}, "4001 dimensions, and pgvector indexes halfvec up to 4000.*index_method='none'"),
        (2001, {"storage": "vector"}, "vector up to 2000"),
        (16_001, {"index_method": "none"}, "takes 1 to 16000"),
    ],
)
async def test_a_space_that_cannot_be_is_refused_and_not_made(
    only_old: LLMStack, dimensions: int, options: dict[str, Any], message: str
) -> None:
    embedder = CallableEmbedder(lambda texts: [[1.0] * dimensions for _ in texts], name="odd", dimensions=dimensions)
    with pytest.raises(ConfigurationError, match=message):
        await only_old.embeddings.add_space(embedder, **options)
    assert "odd" not in {space.name for space in await only_old.embeddings.spaces()}


async def test_dimensions_that_are_not_known_are_asked_for(only_old: LLMStack) -> None:
    class Unmeasured:
        name = provider = model = "unmeasured"
        dimensions = 0

        async def embed(self, texts: Any, *, kind: str = "document") -> list[list[float]]:
            self.dimensions = 5
            return [[1.0] * 5 for _ in texts]

    assert (await only_old.embeddings.add_space(Unmeasured())).dimensions == 5


async def test_adding_the_same_space_eight_times_at_once_makes_one(both: LLMStack, new: Model) -> None:
    spaces = await asyncio.gather(*(both.embeddings.add_space(new.embedder()) for _ in range(8)))
    assert len({space.id for space in spaces}) == 1


async def test_every_way_to_write_a_document_owes_its_leaves_to_every_living_space(
    both: LLMStack, make_stack: MakeStack, new: Model
) -> None:
    await both.embeddings.add_space(new.embedder())
    await add(both, "one")
    assert await places(both, "one") == {"old": "vector", "new": "job"}
    async for _ in both.documents.add_many([DocumentInput(owner_id="acme", id_at_origin="two", content="two")]):
        pass
    assert await places(both, "two") == {"old": "vector", "new": "job"}
    await add(make_stack("none"), "three")
    assert await places(both, "three") == {"old": "job", "new": "job"}
    await both.embeddings.process_pending()
    assert await places(both, "one") == await places(both, "three") == {"old": "vector", "new": "vector"}
    await add(both, "one and a half", id_at_origin="one")
    assert await places(both, "one and a half") == {"old": "vector", "new": "job"}


async def test_what_was_hidden_during_the_backfill_is_owed_when_it_is_written_again(both: LLMStack, new: Model) -> None:
    result = await add(both, "hidden")
    await both.documents.delete(owner_id="acme", document_id=result.document.id)
    await both.embeddings.add_space(new.embedder())
    assert await both.embeddings.backfill(space="new") == 0
    await add(both, "hidden")
    assert await places(both, "hidden") == {"old": "vector", "new": "job"}


async def test_parents_and_what_is_unchanged_owe_nothing(both: LLMStack, new: Model) -> None:
    await both.embeddings.add_space(new.embedder())
    content = "\n\n".join(f"# Part {number}\n\n" + f"word{number} " * 300 for number in range(6))
    await add(both, content, id_at_origin="long", document_type="markdown")
    leaves = await scalar(both, "SELECT count(*) FROM llmstack.chunks WHERE level = 0")
    assert await scalar(both, "SELECT count(*) FROM llmstack.chunks WHERE level > 0") > 0
    assert await scalar(both, "SELECT count(*) FROM llmstack.chunk_embedding_jobs") == leaves
    await both.embeddings.process_pending()
    await add(both, content, id_at_origin="long", document_type="markdown", metadata={"a": 1})
    assert await scalar(both, "SELECT count(*) FROM llmstack.chunk_embedding_jobs") == 0


async def test_a_space_of_other_dimensions_is_refused_to_a_process_that_hears_of_it_first(
    both: LLMStack, only_old: LLMStack, new: Model
) -> None:
    await both.embeddings.add_space(new.embedder())
    with pytest.raises(ConfigurationError, match="16 dimensions, but the embedder makes 17"):
        await only_old.embeddings.add_space(CallableEmbedder(new, name="new", dimensions=17))


async def test_with_one_space_a_write_sends_not_a_statement_more(
    make_stack: MakeStack, engine: AsyncEngine, old: Model, new: Model
) -> None:
    both = make_stack(old.embedder(), new.embedder(), space_refresh=60.0)
    await add_papers(both)
    # Until the corpus has grown by a fifth, its statistics are not read anew.
    await both.documents.settle()
    with statements(engine) as alone:
        await add(both, "with one space")
    assert [one for one in alone if "chunk_embedding_jobs" in one] == []
    assert len([one for one in alone if "embedding_spaces" in one]) == 1
    await both.embeddings.add_space(new.embedder())
    await found(both)
    with statements(engine) as beside:
        await add(both, "with two")
    assert len(beside) == len(alone) + 1


async def test_a_writer_under_way_holds_up_a_new_space_and_one_that_comes_later_knows_it(
    both: LLMStack, make_stack: MakeStack, new: Model
) -> None:
    await add_papers(both)
    async with both.service.session() as writer:
        # What every write does first.
        await writer.execute(text("SELECT id FROM llmstack.embedding_spaces FOR KEY SHARE"))
        adding = asyncio.create_task(both.embeddings.add_space(new.embedder()))
        await asyncio.sleep(0.3)
        assert not adding.done()
        later = asyncio.create_task(add(both, "later"))
        await asyncio.sleep(0.3)
        assert not later.done()
        await writer.rollback()
    await adding
    await later
    assert await places(both, "later") == {"old": "vector", "new": "job"}


async def test_a_writer_that_takes_too_long_is_a_conflict_and_not_a_queue(
    make_stack: MakeStack, old: Model, new: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmstack.db.locks._BRIEF_WAITS", 2)
    stack = make_stack(old.embedder(), ddl_lock_timeout=0.05)
    await stack.embeddings.space()
    async with stack.service.session() as writer:
        await writer.execute(text("SELECT id FROM llmstack.embedding_spaces FOR KEY SHARE"))
        with pytest.raises(Conflict, match="take too long"):
            await stack.embeddings.add_space(new.embedder())
        await writer.rollback()
    assert (await stack.embeddings.add_space(new.embedder())).name == "new"
