"""Messages as chat APIs have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def read_message(given: Mapping[str, Any] | object) -> dict[str, Any]:
    """Read a chat message."""
    assert isinstance(given, Mapping)
    return dict(given)


def tool_calls_of(parts: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """The ids of the tool calls among parts."""
    return [str(part["id"]) for part in parts or () if part.get("type") in ("function", "tool_use", "tool_call")]


def results_of(message: Any) -> list[str]:
    """The ids of the tool calls that a message answers."""
    return [message.tool_call_id] if message.tool_call_id else []
