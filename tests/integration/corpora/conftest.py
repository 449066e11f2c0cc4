"""Each corpus in turn, on a database of its own, with an embedder that counts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from corpus_support import KINDS, MakeWorld, World, create_notes
from document_support import Words

from llmstack import LLMStack
from llmstack.db import Database
from llmstack.settings import Settings


@pytest.fixture
def words() -> Words:
    return Words()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest_asyncio.fixture
async def make_world(llmstack_database: Database, words: Words, kind: str) -> AsyncIterator[MakeWorld]:
    """Worlds on one database; give settings, or another embedder."""
    await create_notes(llmstack_database.service())
    stacks: list[LLMStack] = []

    def make(*, embedder: Any = None, schema: str | None = None, **settings: Any) -> World:
        chosen = words.embedder() if embedder is None else embedder
        given = Settings(**settings)
        stack = LLMStack(engine=llmstack_database.engine, embedder=chosen, schema=schema, settings=given)
        stacks.append(stack)
        return KINDS[kind](stack)

    yield make
    for stack in stacks:
        await stack.close()


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()
