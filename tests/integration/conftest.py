"""A server of a test's own, which it may kill; and stacks on a database of its own, with an embedder that counts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from document_support import MakeStack, Words

from llmstack import LLMStack
from llmstack.db import Database
from llmstack.db.embedded import EmbeddedServer, start
from llmstack.settings import Settings


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    server = start(tmp_path_factory.mktemp("crash") / "data", announce=False)
    yield server
    server.release()


@pytest.fixture
def words() -> Words:
    return Words()


@pytest_asyncio.fixture
async def make_stack(llmstack_database: Database, words: Words) -> AsyncIterator[MakeStack]:
    """Stacks on one database; give settings, or another embedder."""
    stacks: list[LLMStack] = []

    def make(*, embedder: Any = None, **settings: Any) -> LLMStack:
        chosen = words.embedder() if embedder is None else embedder
        stack = LLMStack(engine=llmstack_database.engine, embedder=chosen, settings=Settings(**settings))
        stacks.append(stack)
        return stack

    yield make
    for stack in stacks:
        await stack.close()


@pytest.fixture
def stack(make_stack: MakeStack) -> LLMStack:
    return make_stack()
