"""Which settings judged queries speak for: arithmetic on the scores of both legs, without a database."""

from __future__ import annotations

import math
import statistics
import uuid
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ...search.columns import CONTEXT_WEIGHT, K1, B
from ...search.fusion import Weighted

DEFAULT_ALPHA = Weighted().alpha
ALPHAS = tuple(step / 10 for step in range(11))
DEPTH = 10
"""Places that count: people look at a first page."""

Setting = TypeVar("Setting", bound=Hashable)
Scores = Mapping[uuid.UUID, float]


@dataclass(frozen=True, slots=True, order=True)
class TextSettings:
    """The BM25 parameters that are chosen together."""

    k1: float = K1
    b: float = B
    context_weight: float = CONTEXT_WEIGHT

    @property
    def distance(self) -> float:
        """How far from the defaults, one for each step of the grid."""
        steps = (self.k1 - K1) / 0.4, (self.b - B) / 0.4, math.log2(max(self.context_weight, 2.0**-9) / CONTEXT_WEIGHT)
        return sum(map(abs, steps))


TEXT_GRID = tuple(
    TextSettings(k1, b, weight) for k1 in (0.9, 1.2, 1.6) for b in (0.0, 0.4, 0.75) for weight in (1.0, 2.0, 4.0)
)


@dataclass(frozen=True, slots=True)
class TermCounts:
    """How often a row holds the query's lexemes: (idf times query frequency, in all, of these in the context).

    What it holds inside of other words alone counts a quarter, and nothing in its length.
    """

    id: uuid.UUID
    length: int
    context_length: int
    terms: tuple[tuple[float, float, float], ...]

    def score(self, settings: TextSettings, average_length: float) -> float:
        """BM25, as `bm25_weights` and the query's weights give it."""
        more = settings.context_weight - 1.0
        share = (self.length + more * self.context_length) / max(average_length, 1.0)
        flattening = settings.k1 * (1.0 - settings.b + settings.b * share)
        total = 0.0
        for weight, frequency, in_context in self.terms:
            counted = frequency + more * in_context
            if counted > 0.0:
                total += weight * counted * (settings.k1 + 1.0) / (counted + flattening)
        return total


def standardised(leg: Scores) -> tuple[dict[uuid.UUID, float], float]:
    """The z-scores of a leg, and what a row absent from it counts; as `Weighted` has it in SQL."""
    if not leg:
        return {}, 0.0
    low, high = min(leg.values()), max(leg.values())
    if not high > low:
        return dict.fromkeys(leg, 0.0), -1.0
    mean = math.fsum(leg.values()) / len(leg)
    deviation = math.sqrt(math.fsum((score - mean) ** 2 for score in leg.values()) / len(leg))
    return {key: (score - mean) / deviation for key, score in leg.items()}, (low - mean) / deviation


def fused(text: Scores, vector: Scores, alphas: Sequence[float]) -> list[list[uuid.UUID]]:
    """For each alpha the rows of both legs, best first, ties by id."""
    (one, one_absent), (other, other_absent) = standardised(text), standardised(vector)
    rows = [(key, one.get(key, one_absent), other.get(key, other_absent)) for key in {*text, *vector}]
    return [
        [key for _, key in sorted((-((1.0 - alpha) * left + alpha * right), key) for key, left, right in rows)]
        for alpha in alphas
    ]


def best_of(rows: Sequence[TermCounts], settings: TextSettings, *, average_length: float, limit: int) -> Scores:
    """The text leg that the rows would make under these settings."""
    scored = sorted((-row.score(settings, average_length), row.id) for row in rows)
    return {key: -score for score, key in scored[:limit]}


def ndcg(ranked: Sequence[uuid.UUID], units: Mapping[uuid.UUID, Hashable], relevant: Mapping[Hashable, float]) -> float:
    """Normalised discounted cumulative gain at 10 with linear gains; what is judged as one counts where it is first."""
    found = list(dict.fromkeys(units[key] for key in ranked[: DEPTH * 20]))[:DEPTH]
    gain = math.fsum(relevant.get(unit, 0.0) / math.log2(place + 2) for place, unit in enumerate(found))
    best = sorted(relevant.values(), reverse=True)[:DEPTH]
    ideal = math.fsum(grade / math.log2(place + 2) for place, grade in enumerate(best))
    return gain / ideal if ideal else 0.0


@dataclass(frozen=True, slots=True)
class Choice(Generic[Setting]):
    """The chosen setting, and what the best gained over the current one: the mean, and its standard error."""

    chosen: Setting
    best: Setting
    gain: float
    standard_error: float
    needed: float
    means: Mapping[Setting, float]


def choose(
    scores: Mapping[Setting, Sequence[float]],
    *,
    current: Setting,
    distance: Callable[[Setting], float],
    standard_errors: float = 1.0,
    comparisons: int = 1,
) -> Choice[Setting]:
    """The setting nearest to the default that is as good as the best; the current one unless the gain is clear.

    `scores` are of the same queries in the same order, two at least. Clear is a mean paired gain above so many of
    its standard errors; as good is a mean paired loss within one. With several `comparisons` more is needed, so that
    all together deceive as seldom as one would.
    """
    means = {setting: statistics.fmean(values) for setting, values in scores.items()}
    best = max(means, key=lambda setting: (means[setting], -distance(setting)))
    gain, error = _paired(scores[best], scores[current])
    needed = stricter(standard_errors, comparisons)
    chosen = current
    if gain > 1e-9 and gain > needed * error:
        near = [setting for setting in scores if _as_good(scores[setting], scores[best])]
        better = [setting for setting in near if means[setting] > means[current]]
        chosen = min(better, key=lambda setting: (distance(setting), -means[setting]))
    return Choice(chosen=chosen, best=best, gain=gain, standard_error=error, needed=needed, means=means)


def stricter(standard_errors: float, comparisons: int) -> float:
    """Standard errors that one of several comparisons passes by chance as seldom as all of them pass the given."""
    if comparisons <= 1:
        return standard_errors
    normal = statistics.NormalDist()
    return -normal.inv_cdf(max(normal.cdf(-standard_errors) / comparisons, 1e-300))


def _as_good(values: Sequence[float], best: Sequence[float]) -> bool:
    loss, error = _paired(best, values)
    return loss <= error


def _paired(values: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """The mean difference over the same queries and its standard error."""
    differences = [value - other for value, other in zip(values, others, strict=True)]
    return statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(len(differences))
