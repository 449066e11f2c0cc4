"""Presentations, spreadsheets, books, notebooks: their texts in their order."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import docx
import pytest
from file_support import Writer, epub, notebook, odt, pptx, read_file, xlsx

from llmstack.errors import ValidationError


def test_a_presentation_is_read_slide_by_slide(tmp_path: Path) -> None:
    source = read_file(pptx(tmp_path / "a.pptx", "Parental leave", "Sick leave", "Sick leave"))
    assert [line.lstrip("# ") for line in source.text.split("\n\n")] == ["Parental leave", "Sick leave", "Sick leave"]
    assert (source.document_type, source.metadata) == ("presentation", {"format": "pptx"})


def test_the_speakers_notes_are_read_and_page_numbers_are_not(tmp_path: Path) -> None:
    notes = ["body: Say hello", "sldNum: 2", *["body: and so on"] * 7, "body: Say goodbye"]
    source = read_file(pptx(tmp_path / "a.pptx", "Slide", notes=notes))
    blocks = source.text.split("\n\n")
    assert blocks[1:] == ["Notes: Say hello", *["Notes: and so on"] * 7, "Notes: Say goodbye"]


def test_a_spreadsheet_becomes_tables(tmp_path: Path) -> None:
    source = read_file(xlsx(tmp_path / "a.xlsx", "Prices", ("name", "price"), ("Kettle", 39.5), ("Pot", 7)))
    assert source.text == "## Prices\n\n| name | price |\n| --- | --- |\n| Kettle | 39.5 |\n| Pot | 7 |"
    assert (source.title, source.document_type, source.metadata) == ("a", "markdown", {"format": "xlsx"})


def test_a_book_is_read_in_the_order_of_its_spine(tmp_path: Path) -> None:
    book = epub(tmp_path / "a.epub", "<h1>One</h1><p>Water &amp; fire.</p>", "<h1>Two</h1>", title="The Kettle")
    source = read_file(book)
    assert source.text == "# One\n\nWater & fire.\n\n# Two"
    assert (source.title, source.language, source.metadata) == ("The Kettle", "en", {"format": "epub"})


def test_an_open_document_keeps_headings_lists_and_tables(tmp_path: Path) -> None:
    body = (
        '<text:h text:outline-level="1">Care</text:h><text:p>Descale monthly.</text:p>'
        "<text:list><text:list-item><text:p>one</text:p></text:list-item></text:list>"
        "<table:table><table:table-row><table:table-cell><text:p>a</text:p></table:table-cell>"
        "<table:table-cell><text:p>b</text:p></table:table-cell></table:table-row></table:table>"
    )
    source = read_file(odt(tmp_path / "a.odt", body))
    assert source.text == "# Care\n\nDescale monthly.\n\n- one\n\n| a | b |\n| --- | --- |"
    assert (source.title, source.document_type, source.metadata) == ("Care", "markdown", {"format": "odt"})


def test_rich_text_is_read_in_its_code_page(write: Writer) -> None:
    text = (
        rb"{\rtf1\ansi\ansicpg1251{\fonttbl{\f0 Times;}}\f0 \'cf\'f0\'e8\'e2\'e5\'f2\par \b Second\b0  \u26085?.\par}"
    )
    source = read_file(write("a.rtf", text))
    assert source.text == "Привет\n\n**Second** 日."
    assert (source.document_type, source.metadata) == ("markdown", {"format": "rtf"})


CELLS = (
    {"cell_type": "markdown", "metadata": {}, "source": ["# Study\n", "\n", "Some words."]},
    {
        "cell_type": "code",
        "metadata": {},
        "source": "boil(1)\n",
        "outputs": [{"output_type": "display_data", "data": {"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"}}],
    },
    {"cell_type": "code", "metadata": {}, "source": [], "outputs": []},
    {"cell_type": "raw", "metadata": {}, "source": "as it is"},
)


def test_a_notebook_gives_text_and_code_and_not_what_it_gave_out(write: Writer) -> None:
    source = read_file(write("a.ipynb", notebook(*CELLS)))
    assert source.text == "# Study\n\nSome words.\n\n```python\nboil(1)\n```\n\nas it is"
    assert (source.title, source.document_type, source.metadata) == ("Study", "markdown", {"format": "ipynb"})


def test_a_fence_holds_code_that_has_one(write: Writer) -> None:
    cell = {"cell_type": "code", "source": 'print("""```""")'}
    assert read_file(write("a.ipynb", notebook(cell))).text == '````python\nprint("""```""")\n````'


def test_a_notebook_of_version_3_is_read(write: Writer) -> None:
    cells = [
        {"cell_type": "heading", "level": 2, "source": "Old"},
        {"cell_type": "code", "language": "python", "input": "x = 1"},
    ]
    old = {"worksheets": [{"cells": cells}], "metadata": {}, "nbformat": 3}
    assert read_file(write("a.ipynb", json.dumps(old))).text == "## Old\n\n```python\nx = 1\n```"


@pytest.mark.parametrize("content", ["{", "[]", '{"cells": [1]}', '{"cells": [{"source": "x"}]}', '{"cells": []}'])
def test_a_broken_or_empty_notebook_says_so(write: Writer, content: str) -> None:
    with pytest.raises(ValidationError, match=r"a\.ipynb (is not a readable notebook file|has no text)"):
        read_file(write("a.ipynb", content))


OFFICE = ["docx", "pptx", "xlsx", "epub", "odt"]


@pytest.mark.parametrize("kind", OFFICE)
def test_what_an_archive_would_unpack_to_is_known_before(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"<w:p/>" * 50_000)
    assert path.stat().st_size < 2_000
    with pytest.raises(ValidationError, match=r"too large: unpacked it would hold 300,000 bytes; 200,000 are read"):
        read_file(path, max_bytes=200_000)


def test_pictures_do_not_count_for_they_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.docx"
    document = docx.Document()
    document.add_paragraph("Sixteen weeks.")
    document.save(str(path))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("word/media/photo.JPEG", b"\xff" * 5_000_000)
    assert read_file(path, max_bytes=2_000_000).text == "Sixteen weeks."


@pytest.mark.parametrize("kind", OFFICE)
def test_an_encrypted_or_old_file_is_named_as_such(write: Writer, kind: str) -> None:
    with pytest.raises(ValidationError, match=f"is encrypted, or of the format before {kind.upper()}"):
        read_file(write(f"a.{kind}", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)))


@pytest.mark.parametrize("kind", [*OFFICE, "rtf"])
@pytest.mark.parametrize("content", [b"no such format", b"PK\x03\x04broken"])
def test_a_broken_file_is_named_with_the_reason(write: Writer, kind: str, content: bytes) -> None:
    with pytest.raises(ValidationError, match=rf"a\.{kind} is not a readable {kind.upper()} file: .+") as caught:
        read_file(write(f"a.{kind}", content))
    assert caught.value.field == "path"
