"""The modules of the house that have tables: branches of the migrations, and where their files are."""

from __future__ import annotations

MODULES = {
    "kernel": "db",
    "embeddings": "embeddings",
    "documents": "documents",
    "conversations": "conversations",
}
"""The branches, lowest first, and the packages that hold their models and revisions."""
