"""Which chunks want a vector, and of which text."""

from __future__ import annotations

from sqlalchemy import case

from ..embeddings import EmbeddedTable
from .models import Chunk, ChunkEmbedding, ChunkEmbeddingJob

# The same text as PreparedChunk.embedded_text, for chunks whose vector is made later.
EMBEDDED = EmbeddedTable(
    rows=Chunk,
    embeddings=ChunkEmbedding,
    jobs=ChunkEmbeddingJob,
    text=case((Chunk.context != "", Chunk.context.concat("\n").concat(Chunk.content)), else_=Chunk.content),
)
