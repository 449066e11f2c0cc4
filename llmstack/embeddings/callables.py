"""Any function as an embedder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import ConfigurationError
from ..providers.threads import call
from .protocol import Kind
from .vectors import as_vectors


class CallableEmbedder:
    """A function from a list of texts to as many vectors; a blocking one runs in a thread."""

    provider = "callable"

    def __init__(self, fn: Callable[[list[str]], Any], *, name: str, dimensions: int) -> None:
        if not callable(fn):
            raise ConfigurationError("CallableEmbedder needs a function that takes a list of texts")
        if dimensions < 1:
            raise ConfigurationError(f"dimensions is {dimensions}; give the length of the function's vectors")
        self._fn = fn
        self.name = self.model = name
        self.dimensions = dimensions

    async def embed(self, texts: Sequence[str], *, kind: Kind = "document") -> list[list[float]]:
        """Call the function once; documents and queries alike."""
        return as_vectors(await call(self._fn, list(texts)))

    def __repr__(self) -> str:
        return f"CallableEmbedder(name={self.name!r}, dimensions={self.dimensions})"
