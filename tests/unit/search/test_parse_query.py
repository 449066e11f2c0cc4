"""How a query is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstack.errors import ValidationError
from llmstack.search.lexical import (
    MAX_CLAUSE_BYTES,
    MAX_CLAUSES,
    MAX_QUERY_BYTES,
    ParsedQuery,
    parse_query,
)


@pytest.mark.parametrize(
    ("query", "words", "required", "forbidden"),
    [
        ("tax law", "tax law", (), ()),
        ('"tax law"', "tax law", ("tax law",), ()),
        ('court "tax law" reform', "court tax law reform", ("tax law",), ()),
        ("tax -law", "tax", (), ("law",)),
        ('tax -"law court" reform', "tax reform", (), ("law court",)),
        ("-tax -law", "", (), ("tax", "law")),
        ("well-known tax-law", "well-known tax-law", (), ()),
        ("a - b", "a - b", (), ()),
        ("--force", "", (), ("-force",)),
        ('"never closed', '"never closed', (), ()),
        ('""', "", ("",), ()),
        ('one"two"three', "one two three", ("two",), ()),
        ("-tax\n-law", "", (), ("tax", "law")),
        ("tax & law | (court)", "tax & law | (court)", (), ()),
    ],
)
def test_quotes_require_and_a_leading_minus_forbids(
    query: str, words: str, required: tuple[str, ...], forbidden: tuple[str, ...]
) -> None:
    parsed = parse_query(query)
    assert " ".join(parsed.words.split()) == words
    assert (parsed.required, parsed.forbidden) == (required, forbidden)


def test_without_operators_everything_ranks() -> None:
    assert parse_query('why "x" -y?', operators=False) == ParsedQuery(words='why "x" -y?')


def test_what_postgresql_cannot_store_becomes_space() -> None:
    assert parse_query("tax\x00law\ud800court").words == "tax law court"


def test_required_phrases_beyond_the_limit_only_rank_and_forbidden_ones_are_left_out() -> None:
    many = parse_query(" ".join(f'"w{number}"' for number in range(MAX_CLAUSES + 1)))
    assert len(many.required) == MAX_CLAUSES
    assert f"w{MAX_CLAUSES}" in many.words
    many = parse_query(" ".join(f"-w{number}" for number in range(MAX_CLAUSES + 1)))
    assert len(many.forbidden) == MAX_CLAUSES
    assert many.words.strip() == ""
    long = parse_query(f'"{"word " * MAX_CLAUSE_BYTES}" "tax"')
    assert long.required == ("tax",)
    assert long.words.split()[0] == "word"


def test_a_long_word_is_lower_cased_before_its_length_is_measured() -> None:
    assert parse_query("Ⱥ" * 700).words == "ⱥ" * 700
    assert parse_query("Ⱥ" * 10 + " Tax").words == "Ⱥ" * 10 + " Tax"


def test_a_query_is_measured_in_bytes() -> None:
    assert parse_query("é" * (MAX_QUERY_BYTES // 2)).words
    with pytest.raises(ValidationError, match="query"):
        parse_query("é" * (MAX_QUERY_BYTES // 2 + 1))


@given(st.text())
def test_any_text_is_read_and_can_be_sent(query: str) -> None:
    parsed = parse_query(query)
    for part in (parsed.words, *parsed.required, *parsed.forbidden):
        assert "\x00" not in part
        part.encode()
    assert len(parsed.required) + len(parsed.forbidden) <= MAX_CLAUSES
