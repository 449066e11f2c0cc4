"""Write Anthropic's system and messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .arguments import as_object
from .media import Media, decoded
from .parts import Part, joined
from .turns import Turn, with_ids

_OWN = frozenset({"text", "document", "redacted_thinking", "thinking", "tool_result", "tool_use"})
_OTHERS = frozenset({"video", "server_tool_call", "server_tool_result"})
_FOREIGN = frozenset({"annotations", "extras", "index", "logprobs", "partial_json", "prompt_cache_breakpoint"})
"""Keys that other dialects have in parts of the same type."""
_IN_RESULTS = frozenset({"document", "image", "search_result", "text", "tool_reference"})


def write_anthropic(turns: list[Turn]) -> dict[str, Any]:
    """Give `system`, where there is one, and `messages`, whose roles alternate."""
    system: list[str] = []
    messages: list[dict[str, Any]] = []
    for turn in with_ids(turns):
        if turn.role in ("system", "developer"):
            system.append(joined(turn.parts))
        elif (content := _content(turn)) is not None:
            _add(messages, "assistant" if turn.role == "assistant" else "user", content)
    found = "\n\n".join(filter(None, system))
    return ({"system": found} if found else {}) | {"messages": messages}


def _add(messages: list[dict[str, Any]], role: str, content: str | list[dict[str, Any]]) -> None:
    if messages and messages[-1]["role"] == role:
        messages[-1]["content"] = [*_as_blocks(messages[-1]["content"]), *_as_blocks(content)]
    else:
        messages.append({"role": role, "content": content})


def _as_blocks(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return content


def _content(turn: Turn) -> str | list[dict[str, Any]] | None:
    """Give text or blocks, None where nothing can be told."""
    is_result = turn.role == "tool" and all(part.kind != "result" for part in turn.content)
    if is_result:
        return [_result(turn.tool_call_id or "", turn.parts if turn.is_list else turn.text, failed=turn.failed)]
    if not turn.is_list and not turn.beside:
        return turn.text
    blocks = _blocks(turn.parts)
    return blocks if blocks or not turn.parts else None


def _blocks(parts: Iterable[Part]) -> list[dict[str, Any]]:
    return [block for part in parts if (block := _block(part))]


def _block(part: Part) -> dict[str, Any] | None:
    """Give the block, None for reasoning that would be refused."""
    if _is_own(part):
        return dict(part.given)
    if part.kind == "call":
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": as_object(part.arguments)}
    if part.kind == "result":
        return _result(part.id, part.inner if part.is_list else joined(part.inner), failed=part.failed)
    if part.kind == "reasoning":
        thought = {"type": "thinking", "thinking": part.text, "signature": part.signature}
        return thought if part.signature else None
    return _media(part) or {"type": "text", "text": part.text or part.label}


def _is_own(part: Part) -> bool:
    if part.kind == "other":
        # Items of the Responses API are named after calls and their outputs.
        is_item = part.type.endswith(("_call", "_call_output"))
        return bool(part.type) and part.type not in part.given and part.type not in _OTHERS and not is_item
    if part.type == "image":
        return "source" in part.given
    if part.type in ("text", "document") and "id" in part.given:
        return False
    return part.type in _OWN and _FOREIGN.isdisjoint(part.given)


def _result(call_id: str, content: Iterable[Part] | str, *, failed: bool) -> dict[str, Any]:
    said = content if isinstance(content, str) else [_in_result(part) for part in content]
    block = {"type": "tool_result", "tool_use_id": call_id, "content": said}
    return block | ({"is_error": True} if failed else {})


def _in_result(part: Part) -> dict[str, Any]:
    block = _block(part)
    return block if block and block["type"] in _IN_RESULTS else {"type": "text", "text": part.text or part.label}


def _media(part: Part) -> dict[str, Any] | None:
    if part.kind not in ("image", "file"):
        return None
    source = _source(part.media, part.kind)
    if source is None or part.kind == "image":
        return source and {"type": "image", "source": source}
    return {"type": "document", "source": source} | ({"title": part.media.name} if part.media.name else {})


def _source(media: Media, kind: str) -> dict[str, Any] | None:
    if media.file_id:
        return {"type": "file", "file_id": media.file_id}
    if media.url:
        return {"type": "url", "url": media.url}
    if kind == "file" and (said := decoded(media)):
        return {"type": "text", "media_type": "text/plain", "data": said}
    if media.data and (kind == "image" or media.media_type == "application/pdf"):
        return {"type": "base64", "media_type": media.media_type, "data": media.data}
    return None
