"""Embedding spaces, embedders, and the queue of vectors that are still owed."""

from __future__ import annotations

from .builds import IndexProgress as IndexProgress
from .change import Retirement as Retirement
from .change import Verification as Verification
from .embedders import CallableEmbedder as CallableEmbedder
from .embedders import Embedder as Embedder
from .embedders import Kind as Kind
from .embedders import LiteLLMEmbedder as LiteLLMEmbedder
from .embedders import LocalEmbedder as LocalEmbedder
from .embedders import default_embedder as default_embedder
from .embedders import embed_all as embed_all
from .embedders import named_embedder as named_embedder
from .embedders import other_embedders as other_embedders
from .errors import SpaceNotFound as SpaceNotFound
from .errors import SpaceNotServing as SpaceNotServing
from .models import EmbeddingJobMixin as EmbeddingJobMixin
from .models import EmbeddingMixin as EmbeddingMixin
from .models import EmbeddingSpace as EmbeddingSpace
from .models import job_table as job_table
from .models import vector_table as vector_table
from .queue import PendingCounts as PendingCounts
from .recall import Recall as Recall
from .service import EmbeddingService as EmbeddingService
from .service import ProcessResult as ProcessResult
from .spaces import Space as Space
from .spaces import SpaceRepository as SpaceRepository
from .status import SpaceStatus as SpaceStatus
from .tables import EmbeddedTable as EmbeddedTable
from .vectors import column_of as column_of
from .writing import WrittenRow as WrittenRow
from .writing import hide as hide
from .writing import owe_elsewhere as owe_elsewhere
from .writing import renew as renew
from .writing import show as show
from .writing import store_vectors as store_vectors

__all__ = [
    "CallableEmbedder",
    "EmbeddedTable",
    "Embedder",
    "EmbeddingJobMixin",
    "EmbeddingMixin",
    "EmbeddingService",
    "EmbeddingSpace",
    "IndexProgress",
    "Kind",
    "LiteLLMEmbedder",
    "LocalEmbedder",
    "PendingCounts",
    "ProcessResult",
    "Recall",
    "Retirement",
    "Space",
    "SpaceNotFound",
    "SpaceNotServing",
    "SpaceRepository",
    "SpaceStatus",
    "Verification",
    "WrittenRow",
    "column_of",
    "default_embedder",
    "embed_all",
    "hide",
    "job_table",
    "named_embedder",
    "other_embedders",
    "owe_elsewhere",
    "renew",
    "show",
    "store_vectors",
    "vector_table",
]
