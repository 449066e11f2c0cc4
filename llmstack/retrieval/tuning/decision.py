"""From what both legs returned for judged queries to the settings of a corpus, with the evidence."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from .measures import (
    ALPHAS,
    DEFAULT_ALPHA,
    TEXT_GRID,
    Choice,
    Scores,
    TermCounts,
    TextSettings,
    best_of,
    choose,
    fused,
    ndcg,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The settings of a corpus that a calibration chooses; `alpha` None is the default of the fusion."""

    alpha: float | None = None
    k1: float
    b: float
    context_weight: float

    @property
    def text(self) -> TextSettings:
        """The BM25 parameters."""
        return TextSettings(self.k1, self.b, self.context_weight)


@dataclasses.dataclass(frozen=True, slots=True)
class JudgedLegs:
    """What both legs returned for one judged query; `units` maps rows to what they are judged by."""

    relevant: Mapping[Hashable, float]
    units: Mapping[uuid.UUID, Hashable]
    text: Scores
    vector: Scores
    pool: Sequence[TermCounts] = ()

    def by_alpha(self, alphas: Sequence[float], text: Scores | None = None) -> list[float]:
        """The nDCG of the fused ranking for each alpha, with the text leg as it was or another."""
        rankings = fused(self.text if text is None else text, self.vector, alphas)
        return [ndcg(ranked, self.units, self.relevant) for ranked in rankings]


def decide(
    legs: Sequence[JudgedLegs],
    before: Tuning,
    *,
    average_length: float,
    limit: int,
    tune_text: bool,
    standard_errors: float,
) -> tuple[Tuning, dict[str, Any]]:
    """The settings that the queries speak for, and the evidence: first of the text leg, then alpha upon it."""
    evidence: dict[str, Any] = {"queries": len(legs), "measure": "ndcg@10", "standard_errors": standard_errors}
    after, rescored = before, [leg.text for leg in legs]
    alpha = DEFAULT_ALPHA if before.alpha is None else before.alpha
    if tune_text:
        chosen, other = _choose_text(legs, before.text, alpha, average_length, limit, standard_errors)
        evidence["text"] = _evidence(chosen, before.text, name=_name_text)
        after = dataclasses.replace(after, **dataclasses.asdict(chosen.chosen))
        rescored = other[chosen.chosen]
    if any(leg.vector for leg in legs):
        grid = tuple(sorted({*ALPHAS, alpha}))
        rows = [leg.by_alpha(grid, text) for leg, text in zip(legs, rescored, strict=True)]
        scores = {setting: [row[place] for row in rows] for place, setting in enumerate(grid)}
        weight = choose(scores, current=alpha, distance=_from_default, standard_errors=standard_errors)
        evidence["alpha"] = _evidence(weight, alpha, name=lambda value: f"{value:g}")
        if weight.chosen != alpha:
            after = dataclasses.replace(after, alpha=None if weight.chosen == DEFAULT_ALPHA else weight.chosen)
    return after, evidence


def _from_default(alpha: float) -> float:
    return round(abs(alpha - DEFAULT_ALPHA), 6)


def _choose_text(
    legs: Sequence[JudgedLegs],
    current: TextSettings,
    alpha: float,
    average_length: float,
    limit: int,
    standard_errors: float,
) -> tuple[Choice[TextSettings], dict[TextSettings, list[Scores]]]:
    grid = tuple(sorted({*TEXT_GRID, current}))
    texts: dict[TextSettings, list[Scores]] = {current: [leg.text for leg in legs]}
    for setting in grid:
        if setting != current:
            texts[setting] = [best_of(leg.pool, setting, average_length=average_length, limit=limit) for leg in legs]
    scores = {
        setting: [leg.by_alpha((alpha,), text)[0] for leg, text in zip(legs, texts[setting], strict=True)]
        for setting in grid
    }
    choice = choose(
        scores,
        current=current,
        distance=lambda setting: setting.distance,
        standard_errors=standard_errors,
        comparisons=len(grid) - 1,
    )
    return choice, texts


def _name_text(setting: TextSettings) -> str:
    return f"k1={setting.k1:g} b={setting.b:g} context_weight={setting.context_weight:g}"


def _evidence(choice: Choice[Any], current: Any, *, name: Any) -> dict[str, Any]:
    return {
        "current": name(current),
        "best": name(choice.best),
        "chosen": name(choice.chosen),
        "gain": round(choice.gain, 6),
        "standard_error": round(choice.standard_error, 6),
        "needed_standard_errors": round(choice.needed, 3),
        "chosen_gain": round(choice.means[choice.chosen] - choice.means[current], 6),
        "means": {name(setting): round(mean, 6) for setting, mean in choice.means.items()},
    }
