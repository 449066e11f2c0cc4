"""A history as it is read back, and how much of it fits into a budget of tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence

from ..providers.tokens import count_tokens
from .formats import results_of, tool_calls_of
from .models import Message

Counter = Callable[[str], int]
"""Tokens of a text."""

MESSAGE_TOKENS = 4
"""What a message costs beside its text: its role and the marks around it, as OpenAI's cookbook counts them."""


def tokens_of(message: Message, counter: Counter = count_tokens) -> int:
    """The tokens of a message in a chat call, its parts counted as their JSON."""
    parts = json.dumps(message.parts, ensure_ascii=False) if message.parts else ""
    return counter(message.content) + (counter(parts) if parts else 0) + MESSAGE_TOKENS


def fitting(messages: Sequence[Message], tokens: int, counter: Counter) -> tuple[int, int]:
    """How many messages of the end fit, and the tokens that they leave."""
    for taken, message in enumerate(reversed(messages)):
        cost = tokens_of(message, counter)
        if cost > tokens:
            return taken, tokens
        tokens -= cost
    return len(messages), tokens


def unanswerable(messages: Iterable[Message]) -> dict[str, int]:
    """Results of tool calls that were made before these messages, if ever: the last place of each call's results."""
    made: set[str] = set()
    found: dict[str, int] = {}
    for place, message in enumerate(messages):
        made.update(tool_calls_of(message.parts))
        found.update((call, place) for call in results_of(message) if call not in made)
    return found
