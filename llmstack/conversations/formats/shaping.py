"""What the readings of all dialects share: parts from values, and what is kept beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llmstack.errors import ValidationError

from .parts import text_of
from .stored import AS_GIVEN, listed, type_of


def plain(value: Any) -> Any:
    """The object of a library as what its JSON would be; anything else as it is."""
    dump = getattr(value, "model_dump", None)
    # What a library sets by itself, its server need not take.
    return dump(mode="json", exclude_unset=True, warnings=False) if dump else value


def kept(message: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Those of the keys that have a value, in the message's order."""
    wanted = set(keys)
    return {key: plain(value) for key, value in message.items() if key in wanted and not _is_empty(value)}


def named_parts(message: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The list of dicts under the key."""
    given = message.get(key) or []
    if not isinstance(given, list | tuple):
        raise ValidationError(key, f"it is of type {type(given).__name__}; give a list of dicts")
    return [_part(one, key) for one in given]


def listed_parts(content: Any) -> str | list[dict[str, Any]]:
    """The content as a text or as parts."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list | tuple):
        raise ValidationError("content", f"it is of type {type(content).__name__}; give a text, or a list of parts")
    return [_part(one, "content") for one in content]


def shaped(content: str | list[dict[str, Any]], beside: list[dict[str, Any]], given: dict[str, Any]) -> dict[str, Any]:
    """Give content, and parts and metadata where there are any."""
    found: dict[str, Any] = {"content": content}
    parts = beside
    if isinstance(content, list):
        parts = [*content, *beside]
        found["content"] = text_of(content)
        if not content or listed(parts) != len(content):
            given = given | {"listed": len(content)}
    elif listed(beside):
        given = given | {"listed": None}
    return found | ({"parts": parts} if parts else {}) | ({"metadata": {AS_GIVEN: given}} if given else {})


def empty_text(read: dict[str, Any]) -> dict[str, Any]:
    """What was read of a message that says nothing, with an empty text beside its content, so that it has a part."""
    metadata = read.get("metadata", {})
    given = {"listed": None, "content": "", **metadata.get(AS_GIVEN, {})}
    return {**read, "parts": [{"type": "text", "text": ""}], "metadata": {**metadata, AS_GIVEN: given}}


def _part(value: Any, key: str) -> dict[str, Any]:
    found = plain(value)
    if not isinstance(found, Mapping):
        raise ValidationError(key, f"a {type(found).__name__} is in the list; give dicts alone")
    said = found.get("text", "")
    if type_of(found) == "text" and not isinstance(said, str):
        raise ValidationError(key, f"the text of a part is of type {type(said).__name__}; give a str")
    return dict(found)


def _is_empty(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, str | list | tuple | dict) and not value)
