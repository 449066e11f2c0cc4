"""A database with papers in the space of an old model, and a new model to change to."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from change_support import MakeStack, Model, stack_on
from sqlalchemy.ext.asyncio import AsyncEngine

from llmstack import LLMStack
from llmstack.db import Database
from llmstack.embeddings import Embedder


@pytest.fixture
def old() -> Model:
    return Model("old", dimensions=8, downwards=False)


@pytest.fixture
def new() -> Model:
    return Model("new", dimensions=16, downwards=True)


@pytest.fixture
def engine(llmstack_database: Database) -> AsyncEngine:
    return llmstack_database.engine


@pytest_asyncio.fixture
async def make_stack(engine: AsyncEngine) -> AsyncIterator[MakeStack]:
    """Stacks on one database, each as in a process of its own; closed at the end."""
    stacks: list[LLMStack] = []

    def make(embedder: Embedder | str | None, *others: Embedder, **settings: object) -> LLMStack:
        stacks.append(stack_on(engine, embedder, *others, **settings))
        return stacks[-1]

    yield make
    for stack in stacks:
        await stack.close()


@pytest.fixture
def both(make_stack: MakeStack, old: Model, new: Model) -> LLMStack:
    """A process that knows both models; the old one is its own."""
    return make_stack(old.embedder(), new.embedder())


@pytest.fixture
def only_old(make_stack: MakeStack, old: Model) -> LLMStack:
    return make_stack(old.embedder())


@pytest.fixture
def only_new(make_stack: MakeStack, new: Model) -> LLMStack:
    return make_stack(new.embedder())
