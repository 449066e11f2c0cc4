"""Kernel tables: what search knows of each corpus."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import BigInteger, ForeignKey, Text, func, text
from sqlalchemy.dialects.postgresql import REAL
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base


class CorpusStatistics(Base):
    """How many rows of a corpus were searchable, and how long on average, when it was last measured.

    `changed_rows` counts what was written and removed since. The BM25 parameters are those which new rows are
    weighed with; they change for all rows together.
    """

    __tablename__ = "corpus_statistics"

    corpus: Mapped[str] = mapped_column(primary_key=True)
    row_count: Mapped[int] = mapped_column(BigInteger)
    average_length: Mapped[float] = mapped_column(REAL)
    sampled_share: Mapped[float] = mapped_column(REAL)
    changed_rows: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    bm25_k1: Mapped[float] = mapped_column(REAL, server_default=text("1.2"))
    bm25_b: Mapped[float] = mapped_column(REAL, server_default=text("0.75"))
    bm25_average_length: Mapped[float] = mapped_column(REAL, server_default=text("100.0"))
    bm25_context_weight: Mapped[float] = mapped_column(REAL, server_default=text("1.0"))
    refreshed_at: Mapped[dt.datetime] = mapped_column(server_default=func.now())


class TermStatistics(Base):
    """In how many rows of a corpus a lexeme occurs; an estimate where only a sample was read."""

    __tablename__ = "term_statistics"

    corpus: Mapped[str] = mapped_column(Text, ForeignKey(CorpusStatistics.corpus, ondelete="CASCADE"), primary_key=True)
    lexeme: Mapped[str] = mapped_column(primary_key=True)
    document_count: Mapped[int] = mapped_column(BigInteger)
