"""Stored messages in one reading, and the orders that all dialects need them in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .parts import Part, joined, read_parts
from .stored import AS_GIVEN, Stored, listed, mapping, type_of

_ITEMS = frozenset({"message", "reasoning", "function_call", "custom_tool_call"})


@dataclass(frozen=True, slots=True)
class Turn:
    """A message: the text of its content, or the content's parts, and the parts beside it."""

    role: str
    text: str = ""
    content: tuple[Part, ...] = ()
    beside: tuple[Part, ...] = ()
    is_list: bool = False
    """Whether the content is a list, not a text."""
    name: str | None = None
    tool_call_id: str | None = None
    failed: bool = False
    is_item: bool = False
    """Whether it is one item of an answer of the Responses API."""
    given: Mapping[str, Any] = field(default_factory=dict)
    raw: Sequence[Mapping[str, Any]] = ()
    """The parts as they are stored."""

    @property
    def parts(self) -> list[Part]:
        """All that it says in order, each call once: reasoning beside the content comes before it."""
        said = [_as_part(self.text)] if self.text else []
        thought = [part for part in self.beside if part.kind == "reasoning"]
        rest = [part for part in self.beside if part.kind != "reasoning"]
        everything = [*thought, *said, *self.content, *rest]
        # LangChain has a call among the content too, and the one beside it is complete.
        last = {part.id: part for part in everything if part.kind == "call" and part.id}
        return [part for part in everything if part.kind != "call" or last.get(part.id, part) is part]


def read_turns(messages: Iterable[Stored]) -> list[Turn]:
    """Read the messages; consecutive items of one answer of the Responses API become one turn."""
    turns: list[Turn] = []
    for message in messages:
        turn = _read(message)
        if turn.is_item and turns and turns[-1].is_item:
            turns[-1] = replace(turns[-1], content=(*turns[-1].content, *turn.content), raw=())
        else:
            turns.append(turn)
    return turns


def results_apart(turns: Iterable[Turn]) -> Iterator[Turn]:
    """Give each tool result that is a part a turn of its own, before the rest of its message."""
    for turn in turns:
        results = [part for part in turn.content if part.kind == "result"]
        for part in results:
            yield _of_result(part)
        rest = tuple(part for part in turn.content if part.kind != "result")
        if rest or turn.text or not results:
            yield replace(turn, content=rest)


def with_ids(turns: Iterable[Turn]) -> Iterator[Turn]:
    """Number the calls that have no id, as OpenAI's functions before tools, and name them in their answers."""
    number = 0
    for turn in turns:
        beside = []
        for part in turn.beside:
            if part.kind == "call" and not part.id:
                number += 1
                part = replace(part, id=f"call_{number}")
            beside.append(part)
        answered = turn.tool_call_id or (f"call_{number}" if turn.role == "tool" else None)
        yield replace(turn, beside=tuple(beside), tool_call_id=answered)


def _read(message: Stored) -> Turn:
    raw = message.parts or []
    given = mapping((message.metadata_ or {}).get(AS_GIVEN))
    count = given.get("listed", listed(raw)) or 0
    content = tuple(read_parts(raw[:count]))
    # A list of parts need not hold the text that was given with it.
    apart = message.content if not joined(content) else ""
    is_list = bool(count) or given.get("listed") == 0
    if is_list and apart:
        content = (_as_part(apart), *content)
    return Turn(
        message.role,
        text="" if is_list else message.content,
        content=content,
        beside=tuple(read_parts(raw[count:])),
        is_list=is_list,
        name=message.name,
        tool_call_id=message.tool_call_id,
        failed=given.get("status") == "error",
        is_item=message.role == "assistant" and "langchain" not in given and len(raw) == 1 and _is_item(raw[0]),
        given=given,
        raw=raw,
    )


def _is_item(part: Mapping[str, Any]) -> bool:
    return type_of(part) in _ITEMS and not {"content", "call_id", "summary"}.isdisjoint(part)


def _of_result(part: Part) -> Turn:
    text = "" if part.is_list else joined(part.inner)
    inner = part.inner if part.is_list else ()
    return Turn("tool", text, inner, is_list=part.is_list, tool_call_id=part.id, failed=part.failed)


def _as_part(text: str) -> Part:
    return Part("text", {"type": "text", "text": text}, text=text)
