"""A server of a test's own, which it may kill."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmstack.db.embedded import EmbeddedServer, start


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    server = start(tmp_path_factory.mktemp("crash") / "data", announce=False)
    yield server
    server.release()
