"""Quality: nDCG, recall and reciprocal rank on judged collections, beside reference rankers of the same run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstack import LLMStack
from llmstack.documents import DocumentInput
from llmstack.embeddings import Embedder, LocalEmbedder
from llmstack.search import RRF, Weighted
from llmstack.search.fusion import Fusion

from .corpora import Given
from .measures import ndcg, paired_interval, recall, reciprocal_rank

DEPTH = 100
OWNER = "benchmark"


@dataclass(frozen=True)
class Collection:
    """A judged collection with the vectors given for it."""

    name: str
    documents: list[dict[str, str]]
    queries: list[dict[str, str]]
    judged: dict[str, dict[str, int]]
    document_vectors: NDArray[np.float32]
    query_vectors: NDArray[np.float32]


def collections(folder: Path) -> list[Collection]:
    """Every collection in the folder; an empty list where there is none."""
    return (
        [_read(path) for path in sorted(folder.iterdir()) if (path / "qrels.tsv").exists()] if folder.is_dir() else []
    )


def _read(path: Path) -> Collection:
    def rows(name: str) -> list[dict[str, str]]:
        return [json.loads(line) for line in (path / name).read_text().splitlines()]

    judged: dict[str, dict[str, int]] = {}
    for line in (path / "qrels.tsv").read_text().splitlines()[1:]:
        query, document, grade = line.split("\t")
        if int(grade) > 0:
            judged.setdefault(query, {})[document] = int(grade)
    queries, vectors = rows("queries.jsonl"), np.load(path / "queries_emb.npy").astype(np.float32)
    kept = [place for place, query in enumerate(queries) if query["id"] in judged]
    return Collection(
        name=path.name,
        documents=rows("corpus.jsonl"),
        queries=[queries[place] for place in kept],
        judged=judged,
        document_vectors=np.load(path / "corpus_emb.npy").astype(np.float32),
        query_vectors=vectors[kept],
    )


def _text(document: Mapping[str, str]) -> str:
    return (document.get("title", "") + " " + document["text"]).replace("\x00", "").strip() or "-"


Runs = dict[str, list[list[str]]]


async def measure(url: str, collection: Collection) -> list[dict[str, Any]]:
    """Rows of the quality table for one collection."""
    runs = reference(collection)
    given = Given(name=f"benchmark/{collection.name}", vectors=_vectors(collection))
    runs.update(await _stack_runs(url, collection, given, schema=f"quality_{collection.name}", label="given vectors"))
    runs.update(
        await _stack_runs(
            url,
            collection,
            LocalEmbedder(),
            schema=f"quality_{collection.name}_local",
            label="local embedder",
        )
    )
    return [_row(collection, name, ranked, runs) for name, ranked in runs.items()]


def _vectors(collection: Collection) -> dict[str, NDArray[np.float32]]:
    texts = [*map(_text, collection.documents), *(query["text"] for query in collection.queries)]
    return dict(zip(texts, [*collection.document_vectors, *collection.query_vectors], strict=True))


def _row(collection: Collection, name: str, ranked: list[list[str]], runs: Runs) -> dict[str, Any]:
    judgements = [collection.judged[query["id"]] for query in collection.queries]
    scores = [ndcg(items, judged) for items, judged in zip(ranked, judgements, strict=True)]
    row: dict[str, Any] = {
        "collection": collection.name,
        "run": name,
        "ndcg@10": float(np.mean(scores)),
        "r@10": float(np.mean([recall(i, j, 10) for i, j in zip(ranked, judgements, strict=True)])),
        "r@100": float(np.mean([recall(i, j, 100) for i, j in zip(ranked, judgements, strict=True)])),
        "mrr@10": float(np.mean([reciprocal_rank(i, j) for i, j in zip(ranked, judgements, strict=True)])),
    }
    if (other := _counterpart(name)) in runs:
        theirs = [ndcg(items, judged) for items, judged in zip(runs[other], judgements, strict=True)]
        row["against"] = other
        row["difference"] = float(np.mean(scores) - np.mean(theirs))
        row["interval"] = paired_interval(scores, theirs)
    return row


def _counterpart(name: str) -> str:
    """What a run is compared with: hybrids with the text leg of their own, legs with the reference."""
    if name.startswith("reference"):
        return ""
    mode, _, label = name.partition(", ")
    if mode == "text":
        return "reference: bm25s"
    if mode == "vector":
        return "reference: exact cosine" if label == "given vectors" else ""
    return "reference: weighted fusion" if mode == "hybrid" and label == "given vectors" else f"hybrid, {label}"


def reference(collection: Collection) -> Runs:
    """BM25 by a library, exact cosine by numpy, and their fusion by averaged z-scores."""
    import bm25s

    texts = [_text(document) for document in collection.documents]
    retriever = bm25s.BM25(k1=1.2, b=0.75)
    retriever.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    asked = bm25s.tokenize([query["text"] for query in collection.queries], stopwords="en", show_progress=False)
    places, values = retriever.retrieve(asked, k=min(DEPTH, len(texts)), show_progress=False)
    cosine = collection.query_vectors @ collection.document_vectors.T
    ids = [document["id"] for document in collection.documents]
    lexical = [
        dict(zip(map(int, row), map(float, score), strict=True)) for row, score in zip(places, values, strict=True)
    ]
    dense = [{int(place): float(row[place]) for place in np.argsort(-row)[:DEPTH]} for row in cosine]
    fused = [_fuse(one, other) for one, other in zip(lexical, dense, strict=True)]
    return {
        name: [[ids[place] for place in sorted(leg, key=lambda item: -leg[item])] for leg in legs]
        for name, legs in (
            ("reference: bm25s", lexical),
            ("reference: exact cosine", dense),
            ("reference: weighted fusion", fused),
        )
    }


def _fuse(one: dict[int, float], other: dict[int, float]) -> dict[int, float]:
    legs = []
    for leg in (one, other):
        values = np.fromiter(leg.values(), float)
        deviation = values.std() or 1.0
        legs.append(
            (
                {key: (value - values.mean()) / deviation for key, value in leg.items()},
                (values.min() - values.mean()) / deviation,
            )
        )
    return {key: sum(leg.get(key, low) for leg, low in legs) / 2 for key in set(one) | set(other)}


async def _stack_runs(url: str, collection: Collection, embedder: Embedder, *, schema: str, label: str) -> Runs:
    async with LLMStack.open(url, schema=schema, embedder=embedder) as stack:
        inputs = [
            DocumentInput(owner_id=OWNER, id_at_origin=document["id"], document_name=document["id"],
                          content=_text(document), document_type="text", chunking="none")
            for document in collection.documents
        ]  # fmt: skip
        async for added in stack.documents.add_many(inputs):
            assert added.error is None, added.error
        # As at a user's: small corpora weigh themselves anew where their texts are of another length than assumed.
        await stack.documents.settle()
        await stack.documents.refresh_statistics()
        settings: Sequence[tuple[str, str, Fusion | None]] = (
            ("text", "text", None),
            ("vector", "vector", None),
            ("hybrid", "hybrid", None),
            ("hybrid min-max", "hybrid", Weighted(normalize="minmax")),
            ("hybrid RRF", "hybrid", RRF()),
        )
        return {
            f"{name}, {label}": [
                [hit.id_at_origin for hit in await stack.documents.search(
                    owner_id=OWNER, query=query["text"], mode=mode, fusion=fusion, limit=DEPTH, operators=False)]  # type: ignore[arg-type]
                for query in collection.queries
            ]
            for name, mode, fusion in settings
        }  # fmt: skip
