"""Messages as they are stored, and what all suites of formats ask of them."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from llmstack.conversations.formats import read_message

PNG = "iVBORw0KGgo="
PDF = "JVBERi0xLjQ="


@dataclass
class StoredMessage:
    role: str
    content: str = ""
    parts: list[dict[str, Any]] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    metadata_: dict[str, Any] = field(default_factory=dict)


def stored(*given: Any) -> list[StoredMessage]:
    """Read the messages and store them, by way of the JSON that the database keeps."""
    messages = []
    for one in given:
        found = json.loads(json.dumps(read_message(one)))
        messages.append(StoredMessage(metadata_=found.pop("metadata", {}), **found))
    return messages


def call(call_id: str = "call_a", name: str = "weather", arguments: str = '{"city":  "Bonn"}') -> dict[str, Any]:
    """A call as chat completions have it; its arguments are no text that a JSON library would write."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def use(call_id: str = "toolu_a", name: str = "weather", **arguments: Any) -> dict[str, Any]:
    """A call as Anthropic has it."""
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments or {"city": "Bonn"}}


def openai_takes(messages: list[Any]) -> None:
    """Hold the messages to OpenAI's own types."""
    chat = pytest.importorskip("openai.types.chat")
    _validate(chat.ChatCompletionMessageParam, messages)


def anthropic_takes(written: dict[str, Any]) -> None:
    """Hold the messages to Anthropic's own types, and their roles to alternate."""
    types = pytest.importorskip("anthropic.types")
    _validate(types.MessageParam, written["messages"])
    assert isinstance(written.get("system", ""), str)
    roles = [message["role"] for message in written["messages"]]
    assert all(one != other for one, other in itertools.pairwise(roles))


def _validate(kind: Any, messages: list[Any]) -> None:
    pydantic = pytest.importorskip("pydantic")
    # What is lazy needs the adapter as long as it is gone through.
    adapter = pydantic.TypeAdapter(kind)
    for message in messages:
        _exhaust(adapter.validate_python(message))


def _exhaust(value: Any) -> None:
    """Go through what is validated only when it is iterated over."""
    if isinstance(value, dict):
        value = value.values()
    if not isinstance(value, str) and hasattr(value, "__iter__"):
        for one in value:
            _exhaust(one)
