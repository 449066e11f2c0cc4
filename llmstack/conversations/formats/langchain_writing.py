"""Write LangChain's messages; the library is imported when they are made."""

from __future__ import annotations

import importlib
from typing import Any

from llmstack.errors import MissingExtra

from .arguments import parsed
from .langchain_reading import LANGCHAIN, ROLE_KEY
from .media import Media, decoded
from .parts import Part
from .turns import Turn, results_apart, with_ids

_CLASSES = {
    "human": "HumanMessage",
    "ai": "AIMessage",
    "system": "SystemMessage",
    "tool": "ToolMessage",
    "chat": "ChatMessage",
    "function": "FunctionMessage",
}
_TYPES = {"user": "human", "assistant": "ai", "system": "system", "developer": "system", "tool": "tool"}


def write_langchain(turns: list[Turn]) -> list[Any]:
    """Give the messages; those that came from LangChain with a list as content have it verbatim."""
    try:
        classes = importlib.import_module("langchain_core.messages")
    except ImportError as error:
        raise MissingExtra(feature="as_messages('langchain')", extra="langchain") from error
    written = []
    for turn in with_ids(turns):
        for one in [turn] if "langchain" in turn.given else results_apart([turn]):
            kind = turn.given.get("langchain", _TYPES[one.role])
            written.append(getattr(classes, _CLASSES[kind])(**_fields(one, kind)))
    return written


def _fields(turn: Turn, kind: str) -> dict[str, Any]:
    calls = [_call(part) for part in (turn.beside if "langchain" in turn.given else turn.parts) if part.kind == "call"]
    as_developer = {ROLE_KEY: turn.role} if turn.role == "developer" and kind == "system" else {}
    fields = {key: value for key, value in turn.given.items() if key in LANGCHAIN} | {
        "name": turn.name,
        "tool_calls": [call for call in calls if call["type"] == "tool_call"],
        "invalid_tool_calls": [call for call in calls if call["type"] == "invalid_tool_call"],
        "additional_kwargs": {**turn.given.get("additional_kwargs", {}), **as_developer},
        "status": "error" if turn.failed else None,
        "role": turn.role if kind == "chat" else None,
    }
    required = {"content": _content(turn)} | ({"tool_call_id": turn.tool_call_id or ""} if kind == "tool" else {})
    return required | {key: value for key, value in fields.items() if value or key == "artifact"}


def _content(turn: Turn) -> str | list[Any]:
    if "langchain" in turn.given:
        return _verbatim(turn)
    said = [part for part in turn.parts if part.kind != "call"]
    if turn.is_list or any(part.kind != "text" for part in said):
        return [_block(part) for part in said]
    return turn.text


def _verbatim(turn: Turn) -> str | list[Any]:
    """Give the list as it came."""
    if not turn.is_list:
        return turn.text
    strings = frozenset(turn.given.get("strings", ()))
    listed = turn.raw[: len(turn.raw) - len(turn.beside)]
    return [part["text"] if n in strings else dict(part) for n, part in enumerate(listed)]


def _block(part: Part) -> dict[str, Any]:
    if part.kind in ("text", "refusal"):
        return dict(part.given) if part.type == part.kind else {"type": part.kind, part.kind: part.text}
    if part.kind == "reasoning" and part.text:
        signed = {"extras": {"signature": part.signature}} if part.signature else {}
        return {"type": "reasoning", "reasoning": part.text} | signed
    if part.kind == "audio" and part.text:
        return {"type": "text", "text": part.text}
    return _media(part) or {"type": "non_standard", "value": dict(part.given)}


def _media(part: Part) -> dict[str, Any] | None:
    if part.kind not in ("image", "file", "audio"):
        return None
    media = part.media
    if part.kind == "file" and (said := decoded(media)):
        titled = {"title": media.name} if media.name else {}
        return {"type": "text-plain", "mime_type": "text/plain", "text": said} | titled
    found = _place(media)
    named = {"extras": {"filename": media.name}} if media.name and part.kind == "file" else {}
    return {"type": part.kind} | found | named if found else None


def _place(media: Media) -> dict[str, str]:
    if media.data:
        return {"base64": media.data, "mime_type": media.media_type}
    if media.url:
        return {"url": media.url}
    return {"file_id": media.file_id} if media.file_id else {}


def _call(part: Part) -> dict[str, Any]:
    if part.type in ("tool_call", "invalid_tool_call"):
        return dict(part.given)
    arguments = parsed(part.arguments)
    if arguments is None:
        raw = str(part.arguments)
        return {"type": "invalid_tool_call", "name": part.name, "args": raw, "id": part.id, "error": None}
    return {"type": "tool_call", "name": part.name, "args": arguments, "id": part.id}
