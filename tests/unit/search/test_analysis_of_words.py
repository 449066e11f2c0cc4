"""What the analyser finds in a word, beside the word itself."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstack.search.analysis import further_query, further_words, renderings, stored_words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Nothing here is unusual, is it? No: not at all (really).", ""),
        ("TX-9920QB/B2", "tx 9920 qb b 2 9920qb tx9920qb b2"),
        ("a long login.example.net for all of us", "a long login example net for all"),
        ("ERR_CONN_RESET", "errconnreset"),
        ("v3.4.1", "v 3.4.1 v3 3.4"),
        ("1,249.50", "1249.50"),
        ("web-sockets", "websockets"),
        ("wait...what and foo--bar", ""),
        ("O'Neill, l'eau, don't, John's", "oneill"),
        ("e.g. the U.S.A., i.e. us", "e g the u s a i e us usa"),
        ("DNAs iPhone HTTPServer", "dnas i phone http server"),
        ("北京大学", "北京 京大 大学"),
        ("用Python编程", "用 python 编程"),
        ("São Paulo", "sao paulo"),
        ("ﬁn H₂O", "fin h 2 o h2o"),
        ("un\u00adbeliev\u00adable", "unbelievable"),
        ("at -40 C", "at 40 c"),
        ("see /etc/passwd now", "see etc passwd now"),
    ],
)
def test_a_text_has_these_further_words(text: str, expected: str) -> None:
    assert further_words(text) == expected


def test_neighbours_are_repeated_once() -> None:
    words = further_words("one two a.b three c.d four five six seven").split()
    assert words[:8] == ["one", "two", "a", "b", "three", "c", "d", "four"]
    assert words[8] == "five"
    assert "six" not in words


@pytest.mark.parametrize(
    ("query", "expected"),
    [("plain words", ""), ("P-9B", "9b p9b"), ("refundOrder", "refund order"), ("crème", "creme"), ("x/y", "")],
)
def test_a_query_asks_for_no_single_letter(query: str, expected: str) -> None:
    assert further_query(query) == expected


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("law court", ("law court",)),
        ("use web-sockets", ("use web-sockets", "use web sockets", "use websockets")),
        ("P-9B", ("P-9B", "p 9 b", "p9b")),
        ("Crème", ("Crème", "creme")),
    ],
)
def test_a_phrase_is_looked_for_as_it_is_apart_and_joined(phrase: str, expected: tuple[str, ...]) -> None:
    assert tuple(renderings(phrase)) == expected


def test_what_is_stored_begins_with_the_hash_of_its_text() -> None:
    assert stored_words("A guide", "of plain words") == ""
    stored = stored_words("ntp.conf", "login.example.net")
    assert stored[:8] == hashlib.md5(b"ntp.conf\nlogin.example.net").hexdigest()[:8]
    assert stored[8:].split("\n") == ["login example net", "ntp conf ntpconf"]
    assert "\n" not in stored_words("A guide", "login.example.net")


def test_data_in_a_text_is_passed_over() -> None:
    noise = "".join(random.Random(1).choices("ABab01+/", k=5_000))
    assert further_words(f"an image {noise} of it") == ""


def test_a_very_long_text_or_query_has_no_more_further_words_than_are_searched() -> None:
    text = " ".join(f"word{number}.example" for number in range(10_000))
    for words in (further_words(text), further_query(text)):
        assert 49_900 < len(words) <= 50_000
        assert words.startswith("word")
        assert not words.endswith(" ")


@given(st.text(st.characters(exclude_categories=["Cn", "Cs"]), max_size=80))
def test_any_text_is_read_and_its_words_hold_nothing_but_letters_and_digits(text: str) -> None:
    for words in (further_words(text), further_query(text), *renderings(text)[1:]):
        for word in words.split(" "):
            assert "\n" not in word
            assert "\0" not in word
            assert not word or any(letter.isalnum() for letter in word)


@given(st.text(alphabet="aB9é北ท-_./'", max_size=30))
def test_what_a_text_consists_of_is_read_the_same_wherever_it_stands(text: str) -> None:
    alone = set(further_words(text).split())
    assert alone <= set(further_words(f"some words before {text} and after it").split())
