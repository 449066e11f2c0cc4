"""Kernel tables: what search knows of each corpus, and what it is tuned by."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKeyConstraint,
    Index,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, REAL
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, Identified, Timestamped


class CorpusStatistics(Base):
    """How many rows of a corpus were searchable, and how long on average, when it was last measured.

    `changed_rows` counts what was written and removed since. The BM25 parameters are those by which rows are ranked;
    while `is_mixed`, some are stored with weights by others, and weighed anew by each search. `fusion_alpha` is the
    weight of the vector leg where a search names none; without one it is the default of the fusion.
    """

    __tablename__ = "corpus_statistics"
    __table_args__ = (CheckConstraint("fusion_alpha >= 0 AND fusion_alpha <= 1", name="fusion_alpha"),)

    corpus: Mapped[str] = mapped_column(primary_key=True)
    row_count: Mapped[int] = mapped_column(BigInteger)
    average_length: Mapped[float] = mapped_column(REAL)
    sampled_share: Mapped[float] = mapped_column(REAL)
    changed_rows: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    bm25_k1: Mapped[float] = mapped_column(REAL, server_default=text("1.2"))
    bm25_b: Mapped[float] = mapped_column(REAL, server_default=text("0.75"))
    bm25_average_length: Mapped[float] = mapped_column(REAL, server_default=text("100.0"))
    bm25_context_weight: Mapped[float] = mapped_column(REAL, server_default=text("1.0"))
    is_mixed: Mapped[bool] = mapped_column(server_default=text("false"))
    refreshed_at: Mapped[dt.datetime] = mapped_column(server_default=func.now())
    fusion_alpha: Mapped[float | None] = mapped_column(REAL)


class TermStatistics(Base):
    """In how many rows of a corpus a lexeme occurs; an estimate where only a sample was read.

    No foreign key: a refresh writes them all, under the lock of their corpus, and a check of each costs as much again.
    """

    __tablename__ = "term_statistics"

    corpus: Mapped[str] = mapped_column(primary_key=True)
    lexeme: Mapped[str] = mapped_column(primary_key=True)
    document_count: Mapped[int] = mapped_column(BigInteger)


class LoggedSearch(Identified, Base):
    """A search and which rows it found; never their text. `created_at` is by the clock of who searched."""

    __tablename__ = "search_log"
    __table_args__ = (
        UniqueConstraint("owner_id", "id"),
        CheckConstraint("mode IN ('hybrid', 'vector', 'text')", name="mode"),
        Index(None, "created_at"),
        Index(None, "owner_id", "created_at", "id"),
    )

    corpus: Mapped[str]
    owner_id: Mapped[str]
    query: Mapped[str]
    mode: Mapped[str]
    hit_limit: Mapped[int]
    filters: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    hits: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    vector_path: Mapped[str | None]
    elapsed_ms: Mapped[float] = mapped_column(REAL)
    created_at: Mapped[dt.datetime] = mapped_column(server_default=func.now())


class SearchFeedback(Timestamped, Base):
    """How well a hit answered its search. A row is disposable; `unit` is what people judge, and outlives it."""

    __tablename__ = "search_feedback"
    __table_args__ = (
        ForeignKeyConstraint(["owner_id", "search_id"], [LoggedSearch.owner_id, LoggedSearch.id], ondelete="CASCADE"),
        CheckConstraint("grade >= 0 AND grade <= 1000000", name="grade"),
        Index(None, "owner_id", "updated_at"),
    )

    search_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    row_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    owner_id: Mapped[str]
    unit: Mapped[str]
    grade: Mapped[float] = mapped_column(REAL)


class StoredCalibration(Identified, Base):
    """The settings that a corpus had and was given, and why; undone, it has those from before again."""

    __tablename__ = "calibrations"
    __table_args__ = (Index(None, "corpus", "created_at", "id"),)

    corpus: Mapped[str]
    before: Mapped[dict[str, Any]]
    after: Mapped[dict[str, Any]]
    evidence: Mapped[dict[str, Any]]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=func.now())
    undone_at: Mapped[dt.datetime | None]
