"""Ranking as SQL: BM25, vectors, filters and fusion for any model with the searchable columns."""

from __future__ import annotations

from .analysis import further_query as further_query
from .analysis import stored_words as stored_words
from .columns import SearchableMixin as SearchableMixin
from .columns import search_index as search_index
from .filters import metadata_filter as metadata_filter
from .fusion import RRF as RRF
from .fusion import Weighted as Weighted
from .hybrid import SearchOptions as SearchOptions
from .hybrid import Variant as Variant
from .hybrid import hybrid as hybrid
from .statistics import StatisticsRefresh as StatisticsRefresh
from .statistics import refresh_statistics as refresh_statistics
from .vectors import VectorSource as VectorSource

__all__ = [
    "RRF",
    "SearchOptions",
    "SearchableMixin",
    "StatisticsRefresh",
    "Variant",
    "VectorSource",
    "Weighted",
    "further_query",
    "hybrid",
    "metadata_filter",
    "refresh_statistics",
    "search_index",
    "stored_words",
]
