"""Which space a process searches and writes to: never one that it cannot read, never one beside the question."""

from __future__ import annotations

import asyncio
import logging

import pytest
from change_support import REFRESH, MakeStack, Model, add, add_papers, found, grow, places, scalar, statements
from sqlalchemy.ext.asyncio import AsyncEngine

from llmstack import LLMStack
from llmstack.embeddings import CallableEmbedder, SpaceNotServing
from llmstack.errors import ConfigurationError, EmbeddingError


async def test_the_default_serves_every_process_that_knows_its_embedder(
    both: LLMStack, only_old: LLMStack, make_stack: MakeStack, old: Model, new: Model
) -> None:
    await only_old.embeddings.space()
    assert (await make_stack(new.embedder(), old.embedder()).embeddings.space()).name == "old"
    await both.embeddings.add_space(new.embedder())
    await both.embeddings.cut_over("new", force=True)
    assert (await both.embeddings.space()).name == "new"
    assert (await make_stack(old.embedder(), new.embedder()).embeddings.space()).name == "new"


async def test_a_process_that_does_not_know_it_serves_its_own_space_and_says_so_once(
    both: LLMStack, only_old: LLMStack, old: Model, new: Model, caplog: pytest.LogCaptureFixture
) -> None:
    await add_papers(only_old)
    await both.embeddings.add_space(new.embedder())
    await both.embeddings.cut_over("new", force=True)
    for _ in range(3):
        await asyncio.sleep(REFRESH)
        assert await found(only_old) == old.ranking[:10]
    said = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert said == ["space 'new' serves, but its embedder is not known here: this process searches 'old'"]


async def test_a_cut_over_elsewhere_is_seen_within_the_time_of_a_refresh_and_costs_one_query(
    both: LLMStack, make_stack: MakeStack, engine: AsyncEngine, old: Model, new: Model
) -> None:
    await add_papers(both)
    await both.embeddings.add_space(new.embedder())
    await grow(both, "new")
    other = make_stack(old.embedder(), new.embedder())
    assert await found(other) == old.ranking[:10]
    await both.embeddings.cut_over("new")
    assert await found(both) == new.ranking[:10]
    await asyncio.sleep(REFRESH)
    with statements(engine) as sent:
        answers = await asyncio.gather(*(other.embeddings.embed_queries(["which"]) for _ in range(8)))
    assert {space.name for space, _ in answers} == {"new"}
    assert len([one for one in sent if "embedding_spaces" in one]) == 1


async def test_between_two_refreshes_a_search_asks_nothing(
    make_stack: MakeStack, engine: AsyncEngine, old: Model
) -> None:
    stack = make_stack(old.embedder(), space_refresh=60.0)
    await add_papers(stack)
    await found(stack)
    with statements(engine) as sent:
        await found(stack)
    assert [one for one in sent if "embedding_spaces" in one] == []


async def test_a_query_that_was_embedded_while_another_space_took_over_is_embedded_again(
    both: LLMStack, make_stack: MakeStack, old: Model, new: Model
) -> None:
    await add_papers(both)
    await both.embeddings.add_space(new.embedder())
    await grow(both, "new")
    other = make_stack(old.embedder(), new.embedder())

    async def meanwhile(texts: list[str]) -> None:
        old.before = None
        await both.embeddings.cut_over("new")
        await asyncio.sleep(REFRESH)

    old.before = meanwhile
    assert await found(other) == new.ranking[:10]


async def test_vectors_made_before_a_cut_over_go_to_the_space_that_they_were_made_for(
    both: LLMStack, old: Model, new: Model
) -> None:
    await add_papers(both)
    await both.embeddings.add_space(new.embedder())
    await grow(both, "new")

    async def meanwhile(texts: list[str]) -> None:
        old.before = None
        await both.embeddings.cut_over("new")
        await both.embeddings.space()

    old.before = meanwhile
    result = await add(both, "written during the cut-over")
    assert (result.embeddings_created, result.embedding_error) == (1, None)
    assert await places(both, "written during the cut-over") == {"old": "vector", "new": "job"}
    await add(both, "written after it")
    assert await places(both, "written after it") == {"new": "vector", "old": "job"}


async def test_vectors_made_for_a_space_that_is_retired_meanwhile_are_owed_to_the_living(
    both: LLMStack, only_old: LLMStack, old: Model, new: Model
) -> None:
    await add_papers(only_old)
    await both.embeddings.add_space(new.embedder())
    await both.embeddings.cut_over("new", force=True)

    async def meanwhile(texts: list[str]) -> None:
        old.before = None
        await both.embeddings.retire("old")

    old.before = meanwhile
    await add(only_old, "too late")
    assert await places(both, "too late") == {"new": "job"}
    assert await scalar(both, "SELECT count(*) FROM llmstack.chunk_embeddings") == 0


@pytest.mark.parametrize("state", ["retired", "shadow"])
async def test_where_the_own_space_cannot_serve_vectors_are_refused_by_name_and_text_still_answers(
    both: LLMStack, only_old: LLMStack, only_new: LLMStack, new: Model, state: str
) -> None:
    await add_papers(only_old)
    await both.embeddings.add_space(new.embedder())
    stack, own, serving = only_new, "new", "old"
    if state == "retired":
        await both.embeddings.cut_over("new", force=True)
        await both.embeddings.retire("old")
        stack, own, serving = only_old, "old", "new"
    said = rf"'{own}' is .*{state}.*'{serving}' serves.*LLMSTACK_OTHER_EMBEDDERS"
    for error in (SpaceNotServing, ConfigurationError, EmbeddingError):
        with pytest.raises(error, match=said):
            await found(stack, mode="vector")
    assert (await found(stack, mode=None, query="paper 7"))[0] == "paper 7"
    result = await add(stack, "by text alone")
    assert f"{serving!r} serves" in result.embedding_error
    assert await found(stack, mode=None, query="alone") == ["by text alone"]
    assert (await places(stack, "by text alone"))[serving] == "job"


async def test_a_space_that_does_not_exist_yet_is_made_in_the_process_own_name_alone(
    make_stack: MakeStack, old: Model, new: Model
) -> None:
    stack = make_stack(new.embedder(), old.embedder())
    assert (await stack.embeddings.space()).name == "new"
    assert [space.name for space in await stack.embeddings.spaces()] == ["new"]


async def test_two_embedders_of_one_name_must_be_one(make_stack: MakeStack, old: Model) -> None:
    make_stack(old.embedder(), old.embedder())
    with pytest.raises(ConfigurationError, match="two embedders are named 'old'"):
        make_stack(old.embedder(), CallableEmbedder(old, name="old", dimensions=9))


async def test_what_is_no_embedder_is_refused(make_stack: MakeStack, old: Model) -> None:
    with pytest.raises(ConfigurationError, match="CallableEmbedder"):
        make_stack(old.embedder(), old.vector)
    with pytest.raises(ConfigurationError, match="a list of embedders"):
        LLMStack("postgresql://localhost/x", embedder=old.embedder(), other_embedders="local")


async def test_other_embedders_come_from_the_settings_by_name(make_stack: MakeStack, engine: AsyncEngine) -> None:
    stack = LLMStack(
        engine=engine,
        settings=make_stack(None, other_embedders="openai/text-embedding-3-small=512, local").settings,
    )
    assert [(one.name, one.dimensions) for one in stack.embeddings.embedders] == [
        ("local/wordllama-256", 256),
        ("openai/text-embedding-3-small", 512),
    ]
    for wrong, message in (("none", "no embedder"), ("openai/m=many", "=512")):
        with pytest.raises(ConfigurationError, match=message):
            LLMStack(engine=engine, settings=stack.settings.model_copy(update={"other_embedders": wrong}))
