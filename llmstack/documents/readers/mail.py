"""Mails: who wrote, what they wrote, and the texts that they sent along."""

from __future__ import annotations

import contextlib
import email
import email.policy
from email.message import EmailMessage, MIMEPart
from typing import Any

from llmstack.errors import ValidationError

from .encodings import decode
from .html import convert
from .needs import explained
from .sources import Source, SourceText, check_size

_SHOWN = ("From", "To", "Cc", "Date", "Subject")
_MOST_LEVELS = 5


def read_email(source: Source) -> SourceText:
    """Headers, body and attached texts; other attachments are named in the metadata."""
    with explained(source.name, "mail"):
        data = source.read()
        check_size(source.name, len(data), source.max_bytes)
        message = email.message_from_bytes(data, policy=email.policy.default)
        headers = _headers(message)
        named: list[str] = []
        text = _written(message, named, levels=_MOST_LEVELS)
        metadata: dict[str, Any] = {name.lower(): value for name, value in headers.items() if name != "Subject"}
        if named:
            metadata["attachments"] = named
        return SourceText(text, "email", headers.get("Subject", source.path.stem), metadata=metadata)


def _headers(message: EmailMessage) -> dict[str, str]:
    return {name: " ".join(str(message[name]).split()) for name in _SHOWN if message[name]}


def _written(message: EmailMessage, named: list[str], *, levels: int) -> str:
    """The whole text; attachments that are none are added to `named`."""
    lines = [f"{name}: {value}" for name, value in _headers(message).items()]
    parts = ["\n".join([*lines, "", _body(message)]).strip()]
    for part in message.iter_attachments():
        name = " ".join((part.get_filename() or part.get_content_type()).split())
        text = _attached(part, named, levels=levels)
        if text is None:
            named.append(name)
        elif text.strip():
            parts.append(f"Attachment: {name}\n\n{text.strip()}")
    return "\n\n".join(parts)


def _attached(part: EmailMessage, named: list[str], *, levels: int) -> str | None:
    """The attachment's text, None where it has none that can be read for certain."""
    if part.get_content_type() == "message/rfc822" and levels:
        inner = part.get_content()
        return _written(inner, named, levels=levels - 1) if isinstance(inner, EmailMessage) else None
    if part.get_content_maintype() != "text":
        return None
    with contextlib.suppress(ValidationError):
        return _text(part)
    return None


def _body(message: EmailMessage) -> str:
    part = message.get_body(preferencelist=("plain", "html"))
    return "" if part is None else _text(part)


def _text(part: MIMEPart) -> str:
    payload = part.get_payload(decode=True)
    data = payload if isinstance(payload, bytes) else b""
    declared = part.get_content_charset()
    try:
        text = data.decode(declared or "utf-8")
    except (LookupError, UnicodeDecodeError):
        text, _ = decode(data)
    return convert(text)[0] if part.get_content_subtype() == "html" else text.replace("\r\n", "\n")
