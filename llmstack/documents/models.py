"""Documents and what is derived from them."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    UniqueConstraint,
    and_,
    column,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ..db.base import Base, Identified, Timestamped
from ..embeddings.models import EmbeddingJobMixin, EmbeddingMixin, job_table, vector_table
from ..search.columns import SearchableMixin, search_index
from .chunking import DOCUMENT_TYPES

CORPUS = "documents"
"""The name under which chunks are searched, counted and calibrated."""


class Document(Identified, Timestamped, Base):
    """A source text as its owner supplied it; chunks are derived and disposable."""

    __tablename__ = "documents"
    __table_args__ = (
        UniqueConstraint("owner_id", "id_at_origin"),
        UniqueConstraint("owner_id", "id"),
        CheckConstraint(f"document_type IN ({', '.join(map(repr, DOCUMENT_TYPES))})", name="document_type"),
        Index(None, "owner_id", "language"),
        Index(None, "owner_id", "document_date"),
        Index(None, "owner_id", "created_at", "id"),
        Index(None, "metadata", postgresql_using="gin", postgresql_ops={"metadata": "jsonb_path_ops"}),
    )

    owner_id: Mapped[str]
    id_at_origin: Mapped[str]
    name: Mapped[str]
    document_type: Mapped[str]
    document_date: Mapped[dt.datetime | None]
    language: Mapped[str]
    content: Mapped[str | None] = mapped_column(deferred=True, deferred_raiseload=True)
    content_hash: Mapped[bytes] = mapped_column(LargeBinary)
    content_bytes: Mapped[int] = mapped_column(BigInteger)
    chunking: Mapped[dict[str, Any]]
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'"))
    deleted_at: Mapped[dt.datetime | None]

    chunks: Mapped[list[Chunk]] = relationship(
        back_populates="document", lazy="raise", order_by="Chunk.position", passive_deletes="all"
    )


class Chunk(Identified, SearchableMixin, Base):
    """A passage of a document; leaves are embedded and searched, parents are their context."""

    __tablename__ = "chunks"
    __table_args__ = (
        UniqueConstraint("owner_id", "id"),
        UniqueConstraint("document_id", "content_hash"),
        ForeignKeyConstraint(["owner_id", "document_id"], [Document.owner_id, Document.id],
                             ondelete="CASCADE"),
        ForeignKeyConstraint(["owner_id", "parent_id"], ["llmstack.chunks.owner_id", "llmstack.chunks.id"],
                             ondelete="CASCADE"),
        Index(None, "document_id", "position"),
        Index(None, "owner_id", "parent_id", postgresql_where=text("parent_id IS NOT NULL")),
        search_index("chunks"),
    )  # fmt: skip
    __corpus__ = CORPUS
    __searchable__ = and_(column("level") == text("0"), column("deleted_at").is_(None))

    document_id: Mapped[uuid.UUID]
    parent_id: Mapped[uuid.UUID | None]
    position: Mapped[int]
    level: Mapped[int] = mapped_column(server_default=text("0"))
    summary: Mapped[str | None]
    token_count: Mapped[int]
    start_offset: Mapped[int]
    end_offset: Mapped[int]
    content_hash: Mapped[bytes] = mapped_column(LargeBinary)
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'"))
    created_at: Mapped[dt.datetime] = mapped_column(server_default=text("now()"))
    deleted_at: Mapped[dt.datetime | None]

    document: Mapped[Document] = relationship(back_populates="chunks", lazy="raise")


class ChunkEmbedding(EmbeddingMixin, Base):
    """A chunk's vector in one space, partitioned by owner so that tenants share few graphs."""

    __tablename__ = "chunk_embeddings"
    __table_args__ = vector_table(Chunk, partitions=16)


class ChunkEmbeddingJob(EmbeddingJobMixin, Base):
    """A chunk whose vector is still owed."""

    __tablename__ = "chunk_embedding_jobs"
    __table_args__ = job_table(Chunk)
