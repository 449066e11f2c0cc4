"""Documents, their chunks, and the search over them."""

from __future__ import annotations

from .chunking import ChunkingConfig as ChunkingConfig
from .chunking import ChunkPiece as ChunkPiece
from .corpus import DOCUMENTS as DOCUMENTS
from .corpus import DocumentFilter as DocumentFilter
from .corpus import DocumentHit as DocumentHit
from .errors import ChunkNotFound as ChunkNotFound
from .errors import DocumentChanged as DocumentChanged
from .errors import DocumentNotFound as DocumentNotFound
from .errors import NothingToRead as NothingToRead
from .errors import TextNotKept as TextNotKept
from .models import Chunk as Chunk
from .models import ChunkEmbedding as ChunkEmbedding
from .models import ChunkEmbeddingJob as ChunkEmbeddingJob
from .models import Document as Document
from .records import AddProgress as AddProgress
from .records import AddResult as AddResult
from .records import DocumentInput as DocumentInput
from .records import DocumentStatistics as DocumentStatistics
from .repository import DocumentRepository as DocumentRepository
from .service import DocumentService as DocumentService

__all__ = [
    "DOCUMENTS",
    "AddProgress",
    "AddResult",
    "Chunk",
    "ChunkEmbedding",
    "ChunkEmbeddingJob",
    "ChunkNotFound",
    "ChunkPiece",
    "ChunkingConfig",
    "Document",
    "DocumentChanged",
    "DocumentFilter",
    "DocumentHit",
    "DocumentInput",
    "DocumentNotFound",
    "DocumentRepository",
    "DocumentService",
    "DocumentStatistics",
    "NothingToRead",
    "TextNotKept",
]
