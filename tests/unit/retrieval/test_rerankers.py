"""Rerankers, and what is made of their answers."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from llmstack.errors import ConfigurationError
from llmstack.retrieval import (
    CallableReranker,
    LiteLLMReranker,
    Reranker,
    RetrievalError,
    rerank_scores,
)

# litellm's own models of the answer warn when pydantic builds them.
pytestmark = pytest.mark.filterwarnings("ignore:Items? .* using the `ReadOnly` qualifier:UserWarning")

PASSAGES = ["about ships", "about the tax on ships", "about apples"]


def relevance(scores: dict[int, float]) -> dict[str, Any]:
    return {"id": "1", "results": [{"index": place, "relevance_score": score} for place, score in scores.items()]}


def reranker(provider: Any, **options: Any) -> LiteLLMReranker:
    return LiteLLMReranker(
        "cohere/rerank-v3.5", **{"api_base": provider.url, "api_key": "sk-0123456789abcdef", **options}
    )


async def scored(chosen: Reranker, *, seconds: float = 60.0) -> list[float]:
    return await rerank_scores(chosen, "tax", PASSAGES, seconds=seconds)


async def test_litellm_sends_query_and_passages_and_reads_scores_by_index(provider: Any) -> None:
    provider.reply = lambda request: relevance({1: 0.9, 0: 0.4, 2: 0.1})
    assert await scored(reranker(provider)) == [0.4, 0.9, 0.1]
    (request,) = provider.requests
    assert (request["query"], request["documents"], request["top_n"]) == ("tax", PASSAGES, 3)
    assert request["model"] == "rerank-v3.5"
    assert "rerank" in provider.paths[0]
    assert provider.keys[0] is not None
    assert "sk-0123456789abcdef" in provider.keys[0]


async def test_a_passage_that_a_provider_leaves_out_counts_as_the_lowest(provider: Any) -> None:
    provider.reply = lambda request: relevance({1: 0.9, 0: 0.4})
    assert await scored(reranker(provider)) == [0.4, 0.9, 0.4]


async def test_a_refusal_shows_neither_key_nor_text(provider: Any, caplog: pytest.LogCaptureFixture) -> None:
    provider.reply = lambda request: {"message": "no: about the tax on ships sk-0123456789abcdef"}
    provider.answers = [(401, provider.reply({}))]
    with caplog.at_level(logging.DEBUG, logger="llmstack"), pytest.raises(RetrievalError) as caught:
        await scored(reranker(provider))
    assert "sk-0123456789abcdef" not in str(caught.value) + repr(reranker(provider))
    assert "tax on ships" not in str(caught.value)
    assert caught.value.__context__ is None


async def test_a_provider_that_hangs_is_left_at_the_deadline(provider: Any) -> None:
    await scored(CallableReranker(lambda query, passages: [0.0] * len(passages)))
    provider.hang = 1.0
    provider.reply = lambda request: relevance({0: 1.0})
    await reranker(provider).rerank("tax", PASSAGES)
    with pytest.raises(RetrievalError, match=r"no answer within 0\.3 s"):
        await scored(reranker(provider), seconds=0.3)


async def awaited(query: str, passages: list[str]) -> list[int]:
    return [len(passage) for passage in passages]


class Coroutines:
    async def __call__(self, query: str, passages: list[str]) -> tuple[int, ...]:
        return tuple(len(passage) for passage in passages)


@pytest.mark.parametrize("function", [awaited, Coroutines(), lambda query, passages: map(len, passages)])
async def test_any_function_is_a_reranker(function: Any) -> None:
    assert await scored(CallableReranker(function)) == [float(len(passage)) for passage in PASSAGES]


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="function"):
        CallableReranker("cohere")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([1.0], "1 scores for 3"),
        ([1.0, 2.0, float("inf")], "finite"),
        ([1.0, 2.0, None], "TypeError"),
        (None, "TypeError"),
    ],
)
async def test_an_answer_that_ranks_nothing_is_an_error(answer: Any, said: str) -> None:
    with pytest.raises(RetrievalError, match=said):
        await scored(CallableReranker(lambda query, passages: answer))


async def test_the_readers_own_error_does_not_quote_the_passages() -> None:
    def quote(query: str, passages: list[str]) -> list[float]:
        raise ValueError(f"cannot read {passages[1]!r}")

    with pytest.raises(RetrievalError) as caught:
        await scored(CallableReranker(quote))
    assert "tax on ships" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
