"""Documents, their chunks, and the search over them."""

from __future__ import annotations

from ..db.paging import Page as Page
from .calibration import Calibration as Calibration
from .chunking import ChunkingConfig as ChunkingConfig
from .chunking import ChunkPiece as ChunkPiece
from .decision import Tuning as Tuning
from .errors import CalibrationNotFound as CalibrationNotFound
from .errors import ChunkNotFound as ChunkNotFound
from .errors import DocumentChanged as DocumentChanged
from .errors import DocumentNotFound as DocumentNotFound
from .errors import SearchNotFound as SearchNotFound
from .errors import TextNotKept as TextNotKept
from .feedback import Feedback as Feedback
from .feedback import JudgedQuery as JudgedQuery
from .feedback import RecordedHit as RecordedHit
from .feedback import RecordedSearch as RecordedSearch
from .models import Chunk as Chunk
from .models import ChunkEmbedding as ChunkEmbedding
from .models import ChunkEmbeddingJob as ChunkEmbeddingJob
from .models import Document as Document
from .queries import DocumentFilter as DocumentFilter
from .records import AddProgress as AddProgress
from .records import AddResult as AddResult
from .records import DocumentInput as DocumentInput
from .records import DocumentStatistics as DocumentStatistics
from .records import Leg as Leg
from .records import MatchedTerm as MatchedTerm
from .records import PlanStep as PlanStep
from .records import QueryTerm as QueryTerm
from .records import SearchExplanation as SearchExplanation
from .records import SearchHit as SearchHit
from .records import SearchHits as SearchHits
from .repository import DocumentRepository as DocumentRepository
from .results import Recency as Recency
from .results import ResultOptions as ResultOptions
from .service import DocumentService as DocumentService

__all__ = [
    "AddProgress",
    "AddResult",
    "Calibration",
    "CalibrationNotFound",
    "Chunk",
    "ChunkEmbedding",
    "ChunkEmbeddingJob",
    "ChunkNotFound",
    "ChunkPiece",
    "ChunkingConfig",
    "Document",
    "DocumentChanged",
    "DocumentFilter",
    "DocumentInput",
    "DocumentNotFound",
    "DocumentRepository",
    "DocumentService",
    "DocumentStatistics",
    "Feedback",
    "JudgedQuery",
    "Leg",
    "MatchedTerm",
    "Page",
    "PlanStep",
    "QueryTerm",
    "Recency",
    "RecordedHit",
    "RecordedSearch",
    "ResultOptions",
    "SearchExplanation",
    "SearchHit",
    "SearchHits",
    "SearchNotFound",
    "TextNotKept",
    "Tuning",
]
