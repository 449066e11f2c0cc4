"""What a stored message shows, and how its parts lie: the content's list first, then what stood beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

AS_GIVEN = "as_given"
"""The key of the metadata that keeps what a message has beyond content and parts.

`listed` is how many parts were the content's list, where their types do not tell (null: it was no list), `content` an
empty content that was not as usual ("absent" for none), `langchain` the type of a LangChain message whose content is
given back verbatim, `strings` the places in it that were bare strings. Every other key is the message's own.
"""

FIELDS = {"refusal": str, "reasoning_content": str, "reasoning": str, "audio": dict, "function_call": dict}
"""Keys of a chat message that become a part `{"type": key, key: value}`, and what their values are."""

_CALLS = frozenset({"function", "custom", "tool_call", "invalid_tool_call"})


class Answering(Protocol):
    """What of a message may answer tool calls."""

    @property
    def parts(self) -> list[dict[str, Any]] | None: ...
    @property
    def tool_call_id(self) -> str | None: ...


class Stored(Answering, Protocol):
    """A message as the database has it."""

    @property
    def role(self) -> str: ...
    @property
    def content(self) -> str: ...
    @property
    def name(self) -> str | None: ...
    @property
    def metadata_(self) -> dict[str, Any]: ...


def type_of(part: Mapping[str, Any]) -> str:
    """The part's `type`; some clients leave out that of a function call, and OpenAI that of a message."""
    kind = part.get("type")
    return kind if isinstance(kind, str) else "function" if "function" in part else "message" if "role" in part else ""


def is_field(part: Mapping[str, Any]) -> bool:
    """Tell whether the part was a key of its message."""
    kind = type_of(part)
    return kind in FIELDS and set(part) == {"type", kind} and isinstance(part[kind], FIELDS[kind])


def listed(parts: Sequence[Mapping[str, Any]]) -> int:
    """How many of the parts are the content's list, as their types tell."""
    last = (n for n in range(len(parts), 0, -1) if type_of(parts[n - 1]) not in _CALLS and not is_field(parts[n - 1]))
    return next(last, 0)


def mapping(value: Any) -> Mapping[str, Any]:
    """The value, or an empty mapping in place of anything else."""
    return value if isinstance(value, Mapping) else {}


def text(value: Any) -> str:
    """The value, or an empty text in place of anything else."""
    return value if isinstance(value, str) else ""
