"""The hits of two corpora as one list: what each leg found is compared as if they were one corpus."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace

from ..search import Weighted
from .hits import Hit, SearchHits
from .request import Search, Where


def merged(
    first: SearchHits[Hit],
    second: SearchHits[Hit],
    search: Search[Where],
    *,
    group: Callable[[Hit], Hashable] | None = None,
) -> SearchHits[Hit]:
    """The best of both for a search that both answered, best first; ties by id. Of a `group` the best stands for all.

    The legs of one space and one formula are comparable across corpora: their scores are standardised over both, as
    `Weighted` does within one. Where something else orders (a reranker, age, another fusion, other wordings) the scores
    are as they were.
    """
    hits = [*first, *second]
    if first and second and not first.reranked and _is_plain(search):
        hits = _standardised(hits, (search.fusion or Weighted()).shares)
    hits.sort(key=lambda hit: (-hit.score, hit.id))
    if group is not None:
        hits = _best_of_each(hits, group)
    found = SearchHits(
        hits[: search.limit],
        mode=first.mode,
        vector_path=first.vector_path or second.vector_path,
        reranked=first.reranked,
        explanation=first.explanation,
    )
    found.search_id = first.search_id
    return found


def _is_plain(search: Search[Where]) -> bool:
    return search.recency is None and search.expand is None and isinstance(search.fusion or Weighted(), Weighted)


def _standardised(hits: Sequence[Hit], shares: tuple[float, float]) -> list[Hit]:
    parts = [
        [share * score for score in _z_scores([hit.legs[leg].score if leg in hit.legs else None for hit in hits])]
        for leg, share in zip(("text", "vector"), shares, strict=True)
        if any(leg in hit.legs for hit in hits)
    ]
    scores = [sum(of_legs) for of_legs in zip(*parts, strict=True)]
    return [replace(hit, score=score, fused_score=score) for hit, score in zip(hits, scores, strict=True)]


def _z_scores(given: Sequence[float | None]) -> list[float]:
    """What a leg did not find has its lowest, and less where all that it found are equal."""
    found = [score for score in given if score is not None]
    mean, lowest = sum(found) / len(found), min(found)
    deviation = math.sqrt(sum((score - mean) ** 2 for score in found) / len(found))
    if max(found) == lowest or not deviation:
        return [-1.0 if score is None else 0.0 for score in given]
    return [((lowest if score is None else score) - mean) / deviation for score in given]


def _best_of_each(hits: Iterable[Hit], group: Callable[[Hit], Hashable]) -> list[Hit]:
    """The first of each group, in their order; it stands for what the others stood for."""
    best: dict[Hashable, Hit] = {}
    for hit in hits:
        known = best.get(group(hit))
        best[group(hit)] = hit if known is None else replace(known, passages=known.passages + hit.passages)
    return list(best.values())
