"""Which calls a message makes, and which it answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .parts import read_parts
from .stored import Answering


def tool_calls_of(parts: Iterable[Mapping[str, Any]] | None) -> list[str]:
    """Give the ids of the calls that the application has to answer, each once; a vendor's own tools are none."""
    return list(dict.fromkeys(part.id for part in read_parts(parts or ()) if part.kind == "call" and part.id))


def results_of(message: Answering) -> list[str]:
    """Give the ids of the calls that the message answers, each once."""
    answered = [part.id for part in read_parts(message.parts or ()) if part.kind == "result"]
    return [found for found in dict.fromkeys([message.tool_call_id, *answered]) if found]
