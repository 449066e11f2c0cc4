"""Pieces from a caller's own function."""

from __future__ import annotations

import dataclasses

from llmstack.errors import ValidationError

from .pieces import MAX_PIECE_TOKENS, Chunker, ChunkPiece
from .tokens import count_tokens


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
