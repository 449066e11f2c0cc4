"""What one transaction writes is not tried again where the database is away."""

from __future__ import annotations

from typing import Any

import pytest
from document_support import add

from llmstack import LLMStack
from llmstack.documents import ingestion
from llmstack.errors import DatabaseUnavailable


async def test_a_single_document_is_tried_once(stack: LLMStack, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[object] = []

    async def away(*given: Any) -> None:
        tries.append(given)
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(ingestion.Ingestion, "_store", away)
    with pytest.raises(DatabaseUnavailable):
        await add(stack, "it")
    assert len(tries) == 1
