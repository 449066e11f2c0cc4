"""Other wordings: given, by rule, by a chat model."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from llmstack.errors import ValidationError
from llmstack.retrieval import Expander, KeywordExpander, LLMExpander, wordings
from llmstack.search.hybrid import MAX_VARIANTS

# litellm's own models of the answer warn when pydantic builds them.
pytestmark = pytest.mark.filterwarnings("ignore:Items? .* using the `ReadOnly` qualifier:UserWarning")

QUERY = "How do I deploy it?"


def chat(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def expander(provider: Any, **options: Any) -> LLMExpander:
    return LLMExpander("openai/m", **{"api_base": provider.url, "api_key": "sk-0123456789abcdef", **options})


async def made(given: Any, query: str = QUERY, *, seconds: float = 60.0) -> list[str]:
    return await wordings(given, query, seconds=seconds)


async def test_a_models_answer_is_read_line_by_line(provider: Any) -> None:
    provider.reply = lambda request: chat('1. roll it out\n- "release it"\n\n3) how do i  DEPLOY it?\nfour\nfive')
    assert await made(expander(provider, number=4)) == ["roll it out", "release it"]
    (request,) = provider.requests
    assert request["messages"][-1] == {"role": "user", "content": QUERY}
    assert "4 other wordings" in request["messages"][0]["content"]


@pytest.mark.parametrize("answer", ["", "\n\n", "   "])
async def test_an_empty_answer_adds_nothing(provider: Any, answer: str) -> None:
    provider.reply = lambda request: chat(answer)
    assert await made(expander(provider)) == []


async def test_a_model_that_fails_or_hangs_adds_nothing_and_is_logged_without_the_query(
    provider: Any, caplog: pytest.LogCaptureFixture
) -> None:
    provider.answers = [(401, {"error": {"message": f"no: {QUERY} sk-0123456789abcdef", "type": "auth"}})]
    with caplog.at_level(logging.WARNING, logger="llmstack"):
        assert await made(expander(provider)) == []
        provider.hang = 1.0
        assert await made(expander(provider), seconds=0.3) == []
    said = "\n".join(record.getMessage() for record in caplog.records if record.name == "llmstack.retrieval")
    assert "no answer within 0.3 s" in said
    assert "sk-0123456789abcdef" not in said
    assert "do I deploy it" not in said


async def test_given_wordings_are_taken_once_each() -> None:
    assert await made(["deploy", " Deploy ", "", "how do i deploy it?", "ship it"]) == ["deploy", "ship it"]


class Endless:
    async def expand(self, query: str) -> list[str]:
        return [f"wording {number}" for number in range(1000)]


async def test_an_expander_is_cut_at_what_a_statement_bears_and_a_list_is_refused() -> None:
    assert len(await made(Endless())) == MAX_VARIANTS
    with pytest.raises(ValidationError, match="expand"):
        await made([f"wording {number}" for number in range(MAX_VARIANTS + 1)])


@pytest.mark.parametrize("given", ["one text", [1, 2], [None]])
async def test_what_is_no_wording_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError, match="expand"):
        await made(given)


class Slow:
    async def expand(self, query: str) -> list[str]:
        await asyncio.sleep(30)
        return ["late"]


async def test_a_cancelled_search_is_cancelled() -> None:
    task = asyncio.create_task(made(Slow()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("number", [0, -1, MAX_VARIANTS + 1])
def test_a_number_of_wordings_that_cannot_be_is_refused(number: int) -> None:
    with pytest.raises(ValidationError, match="number"):
        LLMExpander("openai/m", number=number)


async def test_rules_keep_the_longer_words_and_take_long_queries_apart() -> None:
    rules: Expander = KeywordExpander()
    assert await made(rules) == ["deploy"]
    assert await made(rules, "what is TLS on PG 18 for?") == ["what TLS PG 18"]
    assert await made(rules, "Find papers on compilers. I also want parsing of C99; and grammars!") == [
        "Find papers compilers also want parsing C99 grammars",
        "Find papers on compilers.",
        "I also want parsing of C99;",
        "and grammars!",
    ]
    assert await made(rules, "deploy") == []
    assert await made(rules, "a b c") == []
