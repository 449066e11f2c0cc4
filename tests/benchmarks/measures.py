"""Measures of ranking and of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def ndcg(ranked: Sequence[str], judged: Mapping[str, int], k: int = 10) -> float:
    """Normalised discounted cumulative gain with linear gains."""
    gain = sum(judged.get(item, 0) / np.log2(place + 2) for place, item in enumerate(ranked[:k]))
    ideal = sum(grade / np.log2(place + 2) for place, grade in enumerate(sorted(judged.values(), reverse=True)[:k]))
    return float(gain / ideal) if ideal else 0.0


def recall(ranked: Sequence[str], judged: Mapping[str, int], k: int) -> float:
    """The share of relevant items among the first k."""
    return len(set(ranked[:k]) & set(judged)) / len(judged) if judged else 0.0


def reciprocal_rank(ranked: Sequence[str], judged: Mapping[str, int], k: int = 10) -> float:
    """One over the rank of the first relevant item, 0 without one."""
    return next((1.0 / place for place, item in enumerate(ranked[:k], 1) if item in judged), 0.0)


def paired_interval(better: Sequence[float], other: Sequence[float], *, draws: int = 2000) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean difference over the same queries."""
    difference = np.asarray(better) - np.asarray(other)
    rng = np.random.default_rng(1)
    means = rng.choice(difference, (draws, len(difference))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds."""
    values: NDArray[np.float64] = np.asarray(seconds) * 1e3
    return {f"p{part}": float(np.percentile(values, part)) for part in (50, 95, 99)}
