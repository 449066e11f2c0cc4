"""The embedders that llmstack ships, and the one that the settings ask for."""

from __future__ import annotations

from ..errors import MissingExtra
from ..settings import Settings
from .batches import embed_all as embed_all
from .callables import CallableEmbedder as CallableEmbedder
from .litellm import LiteLLMEmbedder as LiteLLMEmbedder
from .local import LocalEmbedder as LocalEmbedder
from .local import local_is_installed
from .protocol import Embedder as Embedder
from .protocol import Kind as Kind


def default_embedder(settings: Settings) -> Embedder | None:
    """The embedder that the settings name; without a name the local one, if its package is installed."""
    if settings.embedder is None:
        return LocalEmbedder() if local_is_installed() else None
    if settings.embedder == "none":
        return None
    if settings.embedder == "local":
        if not local_is_installed():
            raise MissingExtra(feature="the local embedder", extra="local")
        return LocalEmbedder()
    return LiteLLMEmbedder(
        settings.embedder, dimensions=settings.embedding_dimensions, timeout=settings.embedding_timeout
    )
