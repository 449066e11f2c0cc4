"""The embedder that needs no network: wordllama, whose weights come with its package."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import MissingExtra
from ..providers.threads import in_thread
from .protocol import Kind

_READ_CHARACTERS = 32_768
_PADDED_CHARACTERS = 262_144
_TEXTS = 64
_loading = threading.Lock()


def local_is_installed() -> bool:
    """Whether the local embedder can be loaded."""
    return importlib.util.find_spec("wordllama") is not None


class LocalEmbedder:
    """wordllama's 256 dimensions; reads the first 32,768 characters of a text."""

    name = "local/wordllama-256"
    provider = "local"
    model = "wordllama-256"
    dimensions = 256

    async def embed(self, texts: Sequence[str], *, kind: Kind = "document") -> list[list[float]]:
        """Embed in a thread; the first call of the process loads the model."""
        return await in_thread(_embed, list(texts))

    def __repr__(self) -> str:
        return "LocalEmbedder()"


def _embed(texts: list[str]) -> list[list[float]]:
    heads = [text[:_READ_CHARACTERS] for text in texts]
    # The model pads a batch to its longest text, and a token takes a kilobyte.
    longest = max(map(len, heads), default=1) or 1
    size = max(1, min(_TEXTS, _PADDED_CHARACTERS // longest))
    vectors: list[list[float]] = _model().embed(heads, batch_size=size).tolist()
    return vectors


def _model() -> Any:
    with _loading:
        return _load()


@functools.cache
def _load() -> Any:
    if not local_is_installed():
        raise MissingExtra(feature="the local embedder", extra="local")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        wordllama = importlib.import_module("wordllama")
    finally:
        # wordllama configures the root logger when it is imported, and that is the application's to do.
        root.handlers[:] = handlers
        root.setLevel(level)
    folder = Path(str(wordllama.__file__)).parent
    return wordllama.WordLlama.load(cache_dir=folder, disable_download=True)
