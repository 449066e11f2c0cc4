"""Threads as lines of text: written by one database and read by another, or by what trains models."""

from __future__ import annotations

from .exporting import export_threads as export_threads
from .importing import import_threads as import_threads
from .lines import Format as Format

__all__ = ["Format", "export_threads", "import_threads"]
