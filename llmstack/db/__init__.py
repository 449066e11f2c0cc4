"""The kernel: one database, isolated services, migrations."""

from __future__ import annotations

from .base import Base as Base
from .database import Database as Database
from .database import Service as Service
from .models import CorpusStatistics as CorpusStatistics
from .models import LoggedSearch as LoggedSearch
from .models import SearchFeedback as SearchFeedback
from .models import StoredCalibration as StoredCalibration
from .models import TermStatistics as TermStatistics
from .paging import Page as Page

__all__ = [
    "Base",
    "CorpusStatistics",
    "Database",
    "LoggedSearch",
    "Page",
    "SearchFeedback",
    "Service",
    "StoredCalibration",
    "TermStatistics",
]
