"""From what an owner supplied to what can be stored: checked, cleaned, cut, hashed. Touches no database."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import asdict, replace
from typing import Any

from ..db.checks import UNSTORABLE, check_date, check_id, check_metadata, check_owner, check_text
from ..errors import ValidationError
from ..search.analysis import stored_words
from ..search.languages import detect_language, normalize_language
from ..settings import Settings
from .chunking import DOCUMENT_TYPES, ChunkPiece, chunk
from .chunking.custom import describe_chunker
from .records import ContextMode, DocumentInput, PreparedChunk, PreparedDocument

MAX_ORIGIN_BYTES = 1500
"""With the owner's 512 it fits the 2,704 bytes of an entry of a b-tree."""
MAX_NAME_BYTES = 4000
MAX_LEVEL = 100
"""Levels of chunks above the leaves; our own strategies make one."""
_TITLE_CHARACTERS = 200
"""What of a name goes into the context of each chunk."""
_PATH_PARTS = 2
"""What of a path says what a file is about: its own name and its folder's."""

_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,4}$")
_SEPARATORS = re.compile(r"[/\\]+")
_WORD = re.compile(r"[^\W_]+")
# A uuid, or digits with or without letters among them.
_RANDOM = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b[0-9a-f]*\d[0-9a-f]*\b", re.IGNORECASE)


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
        chunking=_describe(given, context=_context_mode(given, settings)),
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
    if checked.chunking.get("context") == "none":
        return replace(checked, chunks=_hashed(pieces, title=None))
    title = checked.name if checked.name != checked.id_at_origin else path_words(checked.name)
    return replace(checked, chunks=_hashed(pieces, title=title[:_TITLE_CHARACTERS]))


def path_words(origin: str) -> str:
    """What the name of a file and its folder say; empty for an id that is no path, and nobody's words."""
    if not (_SEPARATORS.search(origin) or _EXTENSION.search(origin)):
        return ""
    named = _EXTENSION.sub("", origin.rstrip("/\\"))
    parts = _SEPARATORS.split(named)[-_PATH_PARTS:]
    return " ".join(_WORD.findall(_RANDOM.sub(" ", " ".join(parts))))


def _context_mode(given: DocumentInput, settings: Settings) -> ContextMode:
    mode = given.context or settings.document_context
    if mode not in ("full", "none"):
        raise ValidationError("context", f'{mode!r:.60} is unknown; use "full" or "none"')
    return mode


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


def _describe(given: DocumentInput, *, context: ContextMode) -> dict[str, Any]:
    """How the text was cut, so that a change of it is a change of the document."""
    strategy = given.chunking
    described = {"strategy": strategy} if isinstance(strategy, str) else describe_chunker(strategy)
    config = {} if given.chunking_config is None else asdict(given.chunking_config)
    apart = {} if context == "full" else {"context": context}
    return {**described, **apart, **{key: value for key, value in config.items() if value is not None}}


def _hashed(pieces: list[ChunkPiece], *, title: str | None) -> list[PreparedChunk]:
    """Hash what is searched and embedded; passages that repeat in a document are told apart by their turn."""
    turns: Counter[bytes] = Counter()
    prepared = []
    for piece in pieces:
        context = "" if title is None else " > ".join((*filter(None, [title]), *piece.section))
        digest = hashlib.sha256("\0".join((str(piece.level), context, piece.content)).encode()).digest()
        turns[digest] += 1
        if turns[digest] > 1:
            digest = hashlib.sha256(digest + str(turns[digest]).encode()).digest()
        # What is not searched needs no words.
        words = stored_words(context, piece.content) if piece.level == 0 else ""
        prepared.append(PreparedChunk(piece=piece, context=context, content_hash=digest, further_words=words))
    return prepared
