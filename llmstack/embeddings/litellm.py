"""Embeddings of any provider that litellm knows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import tenacity
from pydantic import SecretStr

from ..errors import ConfigurationError, EmbeddingError
from ..providers.failures import describe
from ..providers.litellm import embedding_models, load_litellm
from .protocol import Kind

_ATTEMPTS = 3
_RETRIED = (
    "RateLimitError",
    "APIConnectionError",
    "InternalServerError",
    "ServiceUnavailableError",
    "BadGatewayError",
    "Timeout",
)
_KINDS: Mapping[str, Mapping[Kind, Mapping[str, str]]] = {
    "cohere": {"document": {"input_type": "search_document"}, "query": {"input_type": "search_query"}},
    "voyage": {"document": {"input_type": "document"}, "query": {"input_type": "query"}},
}


class LiteLLMEmbedder:
    """A provider's model through litellm, such as `openai/text-embedding-3-small`.

    Dimensions that litellm does not list are 0 until the first call. Rate limits and broken connections
    are met with `attempts` calls, at growing pauses and of at most two requests each. Further `options`
    go to every call.
    """

    def __init__(
        self,
        model: str,
        *,
        dimensions: int | None = None,
        name: str | None = None,
        api_key: str | SecretStr | None = None,
        api_base: str | None = None,
        timeout: float = 60.0,
        attempts: int = _ATTEMPTS,
        **options: Any,
    ) -> None:
        if dimensions is not None and dimensions < 1:
            raise ConfigurationError(f"dimensions is {dimensions}; leave it out to take the model's own")
        self.model = model
        self.name = name or model
        prefix, _, bare = model.rpartition("/")
        listed = embedding_models().get(model) or embedding_models().get(bare) or (None, None)
        self.provider = prefix.partition("/")[0] or listed[0] or "litellm"
        self.dimensions = dimensions or listed[1] or 0
        self._asked = dimensions if dimensions != listed[1] else None
        self._key = api_key if isinstance(api_key, SecretStr) or api_key is None else SecretStr(api_key)
        self._attempts = attempts
        self._options = {"timeout": timeout, "api_base": api_base, **options}

    async def embed(self, texts: Sequence[str], *, kind: Kind = "document") -> list[list[float]]:
        """Call the provider once, and again when it was busy or out of reach."""
        # The import takes seconds, which the event loop cannot spare.
        litellm = await asyncio.to_thread(load_litellm)
        retried = tuple(getattr(litellm, name) for name in _RETRIED if hasattr(litellm, name))
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(retried),
            stop=tenacity.stop_after_attempt(self._attempts),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=10.0),
            reraise=True,
        )
        try:
            response: Any = await retrying(litellm.aembedding, **self._arguments(texts, kind))
        except Exception as error:
            # `from None`: providers quote the texts, and a chained error is logged with its message.
            raise EmbeddingError(describe(error, texts=texts, secrets=[self._secret])) from None
        items = sorted(response.data, key=lambda item: int(item["index"]))
        vectors = [[float(value) for value in item["embedding"]] for item in items]
        if not self.dimensions and vectors:
            self.dimensions = len(vectors[0])
        return vectors

    @property
    def _secret(self) -> str:
        return self._key.get_secret_value() if self._key is not None else ""

    def _arguments(self, texts: Sequence[str], kind: Kind) -> dict[str, Any]:
        arguments = {
            "model": self.model,
            "input": list(texts),
            "encoding_format": "float",
            "dimensions": self._asked,
            "api_key": self._secret or None,
            # For 0 litellm takes its default of two; one retry is the least, and it heeds Retry-After.
            "max_retries": 1,
            # A provider without these options ignores them; the length of its vectors is checked in any case.
            "drop_params": True,
            **_KINDS.get(self.provider, {}).get(kind, {}),
            **self._options,
        }
        return {key: value for key, value in arguments.items() if value is not None}

    def __repr__(self) -> str:
        return f"LiteLLMEmbedder({self.model!r}, name={self.name!r}, dimensions={self.dimensions})"
