from __future__ import annotations

import uuid
from typing import Any

import pytest

from llmstack.conversations import LLMSummariser, Message, SummaryError, SummaryRequest, first_and_last

# litellm's own models of the answer warn when pydantic builds them.
pytestmark = pytest.mark.filterwarnings("ignore:Items? .* using the `ReadOnly` qualifier:UserWarning")


def request(*said: tuple[str, str], previous: str | None = None, characters: int = 500) -> SummaryRequest:
    messages = [Message(id=uuid.uuid4(), role=role, content=content) for role, content in said]
    return SummaryRequest(messages=messages, previous=previous, characters=characters)


ASKED = request(("user", "When does the lease end?"), ("tool", ""), ("assistant", "In March."), previous="Of a lease.")


async def test_a_model_is_asked_for_one_summary_of_both(provider: Any) -> None:
    provider.reply = lambda given: {"choices": [{"message": {"role": "assistant", "content": " It ends in March. "}}]}
    summariser = LLMSummariser("openai/gpt-test", api_base=provider.url, api_key="sk-test", max_tokens=99)
    assert await summariser(ASKED) == "It ends in March."
    (given,) = provider.requests
    system, user = given["messages"]
    assert "at most 500 characters" in system["content"]
    assert user["content"] == ("Earlier summary: Of a lease.\n\nuser: When does the lease end?\n\nassistant: In March.")
    assert (given["model"], given["max_tokens"]) == ("gpt-test", 99)


async def test_a_model_that_fails_says_nothing_of_the_text_or_the_key(provider: Any) -> None:
    provider.answers = [(400, {"error": {"message": "bad: When does the lease end? sk-test-secret-key-123"}})]
    summariser = LLMSummariser(
        "openai/gpt-test", api_base=provider.url, api_key="sk-test-secret-key-123", max_retries=0
    )
    with pytest.raises(SummaryError) as caught:
        await summariser(ASKED)
    assert "lease end" not in str(caught.value)
    assert "secret-key" not in str(caught.value)
    assert repr(summariser) == "LLMSummariser('openai/gpt-test')"


@pytest.mark.parametrize("characters", [50, 120, 500])
async def test_first_and_last_keep_to_their_length(characters: int) -> None:
    said = [("user", "first " * 80), ("assistant", "then " * 80), ("user", "last " * 80), ("assistant", "end " * 80)]
    made = await first_and_last(request(*said, characters=characters))
    assert len(made) <= characters
    assert made.count("\n") == 2


async def test_first_and_last_go_on_from_the_last_summary() -> None:
    made = await first_and_last(request(("user", "And now?"), ("assistant", "Wait."), previous="Of a lease."))
    assert made == "Of a lease.\nAnd now?\nWait."
