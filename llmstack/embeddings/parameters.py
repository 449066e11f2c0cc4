"""How an approximate index is built: presets, and the parameters that pgvector takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..errors import ConfigurationError
from .models import INDEX_METHODS


@dataclass(frozen=True)
class Preset:
    """An HNSW graph: links of a node, and the breadth of its building."""

    m: int
    ef_construction: int


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "fast": Preset(m=8, ef_construction=32),
        "balanced": Preset(m=16, ef_construction=128),
        "accurate": Preset(m=24, ef_construction=200),
    }
)

_BOUNDS: Mapping[str, Mapping[str, tuple[int, int]]] = MappingProxyType(
    {
        "hnsw": {"m": (2, 100), "ef_construction": (4, 1000)},
        "ivfflat": {"lists": (1, 32_768)},
        "none": {},
    }
)


def index_parameters(method: str, given: str | Mapping[str, Any] | None = None) -> dict[str, int]:
    """The parameters of a space's index: those of a preset of HNSW, or those given, checked.

    What is not given is chosen when the index is built: the preset `balanced`, and lists by the number of rows.
    """
    if method not in INDEX_METHODS:
        raise ConfigurationError(f"index method {method!r} is unknown; use one of {', '.join(INDEX_METHODS)}")
    if isinstance(given, str):
        return _of_preset(method, given)
    found = dict(given or {})
    if fault := fault_of_parameters(method, found):
        raise ConfigurationError(fault)
    return found


def _of_preset(method: str, name: str) -> dict[str, int]:
    if method != "hnsw":
        raise ConfigurationError(f"presets are those of hnsw; {method} has none, so {name!r} cannot be one")
    if name not in PRESETS:
        raise ConfigurationError(f"preset {name!r} is unknown; use one of {', '.join(PRESETS)}")
    return {"m": PRESETS[name].m, "ef_construction": PRESETS[name].ef_construction}


def complete(method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with what the method takes where nothing is given; the lists of IVFFlat are not among them."""
    return {**(_of_preset("hnsw", "balanced") if method == "hnsw" else {}), **given}


def fault_of_parameters(method: str, given: Mapping[str, Any]) -> str | None:
    """What is wrong with the parameters of an index method, or None."""
    bounds = _BOUNDS[method]
    if unknown := sorted(map(str, set(given) - set(bounds))):
        return f"{method} has no parameter {', '.join(unknown)}; it takes {', '.join(bounds) or 'none'}"
    for name, value in given.items():
        least, most = bounds[name]
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            return f"{name} of {method} must be a whole number from {least} to {most}, not {value!r:.60}"
    values = complete(method, given)
    if method == "hnsw" and values["ef_construction"] < 2 * values["m"]:
        return (
            f"ef_construction must be at least twice m, and {values['ef_construction']} is less than "
            f"2 * {values['m']}; raise ef_construction or lower m"
        )
    return None
