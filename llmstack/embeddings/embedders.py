"""The embedders that llmstack ships, and the one that the settings ask for."""

from __future__ import annotations

from ..errors import ConfigurationError, MissingExtra
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
    return named_embedder(settings.embedder, settings, dimensions=settings.embedding_dimensions)


def other_embedders(settings: Settings) -> list[Embedder]:
    """The further embedders that the settings name, as `local` or a litellm model, with `=512` for its dimensions."""
    names = [name.strip() for name in (settings.other_embedders or "").split(",")]
    return [named_embedder(name, settings) for name in names if name]


def named_embedder(name: str, settings: Settings, *, dimensions: int | None = None) -> Embedder:
    """The embedder of this name; `model=512` asks for other dimensions than the model's own."""
    if name == "none":
        raise ConfigurationError("`none` is no embedder; leave it out of the other embedders")
    if name == "local":
        if not local_is_installed():
            raise MissingExtra(feature="the local embedder", extra="local")
        return LocalEmbedder()
    model, separator, asked = name.rpartition("=")
    if separator and not asked.isdecimal():
        raise ConfigurationError(f"embedder {name!r}: dimensions follow the model's name as `=512`, not as `={asked}`")
    return LiteLLMEmbedder(
        model if separator else name,
        dimensions=int(asked) if separator else dimensions,
        timeout=settings.embedding_timeout,
    )
