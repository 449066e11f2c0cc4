"""Vectors of many owners, loaded in bulk, and numpy's answer to who is nearest."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import text

from llmstack.db import Service
from llmstack.embeddings import EmbeddingSpace
from llmstack.embeddings.vectors import vector_text

Floats = NDArray[np.float64]

_LOAD = (
    """
    INSERT INTO documents (id, owner_id, id_at_origin, name, document_type, language, content_hash, content_bytes,
                           chunking)
    SELECT gen_random_uuid(), owner, gen_random_uuid(), 'D', 'text', 'simple', 'x', 1, '{}'
    FROM (SELECT DISTINCT unnest(CAST(:owners AS text[])) AS owner) AS owners""",
    """
    INSERT INTO chunks (id, owner_id, document_id, position, content, language, token_count, start_offset, end_offset,
                        content_hash)
    SELECT given.id, owner, documents.id, number, 'w', 'simple', 1, 0, 1, given.id::text::bytea
    FROM unnest(CAST(:owners AS text[]), CAST(:ids AS uuid[])) WITH ORDINALITY AS given (owner, id, number)
    JOIN (SELECT DISTINCT ON (owner_id) id, owner_id FROM documents ORDER BY owner_id, id DESC) AS documents
        ON owner_id = owner""",
    """
    INSERT INTO chunk_embeddings (owner_id, row_id, space_id, embedding, embedding_full)
    SELECT owner, id, :space, CASE WHEN :storage = 'halfvec' THEN vector::halfvec END,
        CASE WHEN :storage = 'vector' THEN vector::vector END
    FROM unnest(CAST(:owners AS text[]), CAST(:ids AS uuid[]), CAST(:vectors AS text[]))
        AS given (owner, id, vector)""",
)


def clustered(rows: int, dimensions: int, *, seed: int = 3, clusters: int = 60) -> Floats:
    """Unit vectors in clusters that overlap."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, dimensions))
    found: Floats = centres[rng.integers(clusters, size=rows)] + 0.8 * rng.standard_normal((rows, dimensions))
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


async def add_vector_space(service: Service, *, dimensions: int, **values: Any) -> EmbeddingSpace:
    """A space that no embedder stands behind, as its row."""
    space = EmbeddingSpace(name=uuid.uuid4().hex, provider="test", model="test", dimensions=dimensions, **values)
    async with service.session() as session:
        session.add(space)
        await session.flush()
        await session.refresh(space)
        await session.commit()
    return space


async def load_vectors(
    service: Service, space: EmbeddingSpace, owners: Sequence[str], vectors: Floats, *, analyze: bool = True
) -> list[uuid.UUID]:
    """Store a chunk with its vector for each owner and row; ids in their order."""
    ids = [uuid.uuid4() for _ in owners]
    given = {
        "owners": list(owners),
        "ids": ids,
        "space": space.id,
        "storage": space.storage,
        "vectors": [vector_text(list(map(float, vector))) for vector in vectors],
    }
    async with service.session() as session:
        await session.execute(text("SET LOCAL search_path = llmstack, public"))
        for statement in map(text, _LOAD):
            await session.execute(statement, {key: given[key] for key in statement._bindparams})
        await session.commit()
    if analyze:
        async with service.single_statements() as session:
            await session.execute(text("ANALYZE"))
    return ids


def nearest(vectors: Floats, query: Floats, limit: int, *, distance: str = "cosine") -> list[int]:
    """The rows nearest to the query, by an exact scan in double precision."""
    if distance == "l2":
        measured = np.linalg.norm(vectors - query, axis=1)
    elif distance == "inner_product":
        measured = -(vectors @ query)
    else:
        measured = -(vectors @ query) / np.linalg.norm(vectors, axis=1)
    return [int(row) for row in np.argsort(measured, kind="stable")[:limit]]
