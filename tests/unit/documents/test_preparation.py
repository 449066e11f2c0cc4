from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from llmstack.db.checks import MAX_OWNER_BYTES, check_date, check_id, check_metadata
from llmstack.documents import ChunkingConfig, ChunkPiece, DocumentInput
from llmstack.documents.preparation import MAX_NAME_BYTES, MAX_ORIGIN_BYTES, prepare
from llmstack.documents.records import PreparedDocument
from llmstack.errors import ValidationError
from llmstack.settings import Settings

SETTINGS = Settings()
GIVEN = DocumentInput(owner_id="acme", id_at_origin="it", content="a few words")


def prepared(**change: Any) -> PreparedDocument:
    return prepare(dataclasses.replace(GIVEN, **change), SETTINGS)


@pytest.mark.parametrize(
    ("field", "limit"),
    [("owner_id", MAX_OWNER_BYTES), ("id_at_origin", MAX_ORIGIN_BYTES), ("document_name", MAX_NAME_BYTES)],
)
def test_ids_are_bounded_in_bytes(field: str, limit: int) -> None:
    prepared(**{field: "x" * limit})
    prepared(**{field: "ü" * (limit // 2)})
    for text in ("x" * (limit + 1), "ü" * (limit // 2 + 1)):
        with pytest.raises(ValidationError, match="longer than") as refused:
            prepared(**{field: text})
        assert refused.value.field == field


def test_the_longest_identity_fits_an_index_page() -> None:
    # A btree of 8 kB pages takes entries of 2,704 bytes.
    assert MAX_OWNER_BYTES + MAX_ORIGIN_BYTES + 100 < 2704


@pytest.mark.parametrize("value", ["", " ", "\n", None, 5, b"it", "a\x00", "\ud800", ["it"]])
def test_an_id_is_a_text_that_says_something(value: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        check_id("document_name", value, limit=100)
    assert refused.value.field == "document_name"
    assert str(refused.value).startswith("document_name: ")


def test_ids_are_kept_as_they_are() -> None:
    assert check_id("id_at_origin", " a/../b\t", limit=100) == " a/../b\t"


def test_the_name_defaults_to_the_id_at_origin() -> None:
    assert prepared().name == "it"
    assert prepared(document_name="").name == "it"


@pytest.mark.parametrize(
    ("content", "stored"),
    [
        ("a\x00b", "ab"),
        ("\ud800a", "a"),
        ("\ud83d\ude00 pair", " pair"),
        ("\U0001f600", "\U0001f600"),
        ("\ufeffa\u2028", "\ufeffa\u2028"),
    ],
)
def test_only_what_cannot_be_stored_is_cleaned_away_and_said(content: str, stored: str) -> None:
    document = prepared(content=content)
    assert document.content == stored
    assert document.cleaned is (content != stored)
    assert document.content_bytes == len(stored.encode())


def test_a_moment_is_kept_in_utc() -> None:
    east = dt.timezone(dt.timedelta(hours=5))
    moment = check_date("document_date", dt.datetime(2020, 1, 1, 3, tzinfo=east))
    assert moment == dt.datetime(2019, 12, 31, 22, tzinfo=dt.UTC)
    assert check_date("document_date", None) is None


@pytest.mark.parametrize(
    "value",
    [
        dt.datetime(2020, 1, 1),
        dt.date(2020, 1, 1),
        "2020-01-01",
        1577836800,
        dt.datetime.max.replace(tzinfo=dt.timezone(dt.timedelta(hours=-5))),
    ],
)
def test_a_moment_without_a_place_on_the_time_line_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError, match="document_date"):
        check_date("document_date", value)


def test_metadata_comes_back_as_json_gives_it_and_shares_nothing_with_the_callers() -> None:
    given: dict[Any, Any] = {"a": (1, 2), 3: {"b": [None]}}
    checked = check_metadata(given, limit=1000)
    assert checked == {"a": [1, 2], "3": {"b": [None]}}
    checked["3"]["b"].append(1)
    assert given == {"a": (1, 2), 3: {"b": [None]}}


def test_metadata_is_bounded_in_bytes_of_json() -> None:
    assert check_metadata({"a": "ü" * 10}, limit=29) == {"a": "ü" * 10}
    with pytest.raises(ValidationError, match="max_metadata_bytes"):
        check_metadata({"a": "ü" * 10}, limit=28)


def test_every_piece_has_its_own_hash_and_equal_ones_are_told_apart_by_their_turn() -> None:
    twice = prepared(content="same\nsame\nother", chunking=str.splitlines).chunks
    once = prepared(content="other\nsame", chunking=str.splitlines).chunks
    hashes = [chunk.content_hash for chunk in twice]
    assert len(set(hashes)) == 3
    assert [chunk.content_hash for chunk in once] == [hashes[2], hashes[0]]


@pytest.mark.parametrize("change", [{"document_name": "Title"}, {"content": "other words"}])
def test_what_is_embedded_decides_the_hash(change: dict[str, Any]) -> None:
    assert prepared(**change).chunks[0].content_hash != prepared().chunks[0].content_hash


@pytest.mark.parametrize(
    "change",
    [{"owner_id": "umbrella"}, {"metadata": {"a": 1}}, {"language": "german"}, {"document_type": "text"}],
)
def test_what_is_not_embedded_does_not(change: dict[str, Any]) -> None:
    assert prepared(**change).chunks[0].content_hash == prepared(document_name="it").chunks[0].content_hash


def test_title_and_sections_are_the_context_and_go_into_the_embedded_text_only() -> None:
    document = prepared(
        content="# One\n\n## Two\n\nwords",
        document_type="markdown",
        chunking="semantic",
        document_name="Title",
    )
    chunk = document.chunks[-1]
    assert chunk.context == "Title > One > Two"
    assert chunk.embedded_text == f"Title > One > Two\n{chunk.piece.content}"
    assert "Title" not in chunk.piece.content


def test_a_change_of_the_cut_is_a_change_of_the_document() -> None:
    def mine(content: str) -> list[str]:
        return [content]

    described = [
        prepared().chunking,
        prepared(chunking="none").chunking,
        prepared(chunking=mine).chunking,
        prepared(chunking_config=ChunkingConfig(chunk_size=50)).chunking,
    ]
    assert described[0] == {"strategy": "hierarchical"}
    assert described[3] == {"strategy": "hierarchical", "chunk_size": 50}
    assert len({str(item) for item in described}) == 4


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"content": "\n"}, "content"),
        ({"content": None}, "content"),
        ({"document_type": "novel"}, "document_type"),
        ({"language": b"en"}, "language"),
        ({"chunking": lambda content: []}, "content"),
        ({"chunking": lambda content: [ChunkPiece(content, 0, len(content), level=-1)]}, "chunking"),
        ({"chunking": lambda content: [ChunkPiece(content, 0, len(content), level=10**9)]}, "chunking"),
    ],
)
def test_a_document_that_cannot_be_cut_is_refused_by_its_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        prepared(**change)
    assert refused.value.field == field


def test_a_text_over_the_limit_is_refused_before_it_is_cut() -> None:
    def never(content: str) -> list[str]:
        raise AssertionError("it was cut")

    given = dataclasses.replace(GIVEN, content="x" * 101, chunking=never)
    with pytest.raises(ValidationError, match="max_text_bytes"):
        prepare(given, Settings(max_text_bytes=100))


def cut_at(separator: str) -> Callable[[str], list[str]]:
    return lambda content: content.split(separator)


class Cutter:
    """A chunker that is an object."""

    def __call__(self, content: str) -> list[str]:
        return content.split()


def test_functions_are_told_apart_by_what_they_do() -> None:
    chunkers: list[Any] = [
        lambda content: content.split(),
        lambda content: content.splitlines(),
        lambda content: [piece for piece in content.split() if piece in {"a", "few", "words"}],
        cut_at(" "),
        cut_at("e"),
        functools.partial(str.split, sep=" "),
        functools.partial(str.split, sep="e"),
        str.split,
        str.splitlines,
        Cutter(),
    ]
    described = [json.dumps(prepared(chunking=chunker).chunking) for chunker in chunkers]
    assert len(set(described)) == len(chunkers)
    assert described == [json.dumps(prepared(chunking=chunker).chunking) for chunker in chunkers]
    assert prepared(chunking=cut_at(" ")).chunking == prepared(chunking=cut_at(" ")).chunking
    assert prepared(chunking=Cutter()).chunking["strategy"] == f"{__name__}.Cutter"


def test_a_function_is_described_alike_in_every_process() -> None:
    program = (
        "from llmstack.documents.chunking.custom import describe_chunker\n"
        "print(describe_chunker(lambda text: [[p for p in text.split() if p in {'a', 'b', 'c'}] for _ in 'x']))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
