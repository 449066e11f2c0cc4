"""Binary quantization: the index over bits, re-ranked by the vectors, beside the index over the vectors."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Sequence
from typing import Any

import asyncpg
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import text

from llmstack.db import Database, Service
from llmstack.db.migrate import upgrade
from llmstack.documents import Chunk
from llmstack.documents.models import CORPUS, ChunkEmbedding
from llmstack.embeddings import EmbeddingSpace
from llmstack.embeddings.index import SpaceIndex
from llmstack.embeddings.vectors import source_of, vector_text
from llmstack.search import SearchOptions, VectorSource, hybrid
from llmstack.settings import Settings

from .measures import quantiles

Floats = NDArray[np.float32]
ROWS, QUERIES, CANDIDATES = 20_000, 200, 100
DIMENSIONS = (256, 1024)
OVERSAMPLING = (2, 4, 8)
_CLUSTERS, _LATENT = 200, 100
_ON_OUR_TABLES = text("SELECT set_config('search_path', quote_ident(:schema) || ', public', true)")
_CHUNKS = (
    """
    INSERT INTO documents (id, owner_id, id_at_origin, name, document_type, language, content_hash, content_bytes,
                           chunking)
    VALUES (gen_random_uuid(), 'bench', 'D', 'D', 'text', 'simple', 'x', 1, '{}')""",
    """
    INSERT INTO chunks (id, owner_id, document_id, position, content, language, token_count, start_offset, end_offset,
                        content_hash)
    SELECT given, 'bench', documents.id, number, 'w', 'simple', 1, 0, 1, given::text::bytea
    FROM documents, unnest(CAST(:ids AS uuid[])) WITH ORDINALITY AS given (given, number)""",
)


def vectors(rows: int, dimensions: int, *, seed: int) -> Floats:
    """Unit vectors in overlapping clusters of a hundred-dimensional space, turned into more dimensions, with noise."""
    world, own = np.random.default_rng(11), np.random.default_rng(seed)
    centres = world.standard_normal((_CLUSTERS, _LATENT))
    turn = world.standard_normal((_LATENT, dimensions)) / np.sqrt(_LATENT)
    latent = centres[own.integers(_CLUSTERS, size=rows)] + 1.5 * own.standard_normal((rows, _LATENT))
    found: Floats = (latent @ turn + 0.3 * own.standard_normal((rows, dimensions))).astype(np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


async def measure(url: str, *, rows: int = ROWS, dimensions: Sequence[int] = DIMENSIONS) -> list[dict[str, Any]]:
    """A row for each index and dimension: its size and build, and the searches of one owner with all of the rows."""
    found: list[dict[str, Any]] = []
    async with Database(url, settings=Settings(statement_timeout=0)) as database:
        for length in dimensions:
            schema = f"quantization_{length}"
            await upgrade(database.engine, schema=schema)
            found += await _of_dimensions(database.service(schema), rows=rows, dimensions=length)
    return found


async def _of_dimensions(service: Service, *, rows: int, dimensions: int) -> list[dict[str, Any]]:
    stored, asked = vectors(rows, dimensions, seed=1), vectors(QUERIES, dimensions, seed=2)
    ids = sorted(uuid.uuid4() for _ in range(rows))
    halves = stored.astype(np.float16).astype(np.float32)
    truth = [[ids[row] for row in np.argsort(-(halves @ query))[:CANDIDATES]] for query in asked]
    async with service.session() as session:
        await session.execute(_ON_OUR_TABLES, {"schema": service.schema})
        await session.execute(text(_CHUNKS[0]))
        await session.execute(text(_CHUNKS[1]), {"ids": ids})
        await session.commit()
    about, variants = {"dimensions": dimensions, "rows": rows}, []
    for quantization in (None, "binary"):
        space = await _space(service, dimensions, quantization)
        await _load(service, space, ids, stored)
        index, began = SpaceIndex(service, "chunk_embeddings", space), time.perf_counter()
        await index.build()
        built = {"build_s": time.perf_counter() - began, "index_mb": await _megabytes(service, index.name)}
        source = source_of(space, ChunkEmbedding)
        if quantization is None:
            variants.append(_Variant({**about, "index": "none"}, source, exact_rows=rows))
            variants.append(_Variant({**about, "index": "hnsw", **built}, source))
        else:
            for times in OVERSAMPLING:
                taken = dataclasses.replace(source, oversampling=times)
                variants.append(_Variant({**about, "index": f"hnsw of bits, {times} times", **built}, taken))
    await _search(service, variants, asked)
    return [{**variant.about, **variant.measures(truth)} for variant in variants]


@dataclasses.dataclass
class _Variant:
    """A way to search, with what its searches took and found."""

    about: dict[str, Any]
    source: VectorSource
    exact_rows: int = 0
    took: list[float] = dataclasses.field(default_factory=list)
    found: list[list[uuid.UUID]] = dataclasses.field(default_factory=list)

    def statement(self, query: Floats) -> Any:
        options = SearchOptions(candidates=CANDIDATES, exact_rows=self.exact_rows)
        return hybrid(
            Chunk, corpus=CORPUS, owner_id="bench", vector=query.tolist(), source=self.source, limit=CANDIDATES,
            options=options,
        )  # fmt: skip

    def measures(self, truth: Sequence[Sequence[uuid.UUID]]) -> dict[str, float]:
        found = {"p50_ms": quantiles(self.took)["p50"]}
        for k in (10, CANDIDATES):
            shares = [len(set(page[:k]) & set(true[:k])) / k for page, true in zip(self.found, truth, strict=True)]
            found[f"recall@{k}"] = float(np.mean(shares))
        return found


async def _search(service: Service, variants: Sequence[_Variant], asked: Floats) -> None:
    # In turn, so that what else the machine does meets all of them.
    async with service.single_statements() as session:
        for query in asked:
            for variant in variants:
                statement, began = variant.statement(query), time.perf_counter()
                rows = (await session.execute(statement)).all()
                variant.took.append(time.perf_counter() - began)
                variant.found.append([row.id for row in rows])


async def _space(service: Service, dimensions: int, quantization: str | None) -> EmbeddingSpace:
    space = EmbeddingSpace(
        name=quantization or "full", provider="bench", model="bench", dimensions=dimensions, quantization=quantization
    )
    async with service.session() as session:
        session.add(space)
        await session.flush()
        await session.refresh(space)
        await session.commit()
    return space


async def _load(service: Service, space: EmbeddingSpace, ids: Sequence[uuid.UUID], stored: Floats) -> None:
    async with service.engine.begin() as connection:
        await connection.execute(text("CREATE TEMP TABLE given (id uuid, vector text) ON COMMIT DROP"))
        driver: asyncpg.Connection = (await connection.get_raw_connection()).driver_connection
        records = ((id_, vector_text(vector.tolist())) for id_, vector in zip(ids, stored, strict=True))
        await driver.copy_records_to_table("given", records=records)
        await connection.execute(_ON_OUR_TABLES, {"schema": service.schema})
        await connection.execute(
            text(
                "INSERT INTO chunk_embeddings (owner_id, row_id, space_id, embedding) "
                "SELECT 'bench', id, :space, vector::halfvec FROM given"
            ),
            {"space": space.id},
        )
    async with service.single_statements() as session:
        await session.execute(text("ANALYZE"))


async def _megabytes(service: Service, name: str) -> float:
    statement = text(
        "SELECT sum(pg_relation_size(c.oid)) / 2 ^ 20 FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
        "WHERE nspname = :schema AND starts_with(relname, :name)"
    )
    async with service.single_statements() as session:
        return float(await session.scalar(statement, {"schema": service.schema, "name": f"{name}_p"}) or 0.0)
