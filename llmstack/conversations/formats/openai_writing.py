"""Write chat completions' messages."""

from __future__ import annotations

import json
from typing import Any

from .media import Media, decoded
from .parts import Part
from .reading import OPENAI
from .stored import is_field
from .turns import Turn, results_apart

_OWN = frozenset({"text", "image_url", "input_audio", "refusal", "function", "custom"})
_FOREIGN = frozenset({"annotations", "citations", "extras", "id", "index", "logprobs"})
"""Keys that other dialects have in parts of the same type."""


def write_openai(turns: list[Turn]) -> list[dict[str, Any]]:
    """Give the messages; one of which nothing can be told is left out."""
    written = ((turn, _message(turn)) for turn in results_apart(turns))
    return [message for turn, message in written if _says_something(turn, message)]


def _says_something(turn: Turn, message: dict[str, Any]) -> bool:
    return bool(message.get("content") or not turn.parts or len(message.keys() - {"role", "content", "name"}))


def _message(turn: Turn) -> dict[str, Any]:
    is_function = turn.role == "tool" and turn.tool_call_id is None
    beside = [part for part in turn.beside if part.kind == "other"]
    calls = [part for part in turn.parts if part.kind == "call" and not is_field(part.given)]
    fields = {part.type: part.given[part.type] for part in turn.beside if is_field(part.given)}
    message = {
        "role": "function" if is_function else turn.role,
        "content": _content(turn),
        "name": turn.name,
        "tool_call_id": turn.tool_call_id,
        "tool_calls": [_call(part) for part in (*calls, *beside)],
        **fields,
    }
    if turn.given.get("content") == "absent":
        del message["content"]
    told = {key: value for key, value in message.items() if key == "content" or value}
    # A weight of 0 is one.
    return told | {key: value for key, value in turn.given.items() if key in OPENAI}


def _content(turn: Turn) -> Any:
    parts = [part for part in turn.content if part.kind not in ("call", "reasoning")]
    if turn.is_list and (parts or not turn.content):
        return [_part(part, turn.role) for part in parts]
    if "content" in turn.given:
        return turn.given["content"]
    return turn.text or (None if turn.parts else "")


def _part(part: Part, role: str) -> dict[str, Any]:
    if _is_own(part):
        return dict(part.given)
    if part.kind == "refusal" and role == "assistant":
        return {"type": "refusal", "refusal": part.text}
    media = _media(part) if role == "user" else None
    return media or {"type": "text", "text": part.text or decoded(part.media) or part.label}


def _is_own(part: Part) -> bool:
    if part.type in _OWN:
        # The id of a call is its own.
        return part.kind == "call" or _FOREIGN.isdisjoint(part.given)
    return part.type in part.given and (part.kind == "other" or part.type == "file")


def _media(part: Part) -> dict[str, Any] | None:
    media = part.media
    if part.kind == "image" and (url := media.url or (media.data and media.data_url)):
        return {"type": "image_url", "image_url": {"url": url}}
    if part.kind == "file" and (file := _file(media)):
        return {"type": "file", "file": file}
    if part.kind == "audio" and media.sound_format:
        return {"type": "input_audio", "input_audio": {"data": media.data, "format": media.sound_format}}
    return None


def _file(media: Media) -> dict[str, str]:
    if media.file_id:
        return {"file_id": media.file_id}
    return {"file_data": media.data_url, "filename": media.file_name} if media.data and not decoded(media) else {}


def _call(part: Part) -> dict[str, Any]:
    if part.kind == "other" or _is_own(part):
        return dict(part.given)
    arguments = part.arguments if isinstance(part.arguments, str) else json.dumps(part.arguments, ensure_ascii=False)
    return {"id": part.id, "type": "function", "function": {"name": part.name, "arguments": arguments}}
