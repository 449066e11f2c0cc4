"""Integrations need what they integrate, and say so."""

from __future__ import annotations

import importlib
import sys

import pytest

from llmstack.errors import MissingExtra


@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [("openai_agents", "agents", "agents"), ("langchain", "langchain_core.chat_history", "langchain")],
)
def test_without_its_library_an_integration_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, module: str, library: str, extra: str
) -> None:
    monkeypatch.delitem(sys.modules, f"llmstack.integrations.{module}", raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=rf"llmstack\[{extra}\]") as caught:
        importlib.import_module(f"llmstack.integrations.{module}")
    assert caught.value.extra == extra
