"""Read chat messages of OpenAI, Anthropic and LangChain, and write stored ones for them."""

from __future__ import annotations

from .calls import results_of as results_of
from .calls import tool_calls_of as tool_calls_of
from .reading import read_message as read_message
from .shaping import empty_text as empty_text
from .writing import as_messages as as_messages

__all__ = ["as_messages", "empty_text", "read_message", "results_of", "tool_calls_of"]
