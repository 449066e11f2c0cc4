"""conversations: create threads, messages and summaries, with their vectors and jobs"""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from llmstack.db.ddl import (
    create_embedding_tables,
    drop_embedding_tables,
    finish_searchable_table,
    searchable_columns,
)
from llmstack.db.revisions import schema, scoped

revision = "conversations_0001"
down_revision = None
branch_labels = ("conversations",)
# The newest of what a search of them calls.
depends_on = ("kernel_0007", "embeddings_0002")

PARTITIONS = 16
ROLES = ("system", "user", "assistant", "tool", "developer")
MESSAGE_IS_SEARCHED = "NEW.deleted_at IS NULL AND NEW.content <> '' AND octet_length(NEW.content) <= 300000"
SUMMARY_IS_SEARCHED = "NEW.is_current AND NEW.deleted_at IS NULL"


def moment(name: str, *, required: bool = True) -> sa.Column[dt.datetime]:
    default = sa.func.now() if required else None
    return sa.Column(name, sa.DateTime(timezone=True), server_default=default, nullable=not required)


def metadata() -> sa.Column[JSONB]:
    return sa.Column("metadata", JSONB(), server_default=sa.text("'{}'"), nullable=False)


def number(name: str, kind: type[sa.Integer] = sa.Integer, *, default: str | None = None) -> sa.Column[int]:
    made = None if default is None else sa.text(default)
    return sa.Column(name, kind(), server_default=made, nullable=False)


def texts(*names: str, required: bool = False) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text(), nullable=not required) for name in names]


def create_threads() -> None:
    op.create_table(
        "threads",
        sa.Column("id", sa.Uuid(), nullable=False),
        *texts("owner_id", "id_at_origin", required=True),
        *texts("user_id", "agent_id", "session_id", "title"),
        sa.Column("language", sa.Text(), server_default="english", nullable=False),
        metadata(),
        number("last_seq", default="0"),
        number("message_count", default="0"),
        number("tokens_input", sa.BigInteger, default="0"),
        number("tokens_output", sa.BigInteger, default="0"),
        moment("last_message_at"),
        moment("created_at"),
        moment("updated_at"),
        moment("deleted_at", required=False),
        sa.PrimaryKeyConstraint("id", name="pk_threads"),
        sa.UniqueConstraint("owner_id", "id_at_origin", name="uq_threads_owner_id_id_at_origin"),
        sa.UniqueConstraint("owner_id", "id", name="uq_threads_owner_id_id"),
        sa.CheckConstraint("message_count >= 0 AND message_count <= last_seq", name="ck_threads_message_count"),
        sa.CheckConstraint("tokens_input >= 0", name="ck_threads_tokens_input"),
        sa.CheckConstraint("tokens_output >= 0", name="ck_threads_tokens_output"),
    )
    for leading in (["owner_id"], ["owner_id", "user_id"], ["owner_id", "agent_id"]):
        columns = [*leading, "last_message_at", "id"]
        op.create_index(
            f"ix_threads_{'_'.join(columns)}", "threads", columns, postgresql_where=sa.text("deleted_at IS NULL")
        )
    op.create_index("ix_threads_owner_id_language", "threads", ["owner_id", "language"])
    op.create_index(
        "ix_threads_metadata",
        "threads",
        ["metadata"],
        postgresql_using="gin",
        postgresql_ops={"metadata": "jsonb_path_ops"},
    )


def create_messages() -> None:
    op.create_table(
        "messages",
        sa.Column("id", sa.Uuid(), nullable=False),
        *searchable_columns(version=2),
        sa.Column("thread_id", sa.Uuid(), nullable=False),
        number("seq"),
        *texts("role", required=True),
        sa.Column("parts", JSONB()),
        *texts("name", "tool_call_id", "user_id", "agent_id", "provider", "model"),
        sa.Column("tokens_input", sa.Integer()),
        sa.Column("tokens_output", sa.Integer()),
        sa.Column("important", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        *texts("client_key"),
        sa.Column("content_hash", sa.LargeBinary(), nullable=False),
        metadata(),
        moment("created_at"),
        moment("deleted_at", required=False),
        sa.PrimaryKeyConstraint("id", name="pk_messages"),
        sa.UniqueConstraint("owner_id", "id", name="uq_messages_owner_id_id"),
        sa.UniqueConstraint("thread_id", "seq", name="uq_messages_thread_id_seq"),
        sa.ForeignKeyConstraint(
            ["owner_id", "thread_id"],
            ["threads.owner_id", "threads.id"],
            name="fk_messages_owner_id_thread_id_threads",
            ondelete="CASCADE",
        ),
        sa.CheckConstraint(f"role IN ({', '.join(map(repr, ROLES))})", name="ck_messages_role"),
        sa.CheckConstraint("seq > 0", name="ck_messages_seq"),
        sa.CheckConstraint("content <> '' OR parts IS NOT NULL", name="ck_messages_says_something"),
        sa.CheckConstraint("tokens_input >= 0", name="ck_messages_tokens_input"),
        sa.CheckConstraint("tokens_output >= 0", name="ck_messages_tokens_output"),
    )
    op.create_index(
        "uq_messages_owner_id_thread_id_client_key",
        "messages",
        ["owner_id", "thread_id", "client_key"],
        unique=True,
        postgresql_where=sa.text("client_key IS NOT NULL AND deleted_at IS NULL"),
    )
    for columns in (["agent_id", "created_at"], ["provider", "model", "created_at"]):
        given = sa.text(f"{columns[0]} IS NOT NULL")
        op.create_index(f"ix_messages_{'_'.join(columns)}", "messages", columns, postgresql_where=given)
    op.create_index(
        "ix_messages_owner_id_deleted_at",
        "messages",
        ["owner_id", "deleted_at"],
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    finish_searchable_table(
        "messages", corpus="messages", searchable=MESSAGE_IS_SEARCHED, llmstack_schema=schema(), version=2
    )
    create_embedding_tables(
        "messages",
        vectors="message_embeddings",
        jobs="message_embedding_jobs",
        partitions=PARTITIONS,
        llmstack_schema=schema(),
    )


def create_summaries() -> None:
    op.create_table(
        "thread_summaries",
        sa.Column("id", sa.Uuid(), nullable=False),
        *searchable_columns(version=2),
        sa.Column("thread_id", sa.Uuid(), nullable=False),
        *(number(name) for name in ("first_seq", "last_seq", "token_count")),
        *texts("model"),
        sa.Column("is_current", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        metadata(),
        moment("created_at"),
        moment("updated_at"),
        moment("deleted_at", required=False),
        sa.PrimaryKeyConstraint("id", name="pk_thread_summaries"),
        sa.UniqueConstraint("owner_id", "id", name="uq_thread_summaries_owner_id_id"),
        sa.ForeignKeyConstraint(
            ["owner_id", "thread_id"],
            ["threads.owner_id", "threads.id"],
            name="fk_thread_summaries_owner_id_thread_id_threads",
            ondelete="CASCADE",
        ),
        sa.CheckConstraint("first_seq > 0 AND last_seq >= first_seq", name="ck_thread_summaries_covers"),
        sa.CheckConstraint("token_count >= 0", name="ck_thread_summaries_token_count"),
        sa.CheckConstraint("content <> ''", name="ck_thread_summaries_says_something"),
    )
    op.create_index(
        "uq_thread_summaries_current",
        "thread_summaries",
        ["thread_id"],
        unique=True,
        postgresql_where=sa.text("is_current"),
    )
    for columns in (["thread_id", "created_at", "id"], ["updated_at"]):
        op.create_index(f"ix_thread_summaries_{'_'.join(columns)}", "thread_summaries", columns)
    finish_searchable_table(
        "thread_summaries",
        corpus="thread_summaries",
        searchable=SUMMARY_IS_SEARCHED,
        llmstack_schema=schema(),
        version=2,
    )
    create_embedding_tables(
        "thread_summaries",
        vectors="summary_embeddings",
        jobs="summary_embedding_jobs",
        partitions=PARTITIONS,
        llmstack_schema=schema(),
    )


@scoped
def upgrade() -> None:
    create_threads()
    create_messages()
    create_summaries()


@scoped
def downgrade() -> None:
    drop_embedding_tables(vectors="summary_embeddings", jobs="summary_embedding_jobs")
    drop_embedding_tables(vectors="message_embeddings", jobs="message_embedding_jobs")
    for table in ("thread_summaries", "messages", "threads"):
        op.drop_table(table)
