"""From what a client sends to what can be stored: checked, cleaned, hashed. Touches no database."""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from uuid_utils.compat import uuid7

from ..db.checks import (
    UNSTORABLE,
    check_date,
    check_id,
    check_metadata,
    check_owner,
    check_text,
    each,
    storable_json,
)
from ..errors import ValidationError
from ..search.languages import detect_language, normalize_language
from ..settings import Settings
from .formats import empty_text, read_message, tool_calls_of
from .models import ROLES
from .records import MessageInput, PreparedMessage, PreparedThread, ThreadInput, ThreadRef

MAX_ORIGIN_BYTES = 1500
"""With the owner's 512 it fits the 2,704 bytes of an entry of a b-tree; client keys have as much room."""
MAX_NAME_BYTES = 512
MAX_TITLE_BYTES = 4000
CONTEXT_CHARACTERS = 1_000
"""What of a turn is searched and embedded with the next one: its end, which that answers."""
MAX_TOKENS = 2**31 - 1
_FEW, _LITTLE = 10, 20_000
"""Messages, and their characters, that are checked at once: to hand them to a thread would take longer."""
_NAMES = ("name", "tool_call_id", "user_id", "agent_id", "provider", "model")


def check_thread(thread: object) -> ThreadRef:
    """A UUID, which is an id, or a text, which is an id_at_origin."""
    if isinstance(thread, uuid.UUID):
        return thread
    return check_id("thread", thread, limit=MAX_ORIGIN_BYTES)


def check_name(field: str, value: str | None, *, limit: int = MAX_NAME_BYTES) -> str | None:
    """A name that may be absent."""
    return None if value is None else check_id(field, value, limit=limit)


def check_title(title: str | None) -> str | None:
    """A title that may be absent."""
    return check_name("title", title, limit=MAX_TITLE_BYTES)


def check_role(role: object, *, field: str = "role") -> str:
    """One of the roles that the tables know."""
    if role not in ROLES:
        raise ValidationError(field, f"{role!r:.60} is unknown; use one of {', '.join(ROLES)}")
    return str(role)


async def prepared(given: ThreadInput, settings: Settings) -> PreparedThread:
    """The thread, checked and cleaned; in a thread of its own where there is much of it."""
    messages = given.messages
    if isinstance(messages, list | tuple) and len(messages) <= _FEW and sum(map(size_of, messages)) <= _LITTLE:
        return prepare(given, settings)
    return await asyncio.to_thread(prepare, given, settings)


def size_of(message: object) -> int:
    """The characters of a message's content, as far as they can be told before it is read."""
    content = message.get("content") if isinstance(message, Mapping) else getattr(message, "content", "")
    return len(content) if isinstance(content, str) else 0


def prepare(given: ThreadInput, settings: Settings) -> PreparedThread:
    """Check and clean a thread's messages, or ValidationError, which names the message by its place."""
    return prepare_thread(given, prepare_messages(given.messages, settings), settings)


def prepare_thread(given: ThreadInput, messages: Sequence[PreparedMessage], settings: Settings) -> PreparedThread:
    """Check a thread with messages that are prepared, whatever it has as its own."""
    for name in ("user_id", "agent_id", "session_id"):
        check_name(name, getattr(given, name))
    check_title(given.title)
    _check_keys(messages)
    moments = [message.created_at for message in messages if message.created_at is not None]
    return PreparedThread(
        given=given,
        owner_id=check_owner(given.owner_id),
        ref=str(uuid7()) if given.thread is None else check_thread(given.thread),
        language=_language(given.language, messages, settings),
        metadata=check_metadata(given.metadata, limit=settings.max_metadata_bytes),
        begun_at=check_date("created_at", given.created_at) or min(moments, default=None),
        messages=messages,
    )


def _check_keys(messages: Sequence[PreparedMessage]) -> None:
    """A message may come twice under its client_key, but not with another text."""
    known: dict[str, bytes] = {}
    for place, message in enumerate(messages):
        key = message.given.client_key
        if key is not None and known.setdefault(key, message.content_hash) != message.content_hash:
            raise ValidationError(f"messages[{place}].client_key", f"{key!r:.60} stands for two messages")


def prepare_messages(
    given: Sequence[MessageInput | Mapping[str, Any]], settings: Settings
) -> Sequence[PreparedMessage]:
    """Check and clean messages; a mapping is one of a chat API, or has the fields of a MessageInput."""
    prepared = []
    for place, message in enumerate(each("messages", given)):
        try:
            prepared.append(prepare_message(_as_input(message), settings))
        except ValidationError as error:
            raise ValidationError(f"messages[{place}].{error.field}", error.message) from None
    return prepared


_OURS = (
    "parts", "user_id", "agent_id", "provider", "model", "tokens_input", "tokens_output", "important", "client_key",
    "metadata", "created_at",
)  # fmt: skip
"""What a mapping may say beside what a chat API says."""


def _as_input(message: object) -> MessageInput:
    if isinstance(message, MessageInput):
        return message
    if not isinstance(message, Mapping):
        return MessageInput(**_with_result(read_message(message)))
    ours = {name: message[name] for name in _OURS if name in message}
    read = read_message({name: value for name, value in message.items() if name not in _OURS})
    if "parts" in ours and "parts" in read:
        raise ValidationError("parts", "give parts, or tool calls and a list as content, not both")
    if isinstance(ours.get("metadata"), Mapping):
        ours["metadata"] = {**read.get("metadata", {}), **ours["metadata"]}
    return MessageInput(**{**_with_result(read), **ours})


def _with_result(read: dict[str, Any]) -> dict[str, Any]:
    """A tool's message that says nothing is a result, too: an empty one."""
    return empty_text(read) if read["role"] == "tool" and not (read["content"].strip() or read.get("parts")) else read


def prepare_message(given: MessageInput, settings: Settings) -> PreparedMessage:
    """Check and clean one message."""
    role = check_role(given.role)
    for name in _NAMES:
        check_name(name, getattr(given, name))
    check_name("client_key", given.client_key, limit=MAX_ORIGIN_BYTES)
    for name in ("tokens_input", "tokens_output"):
        _check_tokens(name, getattr(given, name))
    if not isinstance(given.important, bool):
        raise ValidationError("important", f"it must be true or false, not {type(given.important).__name__}")
    content = _clean_content(given.content, settings)
    parts = None if given.parts is None else _clean_parts(given.parts, settings)
    if not content.strip() and not parts:
        raise ValidationError("content", "it is empty; a message has content or parts")
    return PreparedMessage(
        given=given,
        role=role,
        content=content,
        parts=parts or None,
        metadata=check_metadata(given.metadata, limit=settings.max_metadata_bytes),
        content_hash=_hash(role, content, given.tool_call_id, parts or []),
        created_at=check_date("created_at", given.created_at),
        cleaned=content != given.content or (parts or []) != list(given.parts or []),
    )


def _check_tokens(field: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_TOKENS:
        raise ValidationError(field, f"it must be a number of tokens from 0 to {MAX_TOKENS}, not {value!r:.60}")


def _clean_content(content: object, settings: Settings) -> str:
    if not isinstance(content, str):
        raise ValidationError("content", f"it must be a text, not {type(content).__name__}")
    cleaned = UNSTORABLE.sub("", content)
    if len(cleaned.encode()) > settings.max_message_bytes:
        raise ValidationError("content", f"it is larger than {settings.max_message_bytes} bytes (max_message_bytes)")
    return cleaned


def _clean_parts(parts: object, settings: Settings) -> list[dict[str, Any]]:
    found = each("parts", parts)
    if not all(isinstance(part, Mapping) for part in found):
        raise ValidationError("parts", "each part must be an object")
    try:
        encoded = storable_json([_cleaned(dict(part)) for part in found])
    except ValidationError as error:
        raise ValidationError("parts", error.message) from None
    except RecursionError:
        raise ValidationError("parts", "they are nested without end") from None
    if len(encoded.encode()) > settings.max_message_bytes:
        raise ValidationError(
            "parts",
            f"they are larger than {settings.max_message_bytes} bytes of JSON (max_message_bytes); "
            "keep images and files by reference",
        )
    decoded: list[dict[str, Any]] = json.loads(encoded)
    return decoded


def _cleaned(value: Any) -> Any:
    """JSON without what PostgreSQL cannot hold in a text."""
    if isinstance(value, str):
        return UNSTORABLE.sub("", value)
    if isinstance(value, Mapping):
        return {_cleaned(key): _cleaned(inner) for key, inner in value.items()}
    return [_cleaned(inner) for inner in value] if isinstance(value, list | tuple) else value


def _hash(role: str, content: str, tool_call_id: str | None, parts: list[dict[str, Any]]) -> bytes:
    """By what windows are compared: role, content and the ids of tool calls; the parts where there is no content."""
    said: list[Any] = [role, content, tool_call_id, tool_calls_of(parts), "" if content.strip() else parts]
    return hashlib.sha256(json.dumps(said, sort_keys=True, ensure_ascii=False).encode()).digest()


def _language(language: str | None, messages: Sequence[PreparedMessage], settings: Settings) -> str:
    default = normalize_language(settings.default_language)
    if language is None:
        return default
    if language != "auto":
        return normalize_language(check_text("language", language))
    return detect_language("\n".join(message.content for message in messages), default=default)


def context_after(content: str) -> str:
    """The end of a turn, as the context of the next one."""
    if len(content) <= CONTEXT_CHARACTERS:
        return content
    _, space, end = content[-CONTEXT_CHARACTERS:].partition(" ")
    return end if space else content[-CONTEXT_CHARACTERS:]
