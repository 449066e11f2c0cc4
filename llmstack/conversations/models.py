"""Threads, what was said in them, and what was made of it."""

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
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ..db.base import Base, Identified, Timestamped
from ..embeddings.models import EmbeddingJobMixin, EmbeddingMixin, job_table, vector_table
from ..search.columns import SearchableMixin, search_index

MESSAGES = "messages"
SUMMARIES = "thread_summaries"
"""The names under which messages and summaries are searched, counted and calibrated."""

ROLES = ("system", "user", "assistant", "tool", "developer")

MAX_SEARCHED = 300_000
"""Bytes of a message; a longer one is kept, but not searched: PostgreSQL reads no more than 1 MB of words."""


class Thread(Identified, Timestamped, Base):
    """A conversation of an owner. The counts are those of its living messages; `last_seq` never goes back.

    `last_message_at` of a thread without messages is when it was made.
    """

    __tablename__ = "threads"
    __table_args__ = (
        UniqueConstraint("owner_id", "id_at_origin"),
        UniqueConstraint("owner_id", "id"),
        CheckConstraint("message_count >= 0 AND message_count <= last_seq", name="message_count"),
        CheckConstraint("tokens_input >= 0", name="tokens_input"),
        CheckConstraint("tokens_output >= 0", name="tokens_output"),
        Index(None, "owner_id", "last_message_at", "id", postgresql_where=text("deleted_at IS NULL")),
        Index(None, "owner_id", "user_id", "last_message_at", "id", postgresql_where=text("deleted_at IS NULL")),
        Index(None, "owner_id", "agent_id", "last_message_at", "id", postgresql_where=text("deleted_at IS NULL")),
        Index(None, "owner_id", "language"),
        Index(None, "metadata", postgresql_using="gin", postgresql_ops={"metadata": "jsonb_path_ops"}),
    )

    owner_id: Mapped[str]
    id_at_origin: Mapped[str]
    user_id: Mapped[str | None]
    agent_id: Mapped[str | None]
    session_id: Mapped[str | None]
    title: Mapped[str | None]
    language: Mapped[str] = mapped_column(server_default="english")
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'"))
    last_seq: Mapped[int] = mapped_column(server_default=text("0"))
    message_count: Mapped[int] = mapped_column(server_default=text("0"))
    tokens_input: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    tokens_output: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    last_message_at: Mapped[dt.datetime] = mapped_column(server_default=func.now())
    deleted_at: Mapped[dt.datetime | None]

    messages: Mapped[list[Message]] = relationship(
        back_populates="thread", lazy="raise", order_by="Message.seq", passive_deletes="all"
    )
    summaries: Mapped[list[ThreadSummary]] = relationship(
        back_populates="thread", lazy="raise", order_by="ThreadSummary.created_at", passive_deletes="all"
    )


class Message(Identified, SearchableMixin, Base):
    """A turn of a thread, as it was said; `context` is the end of the turn before it.

    `parts` are tool calls and results, images, files and reasoning, as they were given.
    """

    __tablename__ = "messages"
    __table_args__ = (
        UniqueConstraint("owner_id", "id"),
        UniqueConstraint("thread_id", "seq"),
        Index(
            "uq_messages_owner_id_thread_id_client_key", "owner_id", "thread_id", "client_key", unique=True,
            postgresql_where=text("client_key IS NOT NULL AND deleted_at IS NULL"),
        ),
        ForeignKeyConstraint(["owner_id", "thread_id"], [Thread.owner_id, Thread.id], ondelete="CASCADE"),
        CheckConstraint(f"role IN ({', '.join(map(repr, ROLES))})", name="role"),
        CheckConstraint("seq > 0", name="seq"),
        CheckConstraint("content <> '' OR parts IS NOT NULL", name="says_something"),
        CheckConstraint("tokens_input >= 0", name="tokens_input"),
        CheckConstraint("tokens_output >= 0", name="tokens_output"),
        Index(None, "agent_id", "created_at", postgresql_where=text("agent_id IS NOT NULL")),
        Index(None, "provider", "model", "created_at", postgresql_where=text("provider IS NOT NULL")),
        Index(None, "owner_id", "deleted_at", postgresql_where=text("deleted_at IS NOT NULL")),
        search_index("messages"),
    )  # fmt: skip
    __corpus__ = MESSAGES
    __searchable__ = and_(
        column("deleted_at").is_(None),
        column("content") != text("''"),
        func.octet_length(column("content")) <= text(str(MAX_SEARCHED)),
    )

    thread_id: Mapped[uuid.UUID]
    seq: Mapped[int]
    role: Mapped[str]
    parts: Mapped[list[dict[str, Any]] | None] = mapped_column(JSONB(none_as_null=True))
    name: Mapped[str | None]
    tool_call_id: Mapped[str | None]
    user_id: Mapped[str | None]
    agent_id: Mapped[str | None]
    provider: Mapped[str | None]
    model: Mapped[str | None]
    tokens_input: Mapped[int | None]
    tokens_output: Mapped[int | None]
    important: Mapped[bool] = mapped_column(server_default=text("false"))
    client_key: Mapped[str | None]
    content_hash: Mapped[bytes] = mapped_column(LargeBinary)
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'"))
    created_at: Mapped[dt.datetime] = mapped_column(server_default=func.now())
    deleted_at: Mapped[dt.datetime | None]

    thread: Mapped[Thread] = relationship(back_populates="messages", lazy="raise")


class MessageEmbedding(EmbeddingMixin, Base):
    """A message's vector in one space, partitioned by owner so that tenants share few graphs."""

    __tablename__ = "message_embeddings"
    __table_args__ = vector_table(Message, partitions=16)


class MessageEmbeddingJob(EmbeddingJobMixin, Base):
    """A message whose vector is still owed."""

    __tablename__ = "message_embedding_jobs"
    __table_args__ = job_table(Message)


class ThreadSummary(Identified, Timestamped, SearchableMixin, Base):
    """A version of what a thread says, in `content`; one is current, the others are how it came to be.

    It covers the messages from `first_seq` to `last_seq`. A title is no summary.
    """

    __tablename__ = "thread_summaries"
    __table_args__ = (
        UniqueConstraint("owner_id", "id"),
        Index("uq_thread_summaries_current", "thread_id", unique=True, postgresql_where=text("is_current")),
        ForeignKeyConstraint(["owner_id", "thread_id"], [Thread.owner_id, Thread.id], ondelete="CASCADE"),
        CheckConstraint("first_seq > 0 AND last_seq >= first_seq", name="covers"),
        CheckConstraint("token_count >= 0", name="token_count"),
        CheckConstraint("content <> ''", name="says_something"),
        Index(None, "thread_id", "created_at", "id"),
        Index(None, "updated_at"),
        search_index("thread_summaries"),
    )
    __corpus__ = SUMMARIES
    __searchable__ = and_(column("is_current"), column("deleted_at").is_(None))

    thread_id: Mapped[uuid.UUID]
    first_seq: Mapped[int]
    last_seq: Mapped[int]
    token_count: Mapped[int]
    model: Mapped[str | None]
    is_current: Mapped[bool] = mapped_column(server_default=text("true"))
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'"))
    deleted_at: Mapped[dt.datetime | None]

    thread: Mapped[Thread] = relationship(back_populates="summaries", lazy="raise")


class SummaryEmbedding(EmbeddingMixin, Base):
    """A summary's vector in one space."""

    __tablename__ = "summary_embeddings"
    __table_args__ = vector_table(ThreadSummary, partitions=16)


class SummaryEmbeddingJob(EmbeddingJobMixin, Base):
    """A summary whose vector is still owed."""

    __tablename__ = "summary_embedding_jobs"
    __table_args__ = job_table(ThreadSummary)
