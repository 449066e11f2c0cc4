from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmstack.documents.chunking import (
    CHUNKING_STRATEGIES,
    DOCUMENT_TYPES,
    MAX_PIECE_TOKENS,
    ChunkingConfig,
    ChunkPiece,
    chunk,
)
from llmstack.errors import ValidationError
from llmstack.providers import tokens
from llmstack.providers.tokens import count_tokens

PROSE = " ".join(f"Sentence number {number} speaks of parental leave and of its cost." for number in range(400))
HANDBOOK = """---
title: x
---
Preamble.

# Benefits

## Parental leave

Sixteen weeks, paid in full.

```sh
# not a heading
```

## Sick leave

Ten days.

Contact
=======

Write to people.
"""
MAIL = """From: ann@example.org
To: bob@example.org
Subject: Parental leave

Hello Bob, sixteen weeks it is.

On Monday, Bob wrote:
> How long is the leave?
> Regards

More to come.
--\x20
Ann, People Team
"""
CHAT = """[10:01] ann: How long is parental leave?
[10:02] bob: Sixteen weeks.
It is paid in full.
carol d: Thanks: that helps
"""

scraps = st.sampled_from(
    [
        "word ",
        "Ein Satz. ",
        "\n",
        "\r\n\r\n",
        "# H\n",
        "## Sub\n\n",
        "```\n",
        "日本語です。",
        "👩‍👩‍👧",
        "e\u0301\u0302",
        "    ",
        "> q\n",
        "ann: hi\n",
        "--\n",
        "- item\n",
        "|a|b|\n",
        "Title\n===\n",
        "x" * 300,
        "\x1c",
        "\x85",
        "\u2028",
        "\x00",
        "\ud800",
    ]
)
texts = st.lists(scraps | st.text(max_size=20), max_size=60).map("".join)


def leaves(pieces: Iterable[ChunkPiece]) -> list[ChunkPiece]:
    return [piece for piece in pieces if piece.level == 0]


def check_promises(text: str, pieces: list[ChunkPiece]) -> None:
    covered: set[int] = set()
    for index, piece in enumerate(pieces):
        assert piece.content == text[piece.start : piece.end]
        assert piece.content.strip()
        if piece.level == 0:
            covered.update(range(piece.start, piece.end))
        if piece.parent is not None:
            above = pieces[piece.parent]
            assert (piece.level, above.level) == (0, 1)
            assert above.start <= piece.start < piece.end <= above.end
            assert above.content != piece.content
            assert all(between.parent == piece.parent for between in pieces[piece.parent + 1 : index])
    assert [at for at, character in enumerate(text) if at not in covered and not character.isspace()] == []
    for level in (0, 1):
        starts = [piece.start for piece in pieces if piece.level == level]
        assert all(one < other for one, other in pairwise(starts))


@settings(max_examples=150, deadline=None)
@given(text=texts, document_type=st.sampled_from(DOCUMENT_TYPES), strategy=st.sampled_from(CHUNKING_STRATEGIES))
def test_pieces_cover_the_text_in_order_and_never_exceed_their_size(
    text: str, document_type: str, strategy: str
) -> None:
    config = ChunkingConfig(chunk_size=24, parent_size=60)
    pieces = chunk(text, document_type=document_type, strategy=strategy, config=config)
    check_promises(text, pieces)
    assert all(piece.token_count <= (60 if piece.level else 24) for piece in pieces)
    assert pieces == chunk(text, document_type=document_type, strategy=strategy, config=config)


@settings(max_examples=60, deadline=None)
@given(text=texts, size=st.integers(1, 9), strategy=st.sampled_from(CHUNKING_STRATEGIES))
def test_tiny_sizes_are_exceeded_by_single_characters_alone(text: str, size: int, strategy: str) -> None:
    pieces = chunk(text, document_type="unknown", strategy=strategy, config=ChunkingConfig(chunk_size=size))
    check_promises(text, pieces)
    assert all(piece.token_count <= size or len(piece.content) == 1 for piece in leaves(pieces))


@pytest.mark.parametrize("strategy", CHUNKING_STRATEGIES)
@pytest.mark.parametrize("text", ["", " ", "\n\t \r\n", "\u3000" * 3000])
def test_white_space_gives_nothing(text: str, strategy: str) -> None:
    assert chunk(text, document_type="markdown", strategy=strategy) == []


def test_a_short_text_is_one_leaf_without_a_parent() -> None:
    (piece,) = chunk("  Sixteen weeks.\n", document_type="text", strategy="hierarchical")
    assert piece == ChunkPiece("Sixteen weeks.", 2, 16, token_count=count_tokens("Sixteen weeks."))


def test_parents_precede_their_children_and_do_not_overlap() -> None:
    pieces = chunk(PROSE, document_type="text", strategy="hierarchical")
    parents = [piece for piece in pieces if piece.level == 1]
    assert len(parents) > 3
    assert all(one.end <= other.start for one, other in pairwise(parents))
    for index, piece in enumerate(pieces):
        if piece.level == 1:
            assert pieces[index + 1].parent == index
            assert pieces[index + 1].start == piece.start


def test_children_of_one_parent_overlap_by_whole_sentences_at_most_as_told() -> None:
    config = ChunkingConfig(chunk_size=60, overlap=20, parent_size=200)
    pieces = chunk(PROSE, document_type="text", strategy="hierarchical", config=config)
    shared = [
        count_tokens(PROSE[other.start : one.end])
        for one, other in pairwise(leaves(pieces))
        if one.parent == other.parent and other.start < one.end
    ]
    assert len(shared) > 10
    assert max(shared) <= 20


@pytest.mark.parametrize("overlap", [0, 50])
def test_parents_overlap_only_when_told(overlap: int) -> None:
    config = ChunkingConfig(parent_overlap=overlap)
    pieces = chunk(PROSE, document_type="text", strategy="hierarchical", config=config)
    parents = [piece for piece in pieces if piece.level == 1]
    assert any(other.start < one.end for one, other in pairwise(parents)) is (overlap > 0)


@pytest.mark.parametrize(
    ("document_type", "parent", "leaf"),
    [
        ("email", 300, 150),
        ("chat", 200, 100),
        ("legal_document", 500, 250),
        ("docx", 700, 350),
        ("code", 800, 400),
    ],
)
def test_sizes_follow_the_type(document_type: str, parent: int, leaf: int) -> None:
    pieces = chunk(PROSE, document_type=document_type, strategy="hierarchical")
    assert 0.9 * parent < max(piece.token_count for piece in pieces) <= parent
    assert 0.9 * leaf < max(piece.token_count for piece in leaves(pieces)) <= leaf


def test_short_texts_get_half_sizes_and_long_ones_more() -> None:
    short = "日本語。" * 240
    assert max(piece.token_count for piece in chunk(short, document_type="text", strategy="fixed_size")) <= 150
    long = PROSE * 3
    assert len(long) > 50_000
    sizes = [piece.token_count for piece in chunk(long, document_type="text", strategy="hierarchical")]
    assert 800 < max(sizes) <= 900


@pytest.mark.parametrize("strategy", ["hierarchical", "fixed_size", "sliding_window", "semantic"])
def test_the_configured_size_has_an_effect(strategy: str) -> None:
    config = ChunkingConfig(chunk_size=50)
    pieces = leaves(chunk(PROSE, document_type="text", strategy=strategy, config=config))
    assert 35 < max(piece.token_count for piece in pieces) <= 50


def test_a_parent_size_alone_moves_the_chunk_size_along() -> None:
    pieces = chunk(PROSE, document_type="text", strategy="hierarchical", config=ChunkingConfig(parent_size=100))
    assert {piece.level for piece in pieces} == {0, 1}
    assert max(piece.token_count for piece in leaves(pieces)) <= 50


def test_fixed_size_pieces_do_not_overlap_and_sliding_ones_share_a_fifth_at_most() -> None:
    fixed = chunk(PROSE, document_type="text", strategy="fixed_size")
    assert all(one.end <= other.start for one, other in pairwise(fixed))
    sliding = chunk(PROSE, document_type="text", strategy="sliding_window")
    shared = [count_tokens(PROSE[other.start : one.end]) for one, other in pairwise(sliding)]
    assert 30 < max(shared) <= 60
    assert min(shared) > 0
    assert {piece.level for piece in fixed + sliding} == {0}


def test_sliding_windows_overlap_all_through_a_long_text() -> None:
    text = PROSE * 7
    sliding = chunk(text, document_type="text", strategy="sliding_window")
    assert len(text) > 150_000
    assert all(other.start < one.end for one, other in pairwise(sliding))


def test_none_keeps_the_text_whole_up_to_the_limit_of_a_piece() -> None:
    (piece,) = chunk(f"\n{HANDBOOK}", document_type="markdown", strategy="none")
    assert piece.content == HANDBOOK.strip()
    pieces = chunk(PROSE * 3, document_type="text", strategy="none")
    assert len(pieces) > 1
    assert max(piece.token_count for piece in pieces) <= MAX_PIECE_TOKENS


def test_markdown_sections_carry_their_headings_path() -> None:
    pieces = chunk(HANDBOOK, document_type="markdown", strategy="semantic")
    assert [piece.section for piece in pieces] == [
        (),
        ("Benefits", "Parental leave"),
        ("Benefits", "Sick leave"),
        ("Contact",),
    ]
    assert pieces[1].content.startswith("# Benefits\n\n## Parental leave")
    assert "# not a heading" in pieces[1].content


def test_a_large_section_is_the_parent_of_its_pieces() -> None:
    text = f"# Small\n\nWord.\n\n# Large\n\n{PROSE[:2500]}"
    pieces = chunk(text, document_type="markdown", strategy="semantic")
    assert [(piece.level, piece.section) for piece in pieces[:2]] == [(0, ("Small",)), (1, ("Large",))]
    assert pieces[1].content == text[text.index("# Large") :].strip()
    assert {piece.parent for piece in pieces[2:]} == {1}


@pytest.mark.parametrize("document_type", ["markdown", "html", "docx", "technical_doc", "unknown"])
def test_hierarchical_pieces_name_the_headings_that_all_of_them_is_under(document_type: str) -> None:
    text = f"# A\n\n## B\n\n{PROSE[:9000]}\n\n## C\n\nshort\n\n## D\n\nshort\n"
    pieces = chunk(text, document_type=document_type, strategy="hierarchical")
    assert pieces[-1].section == ("A",)
    assert "## C" in pieces[-1].content
    within = [piece for piece in pieces if text.index("## B") < piece.start and piece.end < text.index("## C")]
    assert {piece.section for piece in within} == {("A", "B")}


@pytest.mark.parametrize("document_type", ["text", "code"])
def test_hashes_in_text_and_code_are_no_headings(document_type: str) -> None:
    pieces = chunk("# comment\nx = 1\n", document_type=document_type, strategy="semantic")
    assert [piece.section for piece in pieces] == [()]


@pytest.mark.parametrize(
    ("text", "titles"),
    [
        ("# C# #\n\nx", ("C#",)),
        ("~~~\n# a\n```\n# b\n~~~\n# **c**\n\nx", ("c",)),
        ("#hashtag\n\nx", ()),
        ("    # code\n\nx", ()),
        ("a paragraph\nof two lines\n---\n\nx", ()),
        ("# A\r\n\r\n### B\r\n\r\nx", ("A", "B")),
    ],
)
def test_headings_are_those_of_markdown(text: str, titles: tuple[str, ...]) -> None:
    assert chunk(text, document_type="markdown", strategy="semantic")[-1].section == titles


def test_an_email_falls_into_headers_own_words_quotes_and_signature() -> None:
    pieces = chunk(MAIL, document_type="email", strategy="semantic")
    assert [piece.content.splitlines()[0] for piece in pieces] == [
        "From: ann@example.org",
        "Hello Bob, sixteen weeks it is.",
        "On Monday, Bob wrote:",
        "More to come.",
        "-- ",
    ]
    assert {piece.section for piece in pieces} == {("Parental leave",)}


def test_a_chat_falls_into_turns_below_their_exchange() -> None:
    pieces = chunk(CHAT, document_type="chat", strategy="semantic")
    assert [(piece.level, piece.parent) for piece in pieces] == [(1, None), (0, 0), (0, 0), (0, 0)]
    assert pieces[2].content == "[10:02] bob: Sixteen weeks.\nIt is paid in full."
    assert pieces[3].content == "carol d: Thanks: that helps"


@pytest.mark.parametrize(("document_type", "turns"), [("chat", 40), ("email", 0)])
def test_every_turn_of_a_long_chat_is_a_leaf_once(document_type: str, turns: int) -> None:
    text = "\n".join(f"user{number}: message number {number}" for number in range(40))
    pieces = chunk(text, document_type=document_type, strategy="semantic")
    check_promises(text, pieces)
    if turns:
        assert [piece.content for piece in leaves(pieces)] == text.split("\n")


def test_a_chat_without_turns_is_cut_at_sentences() -> None:
    pieces = chunk(PROSE, document_type="chat", strategy="semantic")
    assert len(pieces) > 10
    assert all(piece.content.endswith(".") for piece in pieces)


@pytest.mark.parametrize("unit", ["a", "日本語", "👩‍👩‍👧‍👦", "a\n", "  \n", "# a\n", "> ", "- a\n"])
@pytest.mark.parametrize("document_type", ["text", "markdown"])
def test_monotonous_texts_are_cut_in_bounded_time(unit: str, document_type: str) -> None:
    text = "start " + unit * (40_000 // len(unit))
    started = time.process_time()
    pieces = chunk(text, document_type=document_type, strategy="hierarchical")
    assert time.process_time() - started < 10
    check_promises(text, pieces)
    assert max(piece.token_count for piece in pieces) <= 900


def test_a_word_of_two_megabytes_is_split() -> None:
    text = "0123456789abcdef" * 125_000
    pieces = chunk(text, document_type="text", strategy="fixed_size", config=ChunkingConfig(chunk_size=4000))
    assert "".join(piece.content for piece in pieces) == text
    assert max(piece.token_count for piece in pieces) <= 4000


def test_crlf_text_keeps_its_offsets() -> None:
    text = HANDBOOK.replace("\n", "\r\n")
    pieces = chunk(text, document_type="markdown", strategy="semantic")
    check_promises(text, pieces)
    assert pieces[-1].section == ("Contact",)


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("chunking", {"strategy": "magic"}),
        ("document_type", {"document_type": "poem"}),
        ("chunk_size", {"config": ChunkingConfig(chunk_size=0)}),
        ("chunk_size", {"config": ChunkingConfig(chunk_size=MAX_PIECE_TOKENS + 1)}),
        ("overlap", {"config": ChunkingConfig(chunk_size=10, overlap=10)}),
        ("overlap", {"config": ChunkingConfig(overlap=-1)}),
        ("overlap", {"strategy": "fixed_size", "config": ChunkingConfig(overlap=5)}),
        ("parent_size", {"config": ChunkingConfig(chunk_size=100, parent_size=50)}),
        ("parent_overlap", {"config": ChunkingConfig(parent_size=50, chunk_size=10, parent_overlap=50)}),
    ],
)
def test_bad_arguments_name_their_field(field: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        chunk("text", **{"document_type": "text", "strategy": "hierarchical", **arguments})
    assert caught.value.field == field


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ValidationError, match="hierarchical, fixed_size, sliding_window, semantic, none"):
        chunk("text", document_type="text", strategy="magic")
    with pytest.raises(ValidationError, match="pdf, markdown, code"):
        chunk("text", document_type="poem", strategy="none")


def test_a_custom_chunkers_strings_are_found_in_order() -> None:
    text = "one two one two\n\none"
    pieces = chunk(text, document_type="text", strategy=str.split)
    assert [(piece.start, piece.end) for piece in pieces] == [(0, 3), (4, 7), (8, 11), (12, 15), (17, 20)]
    assert all(piece.token_count == 1 for piece in pieces)


def test_a_custom_chunkers_overlapping_and_repeated_strings_are_found() -> None:
    pieces = chunk("a b c d", document_type="text", strategy=lambda _: ["a b c", " ", "b c d"])
    assert [piece.start for piece in pieces] == [0, 2]
    pieces = chunk("aaaa", document_type="text", strategy=lambda _: ["aa", "aa"])
    assert [piece.start for piece in pieces] == [0, 2]


def test_a_custom_chunkers_pieces_are_taken_with_their_parents() -> None:
    given = [ChunkPiece("a b", 0, 3, level=1), ChunkPiece("a", 0, 1, parent=0, section=("x",))]
    pieces = chunk("a b", document_type="text", strategy=lambda _: given)
    assert [(piece.parent, piece.section, piece.token_count) for piece in pieces] == [
        (None, (), 2),
        (0, ("x",), 1),
    ]


@pytest.mark.parametrize(
    "given",
    [
        ["not there"],
        ["b", "a"],
        [ChunkPiece("b", 0, 1)],
        [ChunkPiece("b", -1, 3)],
        [ChunkPiece("", 0, 0)],
        [ChunkPiece(" ", 1, 2)],
        [ChunkPiece("a", 0, 1, parent=0)],
        [ChunkPiece("a", 0, 1), ChunkPiece("b", 2, 3, parent=0)],
        [ChunkPiece("a", 0, 1, level=1), ChunkPiece("b", 2, 3, parent=-1)],
    ],
)
def test_a_custom_chunkers_mistakes_are_refused(given: list[ChunkPiece | str]) -> None:
    with pytest.raises(ValidationError, match="chunking: piece"):
        chunk("a b", document_type="text", strategy=lambda _: given)


def test_a_custom_piece_over_the_limit_is_refused() -> None:
    with pytest.raises(ValidationError, match="at most 8000"):
        chunk(PROSE * 3, document_type="text", strategy=lambda text: [text])


@pytest.mark.parametrize(
    ("text", "count"), [("", 0), ("hello world", 2), ("parental leave", 3), ("1234567", 3), ("\ud800", 1)]
)
def test_tokens_are_those_of_cl100k(text: str, count: int) -> None:
    assert count_tokens(text) == count


def test_long_texts_are_counted_within_a_token_for_each_block() -> None:
    text = PROSE * 5
    sentences = sum(count_tokens(f" {sentence}.") for sentence in text.split(". "))
    assert abs(count_tokens(text) - sentences) < 20


def test_without_the_encoding_tokens_are_estimated_on_the_safe_side(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = count_tokens(PROSE)
    monkeypatch.setattr(tokens, "_ranks_file", lambda: None)
    assert exact <= count_tokens(PROSE) <= 2 * exact
    assert count_tokens("日本 12345, x") == 6


def test_threads_count_alike_from_a_cold_start() -> None:
    tokens._load.cache_clear()
    counts: list[int] = []
    workers = [threading.Thread(target=lambda: counts.append(count_tokens(PROSE))) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert counts == [count_tokens(PROSE)] * 8
    assert tokens._load.cache_info().misses == 1


def test_importing_loads_no_splitter_no_tokenizer_and_no_reader() -> None:
    heavy = {
        "semantic_text_splitter",
        "tiktoken",
        "litellm",
        "bs4",
        "markdownify",
        "pypdf",
        "docx",
        "py3langid",
    }
    modules = "llmstack.documents.chunking, llmstack.documents.readers, llmstack.search.languages"
    program = f"import sys, {modules}; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
