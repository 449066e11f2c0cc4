"""litellm against a server that speaks the protocol of OpenAI's embeddings."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import Any

import pytest

from llmstack.embeddings import LiteLLMEmbedder, embed_all
from llmstack.errors import EmbeddingError
from llmstack.settings import Settings


def vectors_for(texts: list[str]) -> dict[str, Any]:
    # In reverse: the protocol promises an index, not an order.
    data = [
        {"object": "embedding", "index": index, "embedding": [float(len(text)), 1.0, 2.0]}
        for index, text in reversed([*enumerate(texts)])
    ]
    return {"object": "list", "model": "m", "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}}


@pytest.fixture
def embeddings(provider: Any) -> Any:
    """The provider, answering with vectors."""
    provider.reply = lambda request: vectors_for(request["input"])
    return provider


def _embedder(embeddings: Any, **options: Any) -> LiteLLMEmbedder:
    return LiteLLMEmbedder(
        "openai/some-model", **{"api_base": embeddings.url, "api_key": "sk-0123456789abcdef", **options}
    )


async def _embed(embedder: LiteLLMEmbedder, texts: list[str], **settings: Any) -> list[list[float]]:
    return await embed_all(embedder, texts, kind="document", settings=Settings(**settings))


_FIRST_CALL = """
import asyncio, sys, time
from llmstack.embeddings import LiteLLMEmbedder

async def main():
    embedder = LiteLLMEmbedder("openai/some-model", api_base=sys.argv[1], api_key="sk-0123456789abcdef")
    assert "litellm" not in sys.modules
    calls = asyncio.gather(embedder.embed(["a"]), embedder.embed(["bb"]))
    ticks = []
    while "litellm.main" not in sys.modules and not calls.done():
        ticks.append(time.monotonic())
        await asyncio.sleep(0.01)
    assert [len(vectors) for vectors in await calls] == [1, 1]
    print(len(ticks))

asyncio.run(main())
"""


async def test_the_first_calls_do_not_hold_up_the_event_loop_while_litellm_is_imported(embeddings: Any) -> None:
    command = [sys.executable, "-c", _FIRST_CALL, embeddings.url]
    run = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    # An import in the event loop leaves it no turn; in a thread it has one every few hundredths of a second.
    assert int(run.stdout.split()[-1]) > 10


async def test_vectors_come_in_the_order_of_the_texts(embeddings: Any) -> None:
    embedder = _embedder(embeddings)
    vectors = await _embed(embedder, ["a", "bb", "ccc"])
    assert [vector[0] for vector in vectors] == [1.0, 2.0, 3.0]
    assert embeddings.requests[0]["input"] == ["a", "bb", "ccc"]
    assert embeddings.requests[0]["model"] == "some-model"
    assert embeddings.keys == ["Bearer sk-0123456789abcdef"]


async def test_unknown_dimensions_are_learned_from_the_first_call(embeddings: Any) -> None:
    embedder = _embedder(embeddings)
    assert embedder.dimensions == 0
    await _embed(embedder, ["a"])
    assert embedder.dimensions == 3
    assert len(embeddings.requests) == 1


async def test_a_busy_provider_is_asked_again(embeddings: Any) -> None:
    embeddings.answers = [
        (429, {"error": {"message": "slow down", "type": "rate_limit"}}),
        (503, {"error": "busy"}),
    ]
    assert await _embed(_embedder(embeddings), ["a"]) == [[1.0, 1.0, 2.0]]
    assert len(embeddings.requests) == 3


async def test_a_provider_that_stays_busy_is_not_asked_for_ever(embeddings: Any) -> None:
    embeddings.answers = [(429, {"error": {"message": "slow down", "type": "rate_limit"}})] * 9
    with pytest.raises(EmbeddingError, match=r"RateLimitError.*slow down"):
        await _embed(_embedder(embeddings, attempts=2), ["a"])
    assert 2 <= len(embeddings.requests) <= 4


async def test_a_refused_request_is_not_repeated_and_shows_neither_key_nor_text(embeddings: Any) -> None:
    refusal = {"error": {"message": "bad key sk-0123456789abcdef for 'a private diary entry'", "type": "auth"}}
    embeddings.answers = [(401, refusal)]
    with pytest.raises(EmbeddingError, match="AuthenticationError") as caught:
        await _embed(_embedder(embeddings), ["a private diary entry"])
    assert len(embeddings.requests) == 1
    assert "0123456789abcdef" not in str(caught.value)
    assert "diary" not in str(caught.value)


async def test_too_few_vectors_are_an_error(embeddings: Any) -> None:
    embeddings.answers = [(200, vectors_for(["a"]))]
    with pytest.raises(EmbeddingError, match="returned 1 vectors for 2 texts"):
        await _embed(_embedder(embeddings), ["a", "bb"])


async def test_a_provider_that_hangs_is_left_at_the_timeout(embeddings: Any) -> None:
    embeddings.hang = 1.0
    started = time.monotonic()
    with pytest.raises(EmbeddingError, match=r"no answer within 0\.3 s"):
        await _embed(_embedder(embeddings), ["a"], embedding_timeout=0.3)
    assert time.monotonic() - started < 0.9


async def test_a_provider_that_cannot_be_reached_is_an_error(embeddings: Any) -> None:
    unreachable = _embedder(embeddings, api_base="http://127.0.0.1:9/v1", attempts=1)
    with pytest.raises(EmbeddingError, match="Error"):
        await _embed(unreachable, ["a"])


async def test_other_dimensions_than_promised_are_an_error(embeddings: Any) -> None:
    with pytest.raises(EmbeddingError, match="has 3 dimensions instead of 2"):
        await _embed(_embedder(embeddings, dimensions=2), ["a"])


async def test_failures_print_nothing(embeddings: Any, capfd: pytest.CaptureFixture[str]) -> None:
    embeddings.answers = [(400, {"error": {"message": "no", "type": "invalid"}})]
    with pytest.raises(EmbeddingError):
        await _embed(_embedder(embeddings), ["a"])
    assert capfd.readouterr().out == ""
