"""Texts of any encoding, and a refusal where it cannot be told."""

from __future__ import annotations

import codecs

from llmstack.errors import ValidationError

from .needs import needed

BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_NEVER_IN_TEXT = frozenset(b"\0\1\2\3\4\5\6\7\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19")
_SURE = 0.15
"""The detector's confidence from which it is believed."""
_RIVALS = 0.7
"""A text of few letters is taken as well where all candidates of this share of the best one's confidence agree."""
_USUAL = "cp1252"


def is_binary(head: bytes, encoding: str | None = None) -> bool:
    """Tell by the first bytes of a file whether it is no text, of that encoding where one is named."""
    if encoding is not None and b"\0" in "a".encode(encoding):
        return False
    return not head.startswith(tuple(bom for bom, _ in BOMS)) and not _NEVER_IN_TEXT.isdisjoint(head)


def check_encoding(name: str) -> str:
    """Give Python's name of the encoding; raises ValidationError for an unknown one."""
    try:
        # Codecs that turn bytes into bytes are none for this.
        "x".encode(name)
        return codecs.lookup(name).name
    except (LookupError, ValueError):
        raise ValidationError(
            "encoding", f"{name!r:.60} is unknown; Python's names are known, such as cp1251"
        ) from None


def decode(data: bytes, encoding: str | None = None) -> tuple[str, str]:
    """Give the text and its encoding: the one that is named, else what a mark says, UTF-8, or what is detected.

    Raises ValidationError where the bytes are not of the named encoding, and where none is certain.
    """
    if encoding is not None:
        return _decoded(data, encoding), encoding
    if marked := next((encoding for bom, encoding in BOMS if data.startswith(bom)), None):
        return _decoded(data, marked), marked
    try:
        return data.decode(), "utf-8"
    except UnicodeDecodeError:
        detected = _detected(data)
        return _decoded(data, detected), detected


def _decoded(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValidationError("encoding", f"it is not {encoding}: byte {error.start} cannot be read") from error


def _detected(data: bytes) -> str:
    with needed("text that is not UTF-8"):
        from chardet import EncodingEra, detect_all
    # Files of the Mac before 2001 and of mainframes are rarer than what is mistaken for them.
    eras = EncodingEra.MODERN_WEB | EncodingEra.LEGACY_ISO | EncodingEra.DOS
    found = detect_all(data, encoding_era=eras, ignore_threshold=True, compat_names=False)
    candidates = [(str(one["encoding"]), one["confidence"]) for one in found if one["encoding"]]
    if candidates and candidates[0][1] >= _SURE:
        return candidates[0][0]
    if candidates and _agree(data, candidates):
        return _USUAL
    guesses = f" (perhaps {candidates[0][0]})" if candidates else ""
    raise ValidationError("encoding", f"it is not UTF-8, and its encoding is uncertain{guesses}; name it by --encoding")


def _agree(data: bytes, candidates: list[tuple[str, float]]) -> bool:
    """Tell whether it makes no difference to the text: the rivals read it as the most usual encoding does."""
    least = _RIVALS * candidates[0][1]
    rivals = [name for name, confidence in candidates if confidence >= least]
    return {data.decode(name, "replace") for name in (_USUAL, *rivals)} == {data.decode(_USUAL, "ignore")}
