"""An empty database for each test that migrates."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from migration_support import empty_database, make_engine
from sqlalchemy.ext.asyncio import AsyncEngine


@pytest.fixture
async def url(llmstack_server_url: str) -> AsyncIterator[str]:
    async with empty_database(llmstack_server_url) as created:
        yield created


@pytest.fixture
async def engine(url: str) -> AsyncEngine:
    return make_engine(url)
