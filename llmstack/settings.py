"""Settings: the only reader of the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

TLSMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]


class Settings(BaseSettings):
    """Every setting with its default; each is read from `LLMSTACK_<NAME>` unless given."""

    model_config = SettingsConfigDict(
        env_prefix="LLMSTACK_", extra="forbid", frozen=True, populate_by_name=True, hide_input_in_errors=True
    )

    database_url: SecretStr | None = Field(None, description="PostgreSQL URL; none starts the embedded server")
    reader_url: SecretStr | None = Field(None, description="URL of a read replica for `service.reader()`")
    # Named `schema` everywhere users meet it; the attribute avoids pydantic's own name.
    schema_name: str = Field(
        "llmstack", validation_alias="LLMSTACK_SCHEMA", description="PostgreSQL schema of the tables"
    )
    extension_schema: str = Field("public", description="schema in which the `vector` extension is created")
    data_dir: Path | None = Field(None, description="folder of the embedded server; default: the user's data folder")

    pool_size: int = Field(20, ge=1, description="connections kept open")
    max_overflow: int = Field(10, ge=0, description="further connections under load")
    pool_timeout: float = Field(30.0, gt=0, description="seconds to wait for a free connection")
    pool_recycle: int = Field(3600, description="seconds after which a connection is replaced")
    statement_timeout: float = Field(60.0, ge=0, description="seconds a statement may run; 0 is no limit")
    idle_in_transaction_session_timeout: float = Field(
        60.0, ge=0, description="seconds a transaction may sit idle; 0 is no limit"
    )
    application_name: str = Field("llmstack", description="shown in pg_stat_activity")
    statement_cache_size: int | None = Field(
        None,
        ge=0,
        description="prepared statements kept on each connection; none is 100 and 50 for each service",
    )
    behind_pooler: bool = Field(False, description="work through PgBouncer in transaction mode")

    tls: TLSMode | None = Field(None, description="TLS mode, as PostgreSQL's sslmode; none follows the URL")
    tls_ca_file: Path | None = Field(None, description="certificate authority that signed the server's certificate")
    tls_cert_file: Path | None = Field(None, description="client certificate")
    tls_key_file: Path | None = Field(None, description="key of the client certificate")

    transaction_attempts: int = Field(5, ge=1, description="runs of a unit of work that meets 40001 or 40P01")
    migration_lock_timeout: float = Field(300.0, ge=0, description="seconds to wait for another migration")
    ddl_lock_timeout: float = Field(5.0, gt=0, description="seconds a migration waits for a table lock")

    embedder: str | None = Field(
        None, description="`local`, `none`, or a litellm model such as `openai/text-embedding-3-small`"
    )
    other_embedders: str | None = Field(
        None,
        description="further embedders, comma-separated; `model=512` asks for that many dimensions",
    )
    embedding_dimensions: int | None = Field(None, description="dimensions of the litellm model")
    embedding_batch_size: int = Field(128, ge=1, description="texts in one call of the embedder")
    embedding_concurrency: int = Field(4, ge=1, description="calls of the embedder at a time")
    embedding_timeout: float = Field(60.0, gt=0, description="seconds one call of the embedder may take")
    embedding_attempts: int = Field(5, ge=1, description="failures after which a pending job is set aside")
    embedding_lease: float = Field(300.0, gt=0, description="seconds a claimed job stays with its worker")
    space_refresh: float = Field(
        5.0, ge=0, description="seconds within which a process sees that another space serves; alike in all of them"
    )

    corpora: str | None = Field(
        None, description="corpora of the host that every stack knows, comma-separated, such as `shop.search:NOTES`"
    )

    default_language: str = Field("english", description="text search configuration of documents that name none")
    document_context: Literal["full", "none"] = Field(
        "full", description="whether a document's name and sections are searched and embedded with its passages"
    )
    keep_text: bool = Field(True, description="store the original text with the document")
    max_text_bytes: int = Field(50_000_000, ge=1, description="largest document text, in UTF-8 bytes")
    max_message_bytes: int = Field(4_000_000, ge=1, description="largest content, or parts as JSON, of a message")
    max_metadata_bytes: int = Field(1_000_000, ge=2, description="largest metadata, in bytes of JSON")
    summary_timeout: float = Field(60.0, gt=0, description="seconds a summariser may take for one part of a thread")
    summary_input_tokens: int = Field(8_000, ge=100, description="tokens of messages that a summariser gets at a time")
    summary_characters: int = Field(500, ge=50, description="length of a summary")
    summary_characters_high: int = Field(800, ge=50, description="length of the summary of an important thread")
    summary_least_messages: int = Field(6, ge=1, description="messages from which on a thread wants a summary")
    summary_minutes_high: float = Field(15.0, ge=0, description="minutes between summaries of an important thread")
    summary_minutes_medium: float = Field(30.0, ge=0, description="minutes between those of a less important one")
    summary_minutes_low: float = Field(60.0, ge=0, description="minutes between those of any other")
    search_candidates: int = Field(100, ge=1, description="rows each leg hands to the fusion")
    lexical_budget: int = Field(2000, ge=1, description="estimated rows that the text leg may score")
    exact_rows: int = Field(10_000, ge=0, description="matching rows up to which vectors are compared exactly")
    rerank_timeout: float = Field(5.0, gt=0, description="seconds after which a search goes on without its reranker")
    expansion_timeout: float = Field(5.0, gt=0, description="seconds after which it goes on without other wordings")
    ef_search: int = Field(200, ge=1, le=1000, description="breadth of an HNSW scan")
    search_log: bool = Field(False, description="keep a log of searches and of the rows that they found, without text")
    search_log_retention: float = Field(30.0, gt=0, description="days after which a logged search is deleted")
