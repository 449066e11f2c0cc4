"""A history as it is read back, and how much of it fits into a budget of tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..providers.tokens import count_tokens
from .formats import as_messages, results_of, tool_calls_of
from .models import Message, ThreadSummary

Format = Literal["openai", "anthropic", "langchain"]
Counter = Callable[[str], int]
"""Tokens of a text."""

MESSAGE_TOKENS = 4
"""What a message costs beside its text: its role and the marks around it, as OpenAI's cookbook counts them."""


def tokens_of(message: Message, counter: Counter = count_tokens) -> int:
    """The tokens of a message in a chat call, its parts counted as their JSON."""
    parts = json.dumps(message.parts, ensure_ascii=False) if message.parts else ""
    return counter(message.content) + (counter(parts) if parts else 0) + MESSAGE_TOKENS


def cost_of(messages: Iterable[Message], counter: Counter) -> int:
    """The tokens of messages in a chat call."""
    return sum(tokens_of(message, counter) for message in messages)


def fitting(messages: Sequence[Message], tokens: int, counter: Counter) -> tuple[int, int]:
    """How many messages of the end fit, and the tokens that they leave."""
    for taken, message in enumerate(reversed(messages)):
        cost = tokens_of(message, counter)
        if cost > tokens:
            return taken, tokens
        tokens -= cost
    return len(messages), tokens


def in_parts(messages: Sequence[Message], tokens: int) -> list[Sequence[Message]]:
    """The messages in parts of so many tokens, or of one message that is longer."""
    parts: list[list[Message]] = []
    spent = 0
    for message in messages:
        cost = tokens_of(message)
        if not parts or spent + cost > tokens:
            parts.append([])
            spent = 0
        parts[-1].append(message)
        spent += cost
    return list(parts)


def unanswerable(messages: Iterable[Message]) -> dict[str, int]:
    """Results of tool calls that were made before these messages, if ever: the last place of each call's results."""
    made: set[str] = set()
    found: dict[str, int] = {}
    for place, message in enumerate(messages):
        made.update(tool_calls_of(message.parts))
        found.update((call, place) for call in results_of(message) if call not in made)
    return found


class History(list[Message]):
    """Messages of one thread, in order."""

    def as_messages(self, format: Format) -> Any:
        """What the library takes: a list of messages; of Anthropic a dict of `system` and `messages`."""
        return as_messages(self, format)


@dataclass(frozen=True, slots=True)
class _Told:
    """A summary as a message that a chat call takes."""

    content: str
    role: str = "system"
    parts: list[dict[str, Any]] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    metadata_: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a chat call is told of a thread: its recent messages, and a summary where not all of them fit.

    `tokens` is what both take. `left_out` counts living messages that are neither among `messages` nor in the summary.
    """

    messages: History
    summary: ThreadSummary | None
    tokens: int
    left_out: int

    def as_messages(self, format: Format) -> Any:
        """As `History.as_messages`, behind the summary as a system message."""
        told = [] if self.summary is None else [_Told(told_by(self.summary))]
        return as_messages([*told, *self.messages], format)


def told_by(summary: ThreadSummary) -> str:
    """A summary as a chat call is told it."""
    return f"Summary of the conversation until here:\n{summary.content}"
