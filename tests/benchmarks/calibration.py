"""What calibrating by judged queries gains: drawn, chosen, and evaluated on the queries that were not drawn."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from llmstack import LLMStack
from llmstack.documents import DocumentInput
from llmstack.embeddings import Embedder, LocalEmbedder
from llmstack.retrieval import JudgedQuery
from llmstack.retrieval.tuning.decision import JudgedLegs, Tuning, decide
from llmstack.retrieval.tuning.measures import TEXT_GRID, best_of

from .corpora import Given
from .quality import OWNER, Collection, _text, _vectors

DRAWS, JUDGED = 100, 50


async def measure(url: str, collection: Collection, *, draws: int = DRAWS) -> list[dict[str, Any]]:
    """Mean nDCG@10 of queries that were not judged, before and after a calibration by those that were.

    With the vectors given for the collection the legs are alike; with the local embedder's the words tell more.
    """
    given = Given(name=f"calibration/{collection.name}", vectors=_by_text(collection))
    alike, average_length = await _one_pass(url, collection, given, schema=f"calibration_{collection.name}")
    unlike, _ = await _one_pass(
        url, collection, LocalEmbedder(), schema=f"calibration_{collection.name}_local", tune_text=False
    )
    rows = await asyncio.to_thread(_rows, collection.name, alike, average_length, draws)
    local = await asyncio.to_thread(_alpha_rows, f"{collection.name}, local embedder", unlike, average_length, draws)
    return [*rows, *local]


async def _one_pass(
    url: str, collection: Collection, embedder: Embedder, *, schema: str, tune_text: bool = True
) -> tuple[list[JudgedLegs], float]:
    async with LLMStack.open(url, schema=schema, embedder=embedder) as stack:
        inputs = [
            DocumentInput(owner_id=OWNER, id_at_origin=document["id"], content=_content(document),
                          document_name=document.get("title") or document["id"], document_type="text",
                          chunking="none")
            for document in collection.documents
        ]  # fmt: skip
        async for added in stack.documents.add_many(inputs):
            assert added.error is None, added.error
        await stack.documents.refresh_statistics()
        await stack.documents.reweigh()
        judged = [
            JudgedQuery(owner_id=OWNER, query=query["text"], relevant=dict(collection.judged[query["id"]].items()),
                        operators=False)
            for query in collection.queries
        ]  # fmt: skip
        calibrator = stack.documents._calibrator
        _, average_length = await calibrator._current()
        return await calibrator.legs(judged, tune_text=tune_text), average_length


def _content(document: dict[str, str]) -> str:
    return document["text"].replace("\x00", "").strip() or document.get("title") or "-"


def _by_text(collection: Collection) -> dict[str, Any]:
    """The given vectors under the text that is embedded here: the title stands apart."""
    vectors = _vectors(collection)
    return vectors | {_content(document): vectors[_text(document)] for document in collection.documents}


def _rows(name: str, legs: Sequence[JudgedLegs], average_length: float, draws: int) -> list[dict[str, Any]]:
    rows = [*_text_rows(name, legs, average_length), *_alpha_rows(name, legs, average_length, draws)]
    for size in _sizes(legs):
        # Each of these takes seconds.
        rows.append(_drawn(name, legs, average_length, size=size, draws=max(draws // 5, 1), tune_text=True))
    return rows


def _alpha_rows(name: str, legs: Sequence[JudgedLegs], average_length: float, draws: int) -> list[dict[str, Any]]:
    return [_drawn(name, legs, average_length, size=size, draws=draws, tune_text=False) for size in _sizes(legs)]


def _sizes(legs: Sequence[JudgedLegs]) -> list[int]:
    return list(dict.fromkeys(size for size in (20, JUDGED, len(legs) * 3 // 5) if size < len(legs) * 4 // 5))


def _drawn(
    name: str, legs: Sequence[JudgedLegs], average_length: float, *, size: int, draws: int, tune_text: bool
) -> dict[str, Any]:
    before = Tuning(k1=1.2, b=0.75, context_weight=1.0)
    rng = np.random.default_rng(3)
    defaults, gains, alphas = [], [], []
    for _ in range(draws):
        order = rng.permutation(len(legs))
        judged, rest = [legs[place] for place in order[:size]], [legs[place] for place in order[size:]]
        after, _ = decide(
            judged, before, average_length=average_length, limit=100, tune_text=tune_text, standard_errors=1.0
        )
        default, chosen = _quality(rest, before, average_length), _quality(rest, after, average_length)
        defaults.append(default)
        gains.append(chosen - default)
        alphas.append(0.5 if after.alpha is None else after.alpha)
    return {
        "collection": name,
        "tuned": "alpha and text" if tune_text else "alpha",
        "judged": size,
        "draws": draws,
        "ndcg@10 before": float(np.mean(defaults)),
        "gain": float(np.mean(gains)),
        "worst draw": float(np.min(gains)),
        "mean alpha": float(np.mean(alphas)),
    }


def _quality(legs: Sequence[JudgedLegs], tuning: Tuning, average_length: float) -> float:
    alpha = 0.5 if tuning.alpha is None else tuning.alpha
    changed = tuning.text != Tuning(k1=1.2, b=0.75, context_weight=1.0).text
    scores = [
        leg.by_alpha(
            (alpha,),
            best_of(leg.pool, tuning.text, average_length=average_length, limit=100) if changed else None,
        )[0]
        for leg in legs
    ]
    return float(np.mean(scores))


def _text_rows(name: str, legs: Sequence[JudgedLegs], average_length: float) -> list[dict[str, Any]]:
    """Each setting of the text leg, alone and fused by halves."""
    rows = []
    for setting in TEXT_GRID:
        texts = [best_of(leg.pool, setting, average_length=average_length, limit=100) for leg in legs]
        scores = np.array([leg.by_alpha((0.0, 0.5), text) for leg, text in zip(legs, texts, strict=True)])
        rows.append(
            {
                "collection": name,
                "setting": f"k1={setting.k1:g} b={setting.b:g} context_weight={setting.context_weight:g}",
                "text ndcg@10": float(scores[:, 0].mean()),
                "hybrid ndcg@10": float(scores[:, 1].mean()),
            }
        )
    return rows
