"""What is marked and shown of a passage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstack.cli.snippets import marked, snippet, terms_of


def _marked(text: str, query: str) -> list[str]:
    return [text[start:end] for start, end in marked(text, terms_of(query))]


@pytest.mark.parametrize(
    ("query", "text", "found"),
    [
        ("parental leave", "Leaves of PARENTAL leave", ["Leaves", "PARENTAL", "leave"]),
        ("policies", "the policy and its policing", ["policy", "policing"]),
        ("run", "he runs; running is fun", ["runs"]),
        ("car", "care for the car and the cart", ["care", "car", "cart"]),
        ("how is the weather", "How the weather is", ["weather"]),
        ('"sick leave" -holiday', "sick holiday leave", ["sick", "leave"]),
        ("größe", "Die GRÖßE", ["GRÖßE"]),
        ("a-b_c x1", "x1 or a-b_c", ["x1", "b_c"]),
    ],
)
def test_words_that_agree_but_for_their_endings_are_marked(query: str, text: str, found: list[str]) -> None:
    assert _marked(text, query) == found


def test_a_snippet_is_the_stretch_with_the_most_terms() -> None:
    text = f"{'nothing here ' * 100}\n  parental\n leave {'and more ' * 100}"
    shown = snippet(text, ["parental", "leave"], length=120)
    assert "parental leave" in shown
    assert shown.startswith("… ")
    assert shown.endswith(" …")
    assert len(shown) <= 124


def test_a_short_text_is_shown_whole_in_one_line() -> None:
    assert snippet("one\n two\tthree", ["two"]) == "one two three"


@given(text=st.text(max_size=400), query=st.text(max_size=40), length=st.integers(40, 120))
def test_any_text_and_query_give_a_part_of_the_text(text: str, query: str, length: int) -> None:
    flat = " ".join(text.split())
    shown = snippet(text, terms_of(query or "x"), length=length)
    assert shown.removeprefix("… ").removesuffix(" …") in flat
    assert all(0 <= start < end <= len(text) for start, end in marked(text, terms_of(query or "x")))
