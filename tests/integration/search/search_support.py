"""Chunks to search, one search in its own session, and BM25 and fusion computed again in Python."""

from __future__ import annotations

import hashlib
import math
import statistics
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import insert, select

from llmstack.db import Service
from llmstack.documents import DOCUMENTS
from llmstack.documents.models import Chunk, ChunkEmbedding, Document
from llmstack.embeddings import EmbeddingSpace, Space
from llmstack.search import RRF, VectorSource, hybrid, refresh_statistics
from llmstack.search.fusion import Fusion

Scores = Mapping[uuid.UUID, float]
CORPUS = "documents"
K1, B, AVERAGE = 1.2, 0.75, 100.0


@dataclass(frozen=True)
class Passage:
    """A chunk as a test writes it."""

    content: str
    context: str = ""
    language: str = "simple"
    owner_id: str = "acme"
    vector: Sequence[float] | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


async def add_space(service: Service, *, dimensions: int = 4, **values: Any) -> Space:
    """A space that no embedder stands behind."""
    name = uuid.uuid4().hex
    row = EmbeddingSpace(name=name, provider="test", model="test", dimensions=dimensions, **values)
    async with service.session() as session:
        session.add(row)
        await session.flush()
        await session.refresh(row)
        space = Space.of(row)
        await session.commit()
    return space


async def add_passages(service: Service, passages: Sequence[Passage], *, space: Space | None = None) -> list[uuid.UUID]:
    """Store the passages, one document for each owner and language; ids ascend in their order."""
    ids = sorted(uuid.uuid4() for _ in passages)
    keys = sorted({(passage.owner_id, passage.language) for passage in passages})
    documents = {key: uuid.uuid4() for key in keys}
    vectors = [
        {"owner_id": p.owner_id, "row_id": id_, "space_id": space.id, "embedding": list(p.vector)}
        for id_, p in zip(ids, passages, strict=True)
        if space is not None and p.vector is not None
    ]
    async with service.session() as session:
        await session.execute(insert(Document), [_document(id_, *key) for key, id_ in documents.items()])
        rows = [
            _chunk(id_, number, documents[p.owner_id, p.language], p)
            for number, (id_, p) in enumerate(zip(ids, passages, strict=True))
        ]
        await session.execute(insert(Chunk), rows)
        if vectors:
            await session.execute(insert(ChunkEmbedding), vectors)
        await session.commit()
    return ids


def _document(id_: uuid.UUID, owner_id: str, language: str) -> dict[str, Any]:
    return {
        "id": id_,
        "owner_id": owner_id,
        "id_at_origin": id_.hex,
        "name": "Handbook",
        "document_type": "text",
        "language": language,
        "content_hash": b"hash",
        "content_bytes": 1,
        "chunking": {},
    }


def _chunk(id_: uuid.UUID, position: int, document_id: uuid.UUID, passage: Passage) -> dict[str, Any]:
    return {
        "id": id_,
        "owner_id": passage.owner_id,
        "document_id": document_id,
        "position": position,
        "content": passage.content,
        "context": passage.context,
        "language": passage.language,
        "token_count": 1,
        "start_offset": 0,
        "end_offset": 1,
        "content_hash": id_.bytes,
        **passage.values,
    }


async def refresh(service: Service) -> None:
    """Read the term statistics of the chunks."""

    async def work(session: Any) -> None:
        assert await refresh_statistics(session, model=Chunk, corpus=CORPUS) is not None

    await service.transaction(work)


async def search(
    service: Service,
    *,
    owner_id: str = "acme",
    space: Space | None = None,
    source: VectorSource | None = None,
    languages: Any = ("simple",),
    **arguments: Any,
) -> Any:
    """The rows of one search among the chunks."""
    if space is not None:
        source = DOCUMENTS.source(space)
    statement = hybrid(Chunk, corpus=CORPUS, owner_id=owner_id, source=source, languages=languages, **arguments)
    async with service.single_statements() as session:
        return (await session.execute(statement)).all()


async def contents_of(service: Service, rows: Iterable[Any]) -> list[str]:
    """The texts of the found chunks, in their order."""
    async with service.session() as session:
        found = {row.id: row.content for row in await session.execute(select(Chunk.id, Chunk.content))}
    return [found[row.id] for row in rows]


def dimension(lexeme: str) -> int:
    """The place of a lexeme in the sparse vector, counted from 1."""
    return int(hashlib.md5(lexeme.encode()).hexdigest()[:7], 16) + 1


def document_weights(
    content: str,
    context: str = "",
    *,
    k1: float = K1,
    b: float = B,
    average: float = AVERAGE,
    title: float = 1.0,
) -> dict[str, float]:
    """The BM25 weight of each word of a text; `title` is the weight of the words of the context."""
    counts: defaultdict[str, float] = defaultdict(float)
    for word in content.split():
        counts[word] += 1
    for word in context.split():
        counts[word] += title
    length = sum(counts.values())
    norm = k1 * (1 - b + b * length / average)
    return {word: tf * (k1 + 1) / (tf + norm) for word, tf in counts.items() if tf > 0}


def idf(rows: int, df: int) -> float:
    """How much a word tells."""
    return math.log(1 + (rows - df + 0.5) / (df + 0.5))


def bm25(query: str, passages: Sequence[Passage], *, known: bool = True) -> list[float]:
    """The score of each passage; `known` is whether term statistics exist."""
    found = [document_weights(p.content, p.context) for p in passages]
    rows = len(passages) if known else 1
    total = [0.0] * len(passages)
    for word, times in Counter(query.split()).items():
        df = max(sum(word in weights for weights in found), 1) if known else 1
        for number, weights in enumerate(found):
            total[number] += idf(max(rows, df), df) * times * weights.get(word, 0.0)
    return total


def normalised(scores: Scores, fusion: Fusion) -> tuple[dict[uuid.UUID, float], float]:
    """Each row's part, and that of a row which the leg did not return."""
    if isinstance(fusion, RRF):
        ranked = sorted(scores, key=lambda id_: (-scores[id_], id_))
        return {id_: 1 / (fusion.k + rank) for rank, id_ in enumerate(ranked, 1)}, 0.0
    if not scores:
        return {}, 0.0
    low, high = min(scores.values()), max(scores.values())
    if fusion.normalize == "minmax":
        return {id_: (score - low) / (high - low) if high > low else 1.0 for id_, score in scores.items()}, 0.0
    if high == low:
        return dict.fromkeys(scores, 0.0), -1.0
    mean, deviation = statistics.fmean(scores.values()), statistics.pstdev(scores.values())
    parts = {id_: (score - mean) / deviation for id_, score in scores.items()}
    return parts, min(parts.values())
