"""langchain-postgres, driven by commands; runs in its own environment."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import asyncpg
import numpy as np

from .driver import LIMIT, Contender, Material, fresh_database, key, place_of, serve

TABLE, SAMPLE = "passages", "sample"
BATCH = 5_000


class LangchainPeer:
    """PGVectorStore with an owner column, an index on it, a column for words, and its own hybrid search."""

    modes = ("hybrid", "vector")

    def __init__(self, url: str, engine: Any, material: Material) -> None:
        self._url = url
        self._engine = engine
        self._material = material
        self._stores: dict[str, Any] = {}

    async def ingest(self, count: int) -> int:
        store = await self._store(SAMPLE)
        await self._index(store, SAMPLE)
        added = await store.aadd_texts(
            self._material.texts[:count], metadatas=[{"owner": "owner-0"}] * count,
            ids=[str(key(place)) for place in range(count)],
        )  # fmt: skip
        return len(added)

    async def load(self, owners: int) -> None:
        if TABLE not in self._stores:
            self._stores[TABLE] = await self._store(TABLE)
            await self._fill()
            await self._index(self._stores[TABLE], TABLE)
        connection = await asyncpg.connect(self._url, command_timeout=3600)
        place = "('x' || right(langchain_id::text, 8))::bit(32)::int - 1"
        dealt = f"CASE WHEN $1 > 1 AND ({place}) % 1000 = 999 THEN 'owner-small' ELSE 'owner-' || ({place}) % $1 END"
        await connection.execute(f"UPDATE {TABLE} SET owner = {dealt}", owners)
        await connection.execute(f"VACUUM (FULL, ANALYZE) {TABLE}")
        await connection.close()

    async def search(self, query: str, *, mode: str, owner: str) -> list[int]:
        # Given anew each time: a configuration keeps the words of its first query.
        config = {"hybrid_search_config": _hybrid(query) if mode == "hybrid" else None}
        hits = await self._stores[TABLE].asimilarity_search(query, k=LIMIT, filter={"owner": owner}, **config)
        return [place_of(hit.id) for hit in hits]

    async def _store(self, table: str) -> Any:
        langchain, embeddings = import_module("langchain_postgres"), import_module("langchain_core.embeddings")
        material = self._material

        class Given(embeddings.Embeddings):  # type: ignore[name-defined,misc]
            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                return [material.vector(text) for text in texts]

            def embed_query(self, text: str) -> list[float]:
                return material.vector(text)

        await self._engine.ainit_vectorstore_table(
            table, int(material.vectors.shape[1]), metadata_columns=[langchain.Column("owner", "TEXT")],
            hybrid_search_config=_hybrid(""),
        )  # fmt: skip
        return await langchain.PGVectorStore.create(
            self._engine, embedding_service=Given(), table_name=table, metadata_columns=["owner"],
            hybrid_search_config=_hybrid(""),
        )  # fmt: skip

    async def _index(self, store: Any, table: str) -> None:
        connection = await asyncpg.connect(self._url, command_timeout=3600)
        await connection.execute(f"CREATE INDEX ON {table} (owner)")
        await connection.execute(f"CREATE INDEX ON {table} USING gin (content_tsv)")
        await connection.execute("SET maintenance_work_mem = '1GB'")
        # Its own defaults.
        await connection.execute(
            f"CREATE INDEX ON {table} USING hnsw (embedding vector_cosine_ops) WITH (m = 16, ef_construction = 64)"
        )
        await connection.close()

    async def _fill(self) -> None:
        connection = await asyncpg.connect(self._url, command_timeout=3600)
        texts, vectors = self._material.texts, self._material.vectors
        await connection.execute("CREATE TEMP TABLE given (langchain_id uuid, content text, embedding text)")
        for start in range(0, len(texts), BATCH):
            rows: Sequence[Any] = [
                (key(place), texts[place], str(np.asarray(vectors[place], np.float32).tolist()))
                for place in range(start, min(start + BATCH, len(texts)))
            ]
            await connection.execute("TRUNCATE given")
            await connection.copy_records_to_table("given", records=rows)
            await connection.execute(
                f"INSERT INTO {TABLE} (langchain_id, content, embedding, content_tsv, owner) SELECT langchain_id, "
                "content, embedding::vector, to_tsvector('pg_catalog.english', content), 'owner-0' FROM given"
            )
        await connection.close()


def _hybrid(words: str) -> Any:
    search = import_module("langchain_postgres.v2.hybrid_search_config")
    # By default it takes four from each leg, and could not fill a page of ten.
    return search.HybridSearchConfig(
        tsv_column="content_tsv", tsv_lang="pg_catalog.english", fts_query=words, primary_top_k=2 * LIMIT,
        secondary_top_k=2 * LIMIT,
    )  # fmt: skip


async def _make(url: str, material: Material) -> Contender:
    own = await fresh_database(url, "peer_langchain")
    scheme, rest = own.split("://", 1)
    langchain = import_module("langchain_postgres")
    engine = langchain.PGEngine.from_connection_string(f"{scheme}+asyncpg://{rest}")
    return LangchainPeer(own, engine, material)


if __name__ == "__main__":
    serve(_make)
