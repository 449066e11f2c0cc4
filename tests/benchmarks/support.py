"""What the parts share: settings, and who owns which passage of a synthetic corpus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstack.settings import Settings

from .corpora import Corpus, Floats, Passage

LIMIT = 10
OWNER, SMALL_OWNER = "owner-0", "owner-small"
_BLOCK = 50_000

Places = NDArray[np.int64]


def settings() -> Settings:
    """Defaults, whatever the environment says, without a limit on building indexes."""
    return Settings(statement_timeout=0)


def metadata_of(place: int) -> dict[str, Any]:
    """A field with a hundred values, each as frequent as the others and unrelated to the text."""
    return {"hundredth": place // 10 % 100}


def dealt(owners: int) -> str:
    """SQL for the owner of a document among many; one in a thousand belongs to a small owner."""
    return (
        f"CASE WHEN id_at_origin::int % 1000 = 999 THEN '{SMALL_OWNER}' "
        f"ELSE 'owner-' || id_at_origin::int % {owners} END"
    )


def places_of(owner: str, owners: int, count: int) -> Places:
    """The passages of an owner, as `dealt` deals them."""
    places: Places = np.arange(count)
    if owners == 1:
        return places
    if owner == SMALL_OWNER:
        mine = places % 1000 == 999
    else:
        mine = (places % owners == int(owner.removeprefix("owner-"))) & (places % 1000 != 999)
    return np.flatnonzero(mine)


def owner_of(query: Passage, owners: int) -> str:
    """Queries go to the owners in turn."""
    return f"owner-{query.number % owners}"


def recall(corpus: Corpus, vector: Floats, places: Places, found: Sequence[int]) -> float:
    """The share of the true nearest of these passages that was found, by an exact scan; ties count as found."""
    most = min(LIMIT, len(places))
    if not most:
        return 1.0
    nearness = np.concatenate([
        _nearness(corpus, vector, places[start : start + _BLOCK]) for start in range(0, len(places), _BLOCK)
    ])  # fmt: skip
    least = np.partition(nearness, -most)[-most]
    near = set(places[nearness >= least - 1e-6].tolist())
    return min(len(near.intersection(found)), most) / most


def _nearness(corpus: Corpus, vector: Floats, places: Places) -> Floats:
    stored = corpus.vectors[places].astype(np.float32)
    near: Floats = stored @ vector / np.linalg.norm(stored, axis=1)
    return near
