"""From what an owner supplied to what can be stored: checked, cleaned, cut, hashed. Touches no database."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from ..errors import ValidationError
from ..search.filters import UNSTORABLE, storable_json
from ..settings import Settings
from .chunking import DOCUMENT_TYPES, ChunkPiece, chunk
from .chunking.custom import describe_chunker
from .languages import detect_language, normalize_language
from .records import DocumentInput, PreparedChunk, PreparedDocument

MAX_OWNER_BYTES = 512
MAX_ORIGIN_BYTES = 1500
MAX_NAME_BYTES = 4000
MAX_LEVEL = 100
_TITLE_CHARACTERS = 200


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


def check_document_type(value: str) -> str:
    """One of the types that chunking and the tables know."""
    if value not in DOCUMENT_TYPES:
        known = ", ".join(DOCUMENT_TYPES)
        raise ValidationError("document_type", f"{value!r:.60} is unknown; use one of {known}")
    return value


def prepare(given: DocumentInput, settings: Settings) -> PreparedDocument:
    """Check, clean and cut a document, or ValidationError."""
    return cut(given, check(given, settings))


def check(given: DocumentInput, settings: Settings) -> PreparedDocument:
    """Everything but the chunks, which cost the most; NUL characters and lone surrogates are removed."""
    owner_id = check_owner(given.owner_id)
    origin = check_id("id_at_origin", given.id_at_origin, limit=MAX_ORIGIN_BYTES)
    name = check_id("document_name", given.document_name or origin, limit=MAX_NAME_BYTES)
    document_type = check_document_type(given.document_type)
    content = _clean(given.content, settings)
    encoded = content.encode()
    return PreparedDocument(
        owner_id=owner_id,
        id_at_origin=origin,
        name=name,
        document_type=document_type,
        document_date=check_date("document_date", given.document_date),
        language=_language(given.language, content, settings),
        content=content,
        content_hash=hashlib.sha256(encoded).digest(),
        content_bytes=len(encoded),
        chunking=_describe(given),
        metadata=check_metadata(given.metadata, limit=settings.max_metadata_bytes),
        cleaned=content != given.content,
    )


def cut(given: DocumentInput, checked: PreparedDocument) -> PreparedDocument:
    """The document with its chunks."""
    pieces = chunk(
        checked.content,
        document_type=checked.document_type,
        strategy=given.chunking,
        config=given.chunking_config,
    )
    if not pieces:
        raise ValidationError("content", "no chunk came out of it")
    if not all(0 <= piece.level <= MAX_LEVEL for piece in pieces):
        raise ValidationError("chunking", f"the level of a piece is not from 0 to {MAX_LEVEL}")
    return replace(checked, chunks=_hashed(pieces, title=checked.name[:_TITLE_CHARACTERS]))


def _clean(content: object, settings: Settings) -> str:
    if not isinstance(content, str):
        raise ValidationError("content", f"it must be a text, not {type(content).__name__}; decode bytes")
    cleaned = UNSTORABLE.sub("", content)
    if not cleaned.strip():
        raise ValidationError("content", "it is empty")
    if len(cleaned.encode()) > settings.max_text_bytes:
        raise ValidationError("content", f"it is larger than {settings.max_text_bytes} bytes (max_text_bytes)")
    return cleaned


def _language(language: str | None, content: str, settings: Settings) -> str:
    if language is None:
        return normalize_language(settings.default_language)
    if language == "auto":
        return detect_language(content, default=normalize_language(settings.default_language))
    return normalize_language(check_text("language", language))


def _describe(given: DocumentInput) -> dict[str, Any]:
    """How the text was cut, so that a change of it is a change of the document."""
    strategy = given.chunking
    described = {"strategy": strategy} if isinstance(strategy, str) else describe_chunker(strategy)
    config = {} if given.chunking_config is None else asdict(given.chunking_config)
    return {**described, **{key: value for key, value in config.items() if value is not None}}


def _hashed(pieces: list[ChunkPiece], *, title: str) -> list[PreparedChunk]:
    """Hash what is searched and embedded; passages that repeat in a document are told apart by their turn."""
    turns: Counter[bytes] = Counter()
    prepared = []
    for piece in pieces:
        context = " > ".join((title, *piece.section))
        digest = hashlib.sha256("\0".join((str(piece.level), context, piece.content)).encode()).digest()
        turns[digest] += 1
        if turns[digest] > 1:
            digest = hashlib.sha256(digest + str(turns[digest]).encode()).digest()
        prepared.append(PreparedChunk(piece=piece, context=context, content_hash=digest))
    return prepared
