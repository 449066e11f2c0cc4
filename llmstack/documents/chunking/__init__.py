"""Cut a text into pieces whose offsets point back into it."""

from __future__ import annotations

from .pieces import CHUNKING_STRATEGIES as CHUNKING_STRATEGIES
from .pieces import DOCUMENT_TYPES as DOCUMENT_TYPES
from .pieces import MAX_PIECE_TOKENS as MAX_PIECE_TOKENS
from .pieces import Chunker as Chunker
from .pieces import ChunkingConfig as ChunkingConfig
from .pieces import ChunkPiece as ChunkPiece
from .strategies import chunk as chunk

__all__ = [
    "CHUNKING_STRATEGIES",
    "DOCUMENT_TYPES",
    "MAX_PIECE_TOKENS",
    "ChunkPiece",
    "Chunker",
    "ChunkingConfig",
    "chunk",
]
