"""Take LangChain's messages, told by their fields alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmstack.errors import ValidationError

from .shaping import kept, listed_parts, named_parts, shaped

TYPES = {
    name: kind
    for kind in ("human", "ai", "system", "tool", "chat", "function")
    for name in (kind, f"{kind.upper() if kind == 'ai' else kind.title()}MessageChunk")
}
"""The types of messages and of their chunks."""
ROLE_KEY = "__openai_role__"
"""The additional keyword under which LangChain has the role of a developer."""
LANGCHAIN = frozenset({"additional_kwargs", "artifact", "id", "response_metadata", "status", "usage_metadata"})
_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool", "function": "tool"}
_READ = frozenset({"content", "invalid_tool_calls", "name", "role", "tool_call_id", "tool_calls", "type"})
_OF_CHUNKS = frozenset({"chunk_position", "tool_call_chunks"})


def read_langchain(message: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Give what is stored of the fields of a message; raises ValidationError for one that nobody knows."""
    if unknown := kept(message, message.keys() - _READ - LANGCHAIN - _OF_CHUNKS):
        key = next(iter(unknown))
        raise ValidationError(key, "no message of LangChain has this; leave it out, or put it into additional_kwargs")
    given = _given(message, kind)
    content = message.get("content")
    calls = [*named_parts(message, "tool_calls"), *named_parts(message, "invalid_tool_calls")]
    found = shaped(listed_parts(_without_strings(content)), calls, given)
    names = {key: message[key] for key in ("name", "tool_call_id") if message.get(key)}
    return {"role": _role(message, kind)} | found | names


def _role(message: Mapping[str, Any], kind: str) -> Any:
    if kind == "chat":
        return message.get("role")
    further = message.get("additional_kwargs") or {}
    return "developer" if further.get(ROLE_KEY) == "developer" and kind == "system" else _ROLES[kind]


def _given(message: Mapping[str, Any], kind: str) -> dict[str, Any]:
    given = kept(message, LANGCHAIN)
    if message.get("artifact") is not None:
        given["artifact"] = message["artifact"]
    if given.get("status") == "success":
        del given["status"]
    content = message.get("content")
    if kind in ("chat", "function") or isinstance(content, list):
        given["langchain"] = kind
    if isinstance(content, list) and (strings := [n for n, one in enumerate(content) if isinstance(one, str)]):
        given["strings"] = strings
    return given


def _without_strings(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return [{"type": "text", "text": one} if isinstance(one, str) else one for one in content]
