"""litellm, loaded late and quietly, and its list of models without loading it."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

_PRICES = "model_prices_and_context_window_backup.json"


def load_litellm() -> Any:
    """The module litellm, without what it does at a plain import: fetch from the network and print advice.

    The first call takes seconds.
    """
    is_first = "litellm" not in sys.modules
    if is_first:
        # Otherwise the import fetches a price list from the network.
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    # Always as a statement: it waits for the same import in another thread.
    import litellm

    if is_first:
        # Else it prints advice on stdout whenever a provider fails.
        litellm.suppress_debug_info = True
    return litellm


@functools.cache
def embedding_models() -> dict[str, tuple[str | None, int | None]]:
    """Provider and dimensions of the embedding models in litellm's own list, read without importing it."""
    spec = importlib.util.find_spec("litellm")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    files = [Path(folder) / _PRICES for folder in folders if (Path(folder) / _PRICES).is_file()]
    if not files:
        return {}
    entries = json.loads(files[0].read_text("utf-8")).items()
    return {
        name: (entry.get("litellm_provider"), entry.get("output_vector_size"))
        for name, entry in entries
        if entry.get("mode") == "embedding"
    }
