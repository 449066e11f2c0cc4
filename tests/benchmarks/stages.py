"""What each optional stage does to the ranking: one row each, against the hybrid search without it."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import func, update

from llmstack import LLMStack
from llmstack.documents import ChunkingConfig, Document, DocumentInput
from llmstack.embeddings import LocalEmbedder
from llmstack.retrieval import CallableReranker, KeywordExpander, Recency

from .corpora import Given
from .measures import ndcg, paired_interval, recall
from .quality import OWNER, Collection, _text, _vectors

DEPTH, PAGE = 100, 10
PIECE, PARENT = 64, 256
"""Tokens of a passage and of its parent where documents are cut up."""

Ranked = list[list[str]]
Stages = Mapping[str, Mapping[str, Any]]


async def measure(url: str, collection: Collection) -> list[dict[str, Any]]:
    """Rows of the table of stages; the schemas of the quality table must be there.

    Wordings have no vector among those given, so they are measured with the local embedder.
    """
    given = Given(name=f"benchmark/{collection.name}", vectors=_vectors(collection))
    whole = DocumentStages(url, collection, schema=f"quality_{collection.name}")
    local = DocumentStages(url, collection, schema=f"quality_{collection.name}_local")
    await whole.date_at_random(given)
    return [
        *await whole.rows(given, GIVEN),
        *await local.rows(LocalEmbedder(), LOCAL),
        *await _passages(url, collection),
    ]


async def _passages(url: str, collection: Collection) -> list[dict[str, Any]]:
    cut = DocumentStages(url, collection, schema=f"passages_{collection.name}", limit=PAGE)
    await cut.ingest(LocalEmbedder())
    stages: Stages = {
        "passages, hybrid": {},
        "passages, one hit a document": {"group_by": "document"},
        "passages, parents": {"group_by": "parent"},
        "passages, diversity 0.3": {"diversity": 0.3},
    }
    return await cut.rows(LocalEmbedder(), stages)


class DocumentStages:
    """One collection in one schema, searched with each stage; `limit` hits are judged, each document once."""

    def __init__(self, url: str, collection: Collection, *, schema: str, limit: int = DEPTH) -> None:
        self._url = url
        self._limit = limit
        self._collection = collection
        self._schema = schema

    async def ingest(self, embedder: Any) -> None:
        """Store the documents cut into small passages with parents."""
        config = ChunkingConfig(chunk_size=PIECE, parent_size=PARENT, overlap=0)
        inputs = [
            DocumentInput(owner_id=OWNER, id_at_origin=document["id"], document_name=document["id"],
                          content=_text(document), document_type="text", chunking_config=config)
            for document in self._collection.documents
        ]  # fmt: skip
        async with LLMStack.open(self._url, schema=self._schema, embedder=embedder) as stack:
            async for added in stack.documents.add_many(inputs):
                assert added.error is None, added.error
            await stack.documents.settle()
            await stack.documents.refresh_statistics()

    async def date_at_random(self, embedder: Any) -> None:
        """Give the documents, which have no dates, such of the last two years that tell nothing of their worth."""
        day = func.abs(func.hashtext(Document.id_at_origin)) % 730
        dated = update(Document).values(document_date=func.now() - func.make_interval(0, 0, 0, day))
        async with (
            LLMStack.open(self._url, schema=self._schema, embedder=embedder) as stack,
            stack.service.session() as session,
        ):
            await session.execute(dated, execution_options={"synchronize_session": False})
            await session.commit()

    async def rows(self, embedder: Any, stages: Stages) -> list[dict[str, Any]]:
        """A row for each stage; the first is what the others are compared with."""
        async with LLMStack.open(self._url, schema=self._schema, embedder=embedder) as stack:
            runs = {name: await self._run(stack, asked) for name, asked in stages.items()}
        base = next(iter(runs.values()))
        return [self._row(name, ranked, base) for name, ranked in runs.items()]

    async def _run(self, stack: LLMStack, asked: Mapping[str, Any]) -> Ranked:
        ranked = []
        for query in self._collection.queries:
            hits = await stack.documents.search(
                owner_id=OWNER, query=query["text"], mode="hybrid", limit=self._limit, operators=False, **asked
            )
            ranked.append(list(dict.fromkeys(hit.id_at_origin for hit in hits)))
        return ranked

    def _row(self, name: str, ranked: Ranked, base: Ranked) -> dict[str, Any]:
        judgements = [self._collection.judged[query["id"]] for query in self._collection.queries]
        scores, plain = (
            [ndcg(items, judged) for items, judged in zip(run, judgements, strict=True)] for run in (ranked, base)
        )
        low, high = paired_interval(scores, plain)
        return {
            "collection": self._collection.name,
            "stage": name,
            "hits": self._limit,
            "ndcg@10": float(np.mean(scores)),
            "recall": float(np.mean([recall(i, j, self._limit) for i, j in zip(ranked, judgements, strict=True)])),
            "documents": float(np.mean([len(items) for items in ranked])),
            "difference": float(np.mean(scores) - np.mean(plain)),
            "interval": (low, high),
            "earns its place": "" if ranked is base else _verdict(low, high),
        }


def _verdict(low: float, high: float) -> str:
    if low > 0:
        return "yes"
    return "no, it costs" if high < 0 else "no difference shown"


@functools.cache
def _local() -> Any:
    from llmstack.embeddings.local import _load

    return _load()


def _cosine(query: str, passages: list[str]) -> list[float]:
    vectors = _local().embed([query, *passages], norm=True)
    return [float(value) for value in vectors[1:] @ vectors[0]]


def _late(query: str, passages: list[str]) -> list[float]:
    """The mean over the query's words of their best likeness to a word of the passage."""
    words = _words(query)
    return [float((words @ _words(passage).T).max(axis=1).mean()) for passage in passages]


@functools.lru_cache(maxsize=20_000)
def _words(text: str) -> Any:
    parts: Sequence[str] = text.lower().split()[:200] or ["-"]
    vectors = _vocabulary(parts)
    return vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-9)


_VECTORS: dict[str, Any] = {}


def _vocabulary(words: Sequence[str]) -> Any:
    unknown = sorted({word for word in words if word not in _VECTORS})
    if unknown:
        _VECTORS.update(zip(unknown, _local().embed(unknown), strict=True))
    return np.stack([_VECTORS[word] for word in words])


GIVEN: Stages = {
    "hybrid, given vectors": {},
    "reranker: local model, cosine": {"reranker": CallableReranker(_cosine), "candidates": 50},
    "reranker: local model, late interaction": {"reranker": CallableReranker(_late), "candidates": 50},
    "diversity 0.1": {"diversity": 0.1},
    "diversity 0.3": {"diversity": 0.3},
    "minimum score 0": {"min_score": 0.0},
    "candidates 300": {"candidates": 300},
    "recency of 90 days, dates at random": {"recency": Recency(half_life=dt.timedelta(days=90))},
}
LOCAL: Stages = {"hybrid, local embedder": {}, "wordings: keywords and sentences": {"expand": KeywordExpander()}}
