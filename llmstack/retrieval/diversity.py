"""Maximal marginal relevance: the next hit is relevant and unlike those before it (Carbonell and Goldstein 1998)."""

from __future__ import annotations

from collections.abc import Sequence


def maximal_marginal_relevance(
    scores: Sequence[float], similarities: Sequence[Sequence[float]], *, diversity: float, limit: int
) -> list[int]:
    """Places of the chosen items, in order: each has the most of (1 - diversity) * relevance - diversity * likeness.

    Relevance is the score as a share of the range of all scores; likeness is the greatest similarity to an item
    chosen before. Of equals the earlier place is taken.
    """
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    relevance = [(score - low) / (high - low) if high > low else 1.0 for score in scores]
    likeness = [0.0] * len(scores)
    left = list(range(len(scores)))
    chosen: list[int] = []
    while left and len(chosen) < limit:
        best = max(left, key=lambda place: ((1.0 - diversity) * relevance[place] - diversity * likeness[place], -place))
        left.remove(best)
        chosen.append(best)
        for place in left:
            alike = similarities[best][place]
            likeness[place] = max(likeness[place], alike) if len(chosen) > 1 else alike
    return chosen
