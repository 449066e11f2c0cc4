"""Which messages and summaries want a vector, and of which text."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, case, func

from ..embeddings import EmbeddedTable
from .models import (
    Message,
    MessageEmbedding,
    MessageEmbeddingJob,
    SummaryEmbedding,
    SummaryEmbeddingJob,
    ThreadSummary,
)

MAX_EMBEDDED = 6_000
"""Characters of a message that its vector is of; embedders read some 8,000 tokens, and refuse more."""


def _text(rows: Any) -> ColumnElement[str]:
    whole = case((rows.context != "", rows.context.concat("\n").concat(rows.content)), else_=rows.content)
    return func.left(whole, MAX_EMBEDDED)


EMBEDDED_MESSAGES = EmbeddedTable(
    rows=Message, embeddings=MessageEmbedding, jobs=MessageEmbeddingJob, text=_text(Message)
)
EMBEDDED_SUMMARIES = EmbeddedTable(
    rows=ThreadSummary, embeddings=SummaryEmbedding, jobs=SummaryEmbeddingJob, text=_text(ThreadSummary)
)
