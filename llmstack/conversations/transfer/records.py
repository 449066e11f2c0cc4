"""The lines of a thread, its messages and its summaries, as what they say."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ...db.checks import check_date, check_limit, check_metadata, check_text
from ...errors import ValidationError
from ...settings import Settings
from ..preparation import MAX_TOKENS, check_name
from ..records import MessageInput, ThreadInput
from .exporting import MESSAGE_FIELDS, SUMMARY_FIELDS, THREAD_FIELDS
from .lines import moment


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedSummary:
    """A version of a summary that was checked."""

    content: str
    first_seq: int
    last_seq: int
    token_count: int
    model: str | None
    is_current: bool
    metadata: dict[str, Any]
    created_at: dt.datetime | None


def thread_of(owner_id: str, record: dict[str, Any], language: str | None) -> ThreadInput:
    """The thread of a line, which has to be named: else it would be another one each time."""
    given = _given(record, THREAD_FIELDS, "thread", needed=("id_at_origin",))
    name = check_text("id_at_origin", given.pop("id_at_origin"))
    return ThreadInput(owner_id=owner_id, messages=(), thread=name, **{"language": language, **given})


def message_of(record: dict[str, Any]) -> MessageInput:
    """The message of a line."""
    return MessageInput(**_given(record, MESSAGE_FIELDS, "message", needed=("role",)))


def prepare_summary(record: dict[str, Any], settings: Settings) -> PreparedSummary:
    """The summary of a line, checked."""
    given = _given(record, SUMMARY_FIELDS, "summary", needed=("content", "first_seq", "last_seq"))
    content = check_text("content", given["content"])
    if not 0 < len(content.encode()) <= settings.max_message_bytes:
        raise ValidationError("content", f"it must have 1 to {settings.max_message_bytes} bytes (max_message_bytes)")
    first = _number(given, "first_seq", least=1)
    is_current = given.get("is_current", False)
    if not isinstance(is_current, bool):
        raise ValidationError("is_current", f"it must be true or false, not {type(is_current).__name__}")
    return PreparedSummary(
        content=content,
        first_seq=first,
        last_seq=_number(given, "last_seq", least=first),
        token_count=_number(given, "token_count", least=0),
        model=check_name("model", given.get("model")),
        is_current=is_current,
        metadata=check_metadata(given.get("metadata", {}), limit=settings.max_metadata_bytes),
        created_at=check_date("created_at", given.get("created_at")),
    )


def _number(given: dict[str, Any], field: str, *, least: int) -> int:
    return check_limit(given.get(field, least), field=field, least=least, most=MAX_TOKENS)


def _given(record: dict[str, Any], known: Collection[str], kind: str, *, needed: Collection[str]) -> dict[str, Any]:
    """What a line says, without what it leaves open."""
    found = {key: value for key, value in record.items() if value is not None and key != "thread"}
    for key in needed:
        if key not in found:
            raise ValidationError(key, "it is missing")
    for key in found:
        if key not in known:
            raise ValidationError(key, f"no {kind} has this key; keep it in the metadata")
    if "created_at" in found:
        found["created_at"] = moment("created_at", found["created_at"])
    return found
