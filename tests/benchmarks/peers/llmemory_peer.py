"""llmemory, driven by commands; runs in its own environment."""

from __future__ import annotations

import hashlib
import logging
from importlib import import_module
from typing import Any

import asyncpg
import numpy as np

from .driver import LIMIT, Contender, Material, fresh_database, key, place_of, serve, writing

TABLE = "embeddings_given"
# The library's own choice for its own vectors.
INDEX = f"CREATE INDEX ON {TABLE} USING hnsw (embedding vector_cosine_ops) WITH (m = 16, ef_construction = 200)"
BATCH = 5_000


class LLMemoryPeer:
    """Its default settings; vectors are given, and its language detection, which wants a model, is off."""

    modes = ("hybrid", "vector", "text")

    def __init__(self, url: str, material: Material) -> None:
        self._url = url
        self._material = material
        self._loaded: tuple[str, Any] | None = None

    async def ingest(self, count: int) -> int:
        _, memory = await self._open("peer_llmemory_sample", index=True)
        texts = self._material.texts

        async def add(place: int) -> int:
            done = await memory.add_document(
                owner_id="owner-0", id_at_origin=str(place), document_name=str(place), document_type="text",
                content=texts[place],
            )  # fmt: skip
            made: int = done.chunks_created
            return made

        try:
            return await writing(add, count)
        finally:
            await memory.close()

    async def load(self, owners: int) -> None:
        if self._loaded is None:
            url, memory = await self._open("peer_llmemory", index=False)
            await self._fill(url)
            self._loaded = url, memory
        connection = await _connect(self._loaded[0])
        place = "id_at_origin::int"
        dealt = f"CASE WHEN $1 > 1 AND {place} % 1000 = 999 THEN 'owner-small' ELSE 'owner-' || {place} % $1 END"
        await connection.execute(f"UPDATE documents SET owner_id = {dealt}", owners)
        await connection.execute("VACUUM (FULL, ANALYZE) documents")
        await connection.execute("VACUUM ANALYZE")
        await connection.close()

    async def search(self, query: str, *, mode: str, owner: str) -> list[int]:
        assert self._loaded is not None
        hits = await self._loaded[1].search(owner, query, search_type=mode, limit=LIMIT)
        return [place_of(hit.chunk_id) for hit in hits]

    async def _open(self, name: str, *, index: bool) -> tuple[str, Any]:
        url = await fresh_database(self._url, name)
        memory = _memory(url, self._material)
        await memory.initialize()
        connection = await _connect(url)
        dimensions = self._material.vectors.shape[1]
        for statement in (
            "UPDATE embedding_providers SET is_default = false",
            f"CREATE TABLE {TABLE} (chunk_id uuid PRIMARY KEY REFERENCES document_chunks (chunk_id) ON DELETE CASCADE, "
            f"embedding vector({dimensions}) NOT NULL, created_at timestamptz DEFAULT now())",
            "INSERT INTO embedding_providers (provider_id, provider_type, model_name, dimension, table_name, "
            f"is_default) VALUES ('given', 'local', 'given', {dimensions}, '{TABLE}', true)",
            *([INDEX] if index else []),
        ):
            await connection.execute(statement)
        await connection.close()
        return url, memory

    async def _fill(self, url: str) -> None:
        connection = await _connect(url)
        texts, vectors = self._material.texts, self._material.vectors
        await connection.execute("CREATE TEMP TABLE given (chunk_id uuid, embedding text)")
        for start in range(0, len(texts), BATCH):
            places = range(start, min(start + BATCH, len(texts)))
            await connection.copy_records_to_table(
                "documents", records=[(key(place), "owner-0", str(place), "text", str(place)) for place in places],
                columns=["document_id", "owner_id", "id_at_origin", "document_type", "document_name"],
            )  # fmt: skip
            await connection.copy_records_to_table(
                "document_chunks",
                records=[(key(place), key(place), 0, 0, texts[place], hashlib.sha256(texts[place].encode()).hexdigest(),
                          len(texts[place]) // 4) for place in places],
                columns=["chunk_id", "document_id", "chunk_index", "chunk_level", "content", "content_hash",
                         "token_count"],
            )  # fmt: skip
            await connection.execute("TRUNCATE given")
            stored = [(key(place), str(np.asarray(vectors[place], np.float32).tolist())) for place in places]
            await connection.copy_records_to_table("given", records=stored)
            await connection.execute(
                f"INSERT INTO {TABLE} (chunk_id, embedding) SELECT chunk_id, embedding::vector FROM given"
            )
        await connection.execute("SET maintenance_work_mem = '1GB'")
        await connection.execute(INDEX)
        await connection.close()


async def _connect(url: str) -> Any:
    return await asyncpg.connect(url, server_settings={"search_path": "llmemory,public"}, command_timeout=3600)


def _memory(url: str, material: Material) -> Any:
    names = ("", ".config", ".db", ".embedding_providers", ".language_processing")
    modules: list[Any] = [import_module(f"llmemory{name}") for name in names]
    llmemory, config, database, providers, languages = modules
    languages.LANGDETECT_AVAILABLE = False

    async def present(_: Any) -> None:
        """gen_random_uuid(), for which it wants an extension, is part of PostgreSQL."""

    database._ensure_pgcrypto_extension = present

    class Given(providers.EmbeddingProvider):  # type: ignore[name-defined,misc]
        async def generate_embeddings(self, texts: list[str]) -> list[list[float]]:
            return [material.vector(text) for text in texts]

    chosen = llmemory.LLMemoryConfig()
    given = config.EmbeddingProviderConfig(
        provider_type="local", model_name="given", dimension=int(material.vectors.shape[1])
    )
    chosen.embedding.providers["given"] = given
    chosen.embedding.default_provider = "given"
    memory = llmemory.LLMemory(connection_string=url, config=chosen)
    memory._embedding_providers["given"] = Given("given", given)
    return memory


async def _make(url: str, material: Material) -> Contender:
    logging.disable(logging.WARNING)
    return LLMemoryPeer(url, material)


if __name__ == "__main__":
    serve(_make)
