"""Read files as texts, and find the files worth reading."""

from __future__ import annotations

from .encodings import check_encoding as check_encoding
from .formats import supported as supported
from .reading import read as read
from .reading import read_apart as read_apart
from .sources import Source as Source
from .sources import SourceText as SourceText
from .sources import sources as sources
from .walking import walk as walk

__all__ = ["Source", "SourceText", "check_encoding", "read", "read_apart", "sources", "supported", "walk"]
