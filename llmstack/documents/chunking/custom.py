"""Pieces from a caller's own function."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
from types import CodeType
from typing import Any

from llmstack.errors import ValidationError

from ...providers.tokens import count_tokens
from .pieces import MAX_PIECE_TOKENS, Chunker, ChunkPiece


def custom_pieces(text: str, chunker: Chunker) -> list[ChunkPiece]:
    """Check what a caller's own function gives; strings are found in the text one after the other."""
    pieces: list[ChunkPiece] = []
    for given in chunker(text):
        if isinstance(given, str):
            if given.strip():
                pieces.append(_located(text, given, pieces))
        else:
            pieces.append(_verified(text, given, pieces))
    return pieces


def describe_chunker(chunker: Any) -> dict[str, str]:
    """Its name and a digest of its code, so that another function of the same name is another one."""
    inner, bound = chunker, []
    while isinstance(inner, functools.partial):
        bound.append((inner.args, tuple(sorted(inner.keywords.items()))))
        inner = inner.func
    named = inner if hasattr(inner, "__qualname__") else type(inner)
    module = getattr(named, "__module__", None) or "builtins"
    described = {"strategy": f"{module}.{named.__qualname__}"}
    function = inner if hasattr(inner, "__code__") else inspect.getattr_static(type(inner), "__call__", None)
    if (code := getattr(function, "__code__", None)) is None and not bound:
        return described
    cells = getattr(function, "__closure__", None) or ()
    given = (getattr(function, "__defaults__", None), tuple(map(_content, cells)), tuple(bound))
    return {**described, "code": hashlib.sha256(_stable((code, given)).encode()).hexdigest()[:16]}


def _content(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        # A name that is bound later.
        return None


def _stable(value: object) -> str:
    """A text that is equal in every process for equal code and constants."""
    if isinstance(value, CodeType):
        return _stable((value.co_code, value.co_names, value.co_consts))
    if isinstance(value, tuple):
        return f"({','.join(map(_stable, value))})"
    if isinstance(value, frozenset):
        return f"{{{','.join(sorted(map(_stable, value)))}}}"
    if isinstance(value, str | bytes | int | float | complex | None):
        return repr(value)
    if (code := getattr(value, "__code__", None)) is not None:
        return _stable(code)
    # What may change from call to call says nothing.
    return type(value).__qualname__


def _located(text: str, content: str, before: list[ChunkPiece]) -> ChunkPiece:
    last = before[-1] if before else None
    start = 0
    if last is not None:
        start = last.end if last.content == content else last.start + 1
    at = text.find(content, start)
    if at < 0:
        raise ValidationError("chunking", f"piece {len(before)} is not in the text after the one before it")
    return _verified(text, ChunkPiece(content, at, at + len(content)), before)


def _verified(text: str, piece: ChunkPiece, before: list[ChunkPiece]) -> ChunkPiece:
    tokens = piece.token_count or count_tokens(piece.content)
    problem = None
    if piece.content != text[piece.start : piece.end] or piece.start < 0:
        problem = "is not what the text has at its offsets"
    elif not piece.content.strip():
        problem = "is empty"
    elif tokens > MAX_PIECE_TOKENS:
        problem = f"has {tokens} tokens; at most {MAX_PIECE_TOKENS} are allowed"
    elif piece.parent is not None and not _is_parent(piece.parent, piece, before):
        problem = f"names {piece.parent} as its parent, which is no earlier piece of a higher level"
    if problem:
        raise ValidationError("chunking", f"piece {len(before)} {problem}")
    return dataclasses.replace(piece, token_count=tokens)


def _is_parent(index: int, piece: ChunkPiece, before: list[ChunkPiece]) -> bool:
    return 0 <= index < len(before) and before[index].level > piece.level
