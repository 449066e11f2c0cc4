"""Ingest: the floor of add_many, a bare asyncpg COPY of the same rows into identical tables with identical indexes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from typing import Any

import asyncpg
from pgvector import HalfVector
from pgvector.asyncpg import register_vector
from uuid_utils.compat import uuid7

from llmstack import LLMStack
from llmstack.documents.chunking import count_tokens

from .corpora import Computed, Generator, Passage
from .speed import settings

BATCH = 2_000


async def bare_copy(url: str, *, schema: str, passages: int, generator: Generator) -> dict[str, Any]:
    """COPY documents, chunks and vectors batch by batch; making texts and vectors is part of both contenders' time."""
    async with LLMStack.open(url, schema=schema, embedder=Computed(generator), settings=settings()) as stack:
        space = await stack.embeddings.space()
        await stack.embeddings.build_index()
    connection = await asyncpg.connect(url)
    try:
        await register_vector(connection)
        started = time.perf_counter()
        for batch in _batches(generator, passages):
            async with connection.transaction():
                await _copy(connection, schema, space.id, batch, generator)
        took = time.perf_counter() - started
    finally:
        await connection.close()
    return {"chunks": passages, "seconds": took, "chunks_per_second": passages / took}


def _batches(generator: Generator, count: int) -> Iterator[list[Passage]]:
    batch: list[Passage] = []
    for passage in generator.passages(count):
        batch.append(passage)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


async def _copy(connection: Any, schema: str, space: int, batch: list[Passage], generator: Generator) -> None:
    owner = "owner-0"
    keys = [(uuid7(), uuid7(), hashlib.sha256(passage.text.encode()).digest()) for passage in batch]
    rows = list(zip(keys, batch, strict=True))
    await connection.copy_records_to_table(
        "documents", schema_name=schema,
        columns=["id", "owner_id", "id_at_origin", "name", "document_type", "language", "content", "content_hash",
                 "content_bytes", "chunking", "metadata"],
        records=[(key[0], owner, str(passage.number), str(passage.number), "text", "english", passage.text, key[2],
                  len(passage.text), '{"strategy": "none"}', "{}") for key, passage in rows],
    )  # fmt: skip
    await connection.copy_records_to_table(
        "chunks", schema_name=schema,
        columns=["id", "owner_id", "document_id", "position", "level", "content", "context", "token_count",
                 "start_offset", "end_offset", "content_hash", "language"],
        records=[(key[1], owner, key[0], 0, 0, passage.text, str(passage.number), count_tokens(passage.text), 0,
                  len(passage.text), key[2], "english") for key, passage in rows],
    )  # fmt: skip
    await connection.copy_records_to_table(
        "chunk_embeddings", schema_name=schema, columns=["owner_id", "chunk_id", "space_id", "embedding"],
        records=[(owner, key[1], space, HalfVector(generator.vector(passage.text))) for key, passage in rows],
    )  # fmt: skip
