"""Rerankers: models that read the query together with each passage and score it."""

from __future__ import annotations

import asyncio
import functools
import importlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pydantic import SecretStr

from ..errors import ConfigurationError, MissingExtra
from ..providers.failures import describe
from ..providers.litellm import load_litellm
from ..providers.threads import call, in_thread
from .errors import RetrievalError

_WINDOW_CHARACTERS = 32_768
"""More than any cross-encoder reads of a passage; the rest would only be cut into tokens."""


class Reranker(Protocol):
    """Scores passages against a query; larger is better."""

    async def rerank(self, query: str, passages: Sequence[str]) -> Sequence[float]:
        """One score for each passage, in the order of the passages."""
        ...


class CallableReranker:
    """A function from the query and a list of passages to as many scores; a blocking one runs in a thread."""

    def __init__(self, fn: Callable[[str, list[str]], Any]) -> None:
        if not callable(fn):
            raise ConfigurationError("CallableReranker needs a function that takes a query and a list of passages")
        self._fn = fn

    async def rerank(self, query: str, passages: Sequence[str]) -> Sequence[float]:
        """Call the function once."""
        return _numbers(await call(self._fn, query, list(passages)))

    def __repr__(self) -> str:
        return f"CallableReranker({getattr(self._fn, '__name__', self._fn)!r})"


class LiteLLMReranker:
    """A provider's reranking model through litellm, such as `cohere/rerank-v3.5`; `options` go to every call."""

    def __init__(
        self,
        model: str,
        *,
        api_key: str | SecretStr | None = None,
        api_base: str | None = None,
        **options: Any,
    ) -> None:
        self.model = model
        self._key = api_key if isinstance(api_key, SecretStr) or api_key is None else SecretStr(api_key)
        self._options = {"api_base": api_base, **options}

    async def rerank(self, query: str, passages: Sequence[str]) -> Sequence[float]:
        """Call the provider once; a passage that it leaves out counts as the lowest."""
        # The import takes seconds, which the event loop cannot spare.
        litellm = await asyncio.to_thread(load_litellm)
        secret = self._key.get_secret_value() if self._key is not None else None
        arguments = {"api_key": secret, "top_n": len(passages), "return_documents": False, **self._options}
        try:
            response = await litellm.arerank(
                model=self.model,
                query=query,
                documents=list(passages),
                **{key: value for key, value in arguments.items() if value is not None},
            )
        except Exception as error:
            # `from None`: providers quote the texts, and a chained error is logged with its message.
            said = describe(error, texts=[query, *passages], secrets=[secret or ""])
            raise RetrievalError(f"{self.model!r} failed: {said}") from None
        found = {int(item["index"]): float(item["relevance_score"]) for item in response.results or ()}
        lowest = min(found.values(), default=0.0)
        return [found.get(place, lowest) for place in range(len(passages))]

    def __repr__(self) -> str:
        return f"LiteLLMReranker({self.model!r})"


class CrossEncoderReranker:
    """A cross-encoder of sentence-transformers (extra `rerank`), by name or folder; loaded at its first use."""

    def __init__(self, model: str, *, device: str | None = None, batch_size: int = 32) -> None:
        if importlib.util.find_spec("sentence_transformers") is None:
            raise MissingExtra(feature="a cross-encoder", extra="rerank")
        self.model = model
        self._device = device
        self._batch_size = batch_size

    async def rerank(self, query: str, passages: Sequence[str]) -> Sequence[float]:
        """Score the pairs in a thread."""
        return await in_thread(self._predict, query, list(passages))

    def _predict(self, query: str, passages: list[str]) -> list[float]:
        pairs = [(query, passage[:_WINDOW_CHARACTERS]) for passage in passages]
        return _numbers(_encoder(self.model, self._device).predict(pairs, batch_size=self._batch_size))

    def __repr__(self) -> str:
        return f"CrossEncoderReranker({self.model!r})"


@functools.lru_cache(maxsize=4)
def _encoder(model: str, device: str | None) -> Any:
    return importlib.import_module("sentence_transformers").CrossEncoder(model, device=device)


def _numbers(scores: Any) -> list[float]:
    values = scores.tolist() if hasattr(scores, "tolist") else scores
    return [float(value) for value in values]


async def rerank_scores(reranker: Reranker, query: str, passages: Sequence[str], *, seconds: float) -> list[float]:
    """A finite score for each passage, or RetrievalError; one that takes longer than `seconds` is given up."""
    deadline = asyncio.timeout(seconds)
    try:
        async with deadline:
            scores = _numbers(await reranker.rerank(query, passages))
    except MissingExtra:
        raise
    except Exception as error:
        said = f"no answer within {seconds:g} s" if deadline.expired() else describe(error, texts=[query, *passages])
    else:
        said = _fault(scores, len(passages))
        if not said:
            return scores
    # Outside the handler, so that the reranker's own error, which may quote a text, is not even the context.
    raise RetrievalError(f"reranker {reranker!r}: {said}")


def _fault(scores: Sequence[float], expected: int) -> str:
    if len(scores) != expected:
        return f"it returned {len(scores)} scores for {expected} passages"
    return "" if all(map(math.isfinite, scores)) else "it returned a score that is not a finite number"
