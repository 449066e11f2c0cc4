"""Take a chat message as people have it at hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmstack.errors import ValidationError

from .langchain_reading import TYPES, read_langchain
from .parts import read_parts, text_of
from .shaping import kept, listed_parts, named_parts, plain, shaped
from .stored import FIELDS

ROLES = ("system", "user", "assistant", "tool", "developer")
_ITEMS = {
    "function_call": "assistant",
    "custom_tool_call": "assistant",
    "reasoning": "assistant",
    "function_call_output": "tool",
    "custom_tool_call_output": "tool",
}
"""Items of the Responses API that have no role, and whose they are."""
_ANSWER = frozenset({"model", "stop_reason", "usage"})
"""What tells an answer of Anthropic from a Responses message; both are of type "message"."""
_READ = frozenset({"role", "content", "type", "name", "tool_call_id", "tool_calls", *FIELDS})
OPENAI = frozenset(
    {"annotations", "cache_control", "images", "prefix", "provider_specific_fields", "reasoning_details"}
    | {"reasoning_items", "thinking_blocks", "weight"}
)
"""Keys of chat completions' messages, of fine-tuning's and litellm's too, that are given back to those alone."""
_ANTHROPIC = frozenset({"container", "diagnostics", "id", "stop_details", "stop_sequence"}) | _ANSWER


def read_message(given: Mapping[str, Any] | object) -> dict[str, Any]:
    """Give role and content, and of parts, name, tool_call_id and metadata what is set.

    Takes messages of chat completions and items of the Responses API (OpenAI), messages and answers of Anthropic,
    LangChain's messages, and the dict of any of them. The content is the text: text parts and the text of tools'
    results, a line each. The parts are the content's list verbatim where it was one, then the tool calls verbatim;
    a refusal, reasoning, audio or function_call that stood beside the content follows as `{"type": key, key: value}`.
    A Responses item is one part. A key without a value counts as absent. The answer of a function, as OpenAI had it
    before tools, is a tool message with a name and no tool_call_id; a chunk of LangChain is the message it makes.
    What else a message has (an answer's id and usage, LangChain's response_metadata) is kept in the metadata as
    `as_given`, for `as_messages`. Raises ValidationError for what cannot be understood.
    """
    message = _mapping(given)
    kind = message.get("type")
    if isinstance(kind, str) and kind in TYPES:
        return _known(read_langchain(message, TYPES[kind]))
    if "role" not in message and isinstance(kind, str) and kind in _ITEMS:
        return _read_item(message, _ITEMS[kind])
    if kind == "message" and _ANSWER.isdisjoint(message):
        return _read_item(message, message.get("role"))
    return _known(_read_chat(message))


def _mapping(given: Mapping[str, Any] | object) -> Mapping[str, Any]:
    if isinstance(given, Mapping):
        return given
    if getattr(given, "type", None) in TYPES and hasattr(given, "content"):
        # By default its type is unset.
        dump = getattr(given, "model_dump", None)
        return dict(dump(warnings=False) if dump else vars(given))
    if isinstance(found := plain(given), Mapping):
        return found
    raise ValidationError("message", f"{type(given).__name__} is no chat message; give a dict or the library's message")


def _known(found: dict[str, Any]) -> dict[str, Any]:
    """Hold the role to those that are stored."""
    if found["role"] not in ROLES:
        hint = "; of an answer give its message (.choices[0].message) or its items (.output)"
        said = "it is missing" if found["role"] is None else f"{found['role']!r:.60} is unknown"
        raise ValidationError("role", f"{said}; known are {', '.join(ROLES)}{hint if found['role'] is None else ''}")
    for key in ("name", "tool_call_id"):
        if not isinstance(found.get(key, ""), str):
            raise ValidationError(key, f"it is of type {type(found[key]).__name__}; give a str")
    if found["role"] == "tool" and not (found.get("tool_call_id") or found.get("name")):
        raise ValidationError("tool_call_id", "it is missing; a tool message needs the id of the call that it answers")
    return found


def _read_item(item: Mapping[str, Any], role: Any) -> dict[str, Any]:
    parts = [dict(item)]
    found = {"role": role, "content": text_of(parts), "parts": parts}
    answered = [part.id for part in read_parts(parts) if part.kind == "result"]
    return _known(found | ({"tool_call_id": answered[0]} if answered else {}))


def _read_chat(message: Mapping[str, Any]) -> dict[str, Any]:
    _check_keys(message)
    role = message.get("role")
    beside = named_parts(message, "tool_calls")
    for key, kind in FIELDS.items():
        if value := plain(message.get(key)):
            if not isinstance(value, kind):
                raise ValidationError(key, f"it is of type {type(value).__name__}; give a {kind.__name__}")
            beside.append({"type": key, key: value})
    content = listed_parts(message.get("content"))
    given = kept(message, OPENAI | _ANTHROPIC)
    if not content:
        given |= _emptiness(message, has_parts=bool(beside))
    found = shaped(content, beside, given)
    names = {key: message[key] for key in ("name", "tool_call_id") if message.get(key)}
    return {"role": "tool" if role == "function" else role} | found | names


def _check_keys(message: Mapping[str, Any]) -> None:
    kind = message.get("type")
    if kind not in (None, "message"):
        hint = "give it as a part of an assistant's content"
        raise ValidationError("type", f"a message of type {kind!r:.60} is not known; {hint}")
    # Nothing is lost with a key that has no value.
    if unknown := kept(message, message.keys() - _READ - OPENAI - _ANTHROPIC):
        key = next(iter(unknown))
        raise ValidationError(key, "no chat message has this key; leave it out, or keep it in the metadata")


def _emptiness(message: Mapping[str, Any], *, has_parts: bool) -> dict[str, Any]:
    """Keep an empty content that is not as usual: "" where there is nothing else, None where there is."""
    content = message.get("content", "absent")
    return {} if isinstance(content, list | tuple) or content == (None if has_parts else "") else {"content": content}
