"""documents: create documents, chunks, embeddings and jobs"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from llmstack.db.revisions import extension_schema, scoped
from llmstack.db.schemas import quote

revision = "documents_0001"
down_revision = None
branch_labels = ("documents",)
depends_on = "embeddings_0001"

PARTITIONS = 16
TYPES = (
    "pdf", "markdown", "code", "text", "html", "docx", "email", "report", "chat", "presentation",
    "legal_document", "technical_doc", "business_report", "unknown",
)  # fmt: skip


def create_documents() -> None:
    op.create_table(
        "documents",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Text(), nullable=False),
        sa.Column("id_at_origin", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("document_type", sa.Text(), nullable=False),
        sa.Column("document_date", sa.DateTime(timezone=True)),
        sa.Column("language", sa.Text(), nullable=False),
        sa.Column("content", sa.Text()),
        sa.Column("content_hash", sa.LargeBinary(), nullable=False),
        sa.Column("content_bytes", sa.BigInteger(), nullable=False),
        sa.Column("chunking", JSONB(), nullable=False),
        sa.Column("metadata", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_documents"),
        sa.UniqueConstraint("owner_id", "id_at_origin", name="uq_documents_owner_id_id_at_origin"),
        sa.UniqueConstraint("owner_id", "id", name="uq_documents_owner_id_id"),
        sa.CheckConstraint(f"document_type IN ({', '.join(map(repr, TYPES))})", name="ck_documents_document_type"),
    )
    op.create_index("ix_documents_owner_id_language", "documents", ["owner_id", "language"])
    op.create_index("ix_documents_owner_id_document_date", "documents", ["owner_id", "document_date"])
    op.create_index("ix_documents_owner_id_created_at_id", "documents", ["owner_id", "created_at", "id"])
    op.create_index(
        "ix_documents_metadata",
        "documents",
        ["metadata"],
        postgresql_using="gin",
        postgresql_ops={"metadata": "jsonb_path_ops"},
    )


def create_chunks() -> None:
    vectors = quote(extension_schema())
    document = (
        "CASE WHEN level = 0 AND deleted_at IS NULL THEN search_document(owner_id, language, context, content) END"
    )
    weights = f"bm25_weights({document}, bm25_k1, bm25_b, bm25_average_length, bm25_context_weight)"
    op.execute(f"""
CREATE TABLE chunks (
    id uuid NOT NULL,
    owner_id text NOT NULL,
    document_id uuid NOT NULL,
    parent_id uuid,
    position integer NOT NULL,
    level integer DEFAULT 0 NOT NULL,
    content text NOT NULL,
    context text DEFAULT '' NOT NULL,
    summary text,
    token_count integer NOT NULL,
    start_offset integer NOT NULL,
    end_offset integer NOT NULL,
    content_hash bytea NOT NULL,
    language text DEFAULT 'english' NOT NULL,
    metadata jsonb DEFAULT '{{}}' NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    deleted_at timestamp with time zone,
    bm25_k1 real DEFAULT 1.2 NOT NULL,
    bm25_b real DEFAULT 0.75 NOT NULL,
    bm25_average_length real DEFAULT 100.0 NOT NULL,
    bm25_context_weight real DEFAULT 1.0 NOT NULL,
    search_vector tsvector GENERATED ALWAYS AS ({document}) STORED,
    lexical {vectors}.sparsevec(268435456) GENERATED ALWAYS AS ({weights}) STORED,
    CONSTRAINT pk_chunks PRIMARY KEY (id),
    CONSTRAINT uq_chunks_owner_id_id UNIQUE (owner_id, id),
    CONSTRAINT uq_chunks_document_id_content_hash UNIQUE (document_id, content_hash),
    CONSTRAINT fk_chunks_owner_id_document_id_documents FOREIGN KEY (owner_id, document_id)
        REFERENCES documents (owner_id, id) ON DELETE CASCADE,
    CONSTRAINT fk_chunks_owner_id_parent_id_chunks FOREIGN KEY (owner_id, parent_id)
        REFERENCES chunks (owner_id, id) ON DELETE CASCADE
)
""")
    # Ranking reads this column of every candidate row, so it stays in the row when others are moved out.
    op.execute("ALTER TABLE chunks ALTER COLUMN lexical SET STORAGE MAIN")
    op.create_index("ix_chunks_document_id_position", "chunks", ["document_id", "position"])
    # For the foreign key: a chunk that goes has to find its children.
    op.create_index(
        "ix_chunks_owner_id_parent_id",
        "chunks",
        ["owner_id", "parent_id"],
        postgresql_where=sa.text("parent_id IS NOT NULL"),
    )
    op.create_index(
        "ix_chunks_search_vector",
        "chunks",
        ["search_vector"],
        postgresql_using="gin",
        postgresql_with={"fastupdate": "off"},
    )


def create_embeddings() -> None:
    vectors = quote(extension_schema())
    # The key begins with owner and chunk, so that a deleted chunk finds its vectors without a second index.
    op.execute(f"""
CREATE TABLE chunk_embeddings (
    owner_id text NOT NULL,
    chunk_id uuid NOT NULL,
    space_id smallint NOT NULL,
    embedding {vectors}.halfvec,
    embedding_full {vectors}.vector,
    searchable boolean DEFAULT true NOT NULL,
    CONSTRAINT pk_chunk_embeddings PRIMARY KEY (owner_id, chunk_id, space_id),
    CONSTRAINT fk_chunk_embeddings_owner_id_chunk_id_chunks FOREIGN KEY (owner_id, chunk_id)
        REFERENCES chunks (owner_id, id) ON DELETE CASCADE,
    CONSTRAINT fk_chunk_embeddings_space_id_embedding_spaces FOREIGN KEY (space_id)
        REFERENCES embedding_spaces (id),
    CONSTRAINT ck_chunk_embeddings_one_storage CHECK (num_nonnulls(embedding, embedding_full) = 1)
) PARTITION BY HASH (owner_id)
""")
    for number in range(PARTITIONS):
        op.execute(
            f"CREATE TABLE chunk_embeddings_p{number:02d} PARTITION OF chunk_embeddings "
            f"FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {number})"
        )
    op.create_table(
        "embedding_jobs",
        sa.Column("owner_id", sa.Text(), nullable=False),
        sa.Column("chunk_id", sa.Uuid(), nullable=False),
        sa.Column("space_id", sa.SmallInteger(), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("leased_until", sa.DateTime(timezone=True)),
        sa.Column("last_error", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("owner_id", "chunk_id", "space_id", name="pk_embedding_jobs"),
        sa.ForeignKeyConstraint(
            ["owner_id", "chunk_id"],
            ["chunks.owner_id", "chunks.id"],
            name="fk_embedding_jobs_owner_id_chunk_id_chunks",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["space_id"], ["embedding_spaces.id"], name="fk_embedding_jobs_space_id_embedding_spaces"
        ),
    )
    op.create_index(
        "ix_embedding_jobs_space_id_attempts_leased_until",
        "embedding_jobs",
        ["space_id", "attempts", "leased_until"],
    )


@scoped
def upgrade() -> None:
    create_documents()
    create_chunks()
    create_embeddings()


@scoped
def downgrade() -> None:
    for table in ("embedding_jobs", "chunk_embeddings", "chunks", "documents"):
        op.drop_table(table)
