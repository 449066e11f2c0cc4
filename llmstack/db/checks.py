"""What a table can hold, checked before a statement is made of it: each says which field is wrong, and why."""

from __future__ import annotations

import datetime as dt
import json
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, bindparam, cast, func
from sqlalchemy.dialects.postgresql import ARRAY

from ..errors import ValidationError

MAX_LIMIT = 1000
"""Rows of a page, or hits of a search."""
MAX_OWNER_BYTES = 512
"""It stands in every key, beside ids of up to 1,500 bytes."""
MAX_JSON_LEVELS = 200
"""Objects and lists within one another: some Pythons read a thousand, and not all of them say so."""
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""What PostgreSQL cannot hold in a text."""
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def check_text(field: str, value: object) -> str:
    """A text that PostgreSQL can hold."""
    if not isinstance(value, str):
        raise ValidationError(field, f"it must be a text, not {type(value).__name__}")
    if UNSTORABLE.search(value):
        raise ValidationError(field, "it contains a NUL character or a lone surrogate, which PostgreSQL cannot store")
    return value


def check_id(field: str, value: object, *, limit: int) -> str:
    """An identifier that PostgreSQL can store and index."""
    text = check_text(field, value)
    if not text.strip():
        raise ValidationError(field, "it is empty")
    if len(text.encode()) > limit:
        raise ValidationError(field, f"it is longer than {limit} bytes")
    return text


def check_owner(owner_id: object) -> str:
    """The owner, without whom nothing is read or written."""
    return check_id("owner_id", owner_id, limit=MAX_OWNER_BYTES)


def check_metadata(metadata: object, *, limit: int) -> dict[str, Any]:
    """A JSON object within the limit, as JSON gives it back."""
    if not isinstance(metadata, Mapping):
        raise ValidationError("metadata", f"it must be a mapping, not {type(metadata).__name__}")
    encoded = storable_json(dict(metadata))
    if len(encoded.encode()) > limit:
        raise ValidationError("metadata", f"it is larger than {limit} bytes of JSON (max_metadata_bytes)")
    decoded: dict[str, Any] = json.loads(encoded)
    return decoded


def check_date(field: str, value: dt.datetime | None) -> dt.datetime | None:
    """A moment with its time zone."""
    if value is None:
        return None
    if not isinstance(value, dt.datetime) or value.utcoffset() is None:
        raise ValidationError(field, "it must be a datetime with a time zone: datetime(..., tzinfo=UTC)")
    try:
        return value.astimezone(dt.UTC)
    except OverflowError:
        raise ValidationError(field, "in UTC it is outside of the years 1 to 9999") from None


def each(field: str, values: object) -> list[Any]:
    """The values as a list; a text, which is a sequence too, is none."""
    if not isinstance(values, Iterable) or isinstance(values, str | bytes):
        raise ValidationError(field, f"it must be a list, not {type(values).__name__}")
    return list(values)


def listed(field: str, value: str | Sequence[str]) -> list[str]:
    """One text or several, as a list."""
    return [check_text(field, item) for item in ([value] if isinstance(value, str) else each(field, value))]


def as_uuid(field: str, value: uuid.UUID | str) -> uuid.UUID:
    """A UUID, or one in its text form."""
    if isinstance(value, uuid.UUID):
        return value
    try:
        return uuid.UUID(value)
    except (AttributeError, TypeError, ValueError):
        raise ValidationError(field, f"{value!r:.60} is not a UUID") from None


def check_limit(limit: int, *, field: str = "limit", least: int = 1, most: int = MAX_LIMIT) -> int:
    """A number of rows that the server and the reader can bear."""
    if not isinstance(limit, int) or isinstance(limit, bool) or not least <= limit <= most:
        raise ValidationError(field, f"it must be from {least} to {most}, not {limit!r:.60}")
    return limit


def storable_json(value: Any) -> str:
    """The JSON of a value that PostgreSQL can hold; ValidationError for anything else."""
    try:
        encoded = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValidationError("metadata", f"it is not JSON: {error}") from None
    # Only now: what is endless is refused by its encoding.
    if _levels(value, MAX_JSON_LEVELS + 1) > MAX_JSON_LEVELS:
        raise ValidationError("metadata", f"it has more than {MAX_JSON_LEVELS} levels of objects and lists")
    if _ESCAPED_NUL.search(encoded):
        raise ValidationError("metadata", "it contains a NUL character, which PostgreSQL cannot store")
    return check_text("metadata", encoded)


def _levels(value: Any, most: int) -> int:
    """How deep objects and lists are nested, counted up to `most`."""
    level, depth = [value], 0
    while depth < most and (level := [one for one in level if isinstance(one, dict | list | tuple)]):
        depth += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return depth


def any_of(column: Any, values: Sequence[Any]) -> ColumnElement[bool]:
    """The column has one of the values: as one parameter, however many they are."""
    array = ARRAY(column.type)
    found: ColumnElement[bool] = column == func.any(cast(bindparam(None, list(values), type_=array), array))
    return found
