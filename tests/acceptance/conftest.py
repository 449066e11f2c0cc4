"""The command line on a database of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
from cli_support import CommandLine, HereCommandLine

from llmstack.db.schemas import quote
from llmstack.testing import servers

if TYPE_CHECKING:
    from llmstack import Database


@pytest.fixture
def migrated(llmstack_database: Database) -> CommandLine:
    """The command line on a migrated database."""
    return CommandLine(llmstack_database.engine.url.render_as_string(hide_password=False))


@pytest.fixture
def here(llmstack_database: Database) -> HereCommandLine:
    """The application in this process on a migrated database."""
    return HereCommandLine(llmstack_database.engine.url.render_as_string(hide_password=False))


@pytest.fixture
async def fresh(llmstack_server_url: str) -> AsyncIterator[CommandLine]:
    """The command line on an empty database."""
    from sqlalchemy.engine import make_url

    name = servers.unique_name()
    await servers.execute(llmstack_server_url, f"CREATE DATABASE {quote(name)}")
    url = make_url(llmstack_server_url).set(database=name)
    try:
        yield CommandLine(url.render_as_string(hide_password=False))
    finally:
        await servers.drop(llmstack_server_url, name)
