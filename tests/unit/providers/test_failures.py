"""What may be said of an embedder's error."""

from __future__ import annotations

import pytest

from llmstack.errors import EmbeddingError
from llmstack.providers.failures import describe


@pytest.mark.parametrize(
    "message",
    [
        "Incorrect API key provided: sk-proj-0123456789abcdef",
        "header Authorization: Bearer 0123456789abcdef",
        "GET https://host/v1?api_key=0123456789abcdef failed",
        "cannot reach https://user:0123456789abcdef@host/v1",
        'body {"api_key": "0123456789abcdef"}',
        "the key 0123456789abcdef was refused",
    ],
)
def test_secrets_are_masked(message: str) -> None:
    said = describe(ValueError(message), secrets=["0123456789abcdef"] if "the key" in message else [])
    assert "0123456789abcdef" not in said
    assert "[secret]" in said


@pytest.mark.parametrize(
    "message",
    [
        "invalid input 'Anna lives at Hill Road 7'",
        'input "Anna lives at Hill Road 7" is too long',
        "token limit near 'lives at Hill Ro...'",
        "cannot parse Anna  lives\nat Hill Road",
    ],
)
def test_quotations_of_a_text_are_left_out(message: str) -> None:
    said = describe(ValueError(message), texts=["other", "Anna lives at Hill Road 7"])
    assert "[text]" in said
    assert "Anna" not in said
    assert "lives" not in said


def test_a_short_text_is_left_out_as_a_whole() -> None:
    assert describe(ValueError("bad input 'parental leave'"), texts=["parental leave"]) == (
        "ValueError: bad input '[text]'"
    )


def test_a_long_message_is_cut_to_one_bounded_line() -> None:
    said = describe(ValueError("line\n" * 100_000))
    assert len(said) < 600
    assert "\n" not in said


def test_the_class_is_named_unless_it_is_our_own() -> None:
    assert describe(KeyError()) == "KeyError"
    assert describe(EmbeddingError("no answer")) == "no answer"
