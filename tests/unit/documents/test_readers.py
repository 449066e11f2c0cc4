from __future__ import annotations

import sys
from pathlib import Path

import docx
import pypdf
import pytest
from file_support import Writer, pdf_bytes, read_file

from llmstack.documents import NothingToRead
from llmstack.documents.chunking import DOCUMENT_TYPES
from llmstack.documents.readers import supported
from llmstack.errors import MissingExtra, ValidationError


def test_plain_text_is_read_as_utf8(write: Writer) -> None:
    source = read_file(write("note.txt", "Grüße 😀"))
    assert (source.text, source.document_type, source.title) == ("Grüße 😀", "text", "note.txt")
    assert source.metadata == {}


@pytest.mark.parametrize(
    ("name", "document_type"),
    [
        ("a.py", "code"),
        ("a.rs", "code"),
        ("Makefile", "code"),
        ("a.json", "text"),
        ("a.yaml", "text"),
        ("a.rst", "text"),
    ],
)
def test_code_and_data_files_are_read_as_they_are(write: Writer, name: str, document_type: str) -> None:
    source = read_file(write(name, "x: 1\n"))
    assert (source.text, source.document_type) == ("x: 1\n", document_type)
    assert source.document_type in DOCUMENT_TYPES


def test_markdown_takes_its_title_from_the_first_heading(write: Writer) -> None:
    source = read_file(write("a.md", "```\n# no title\n```\n# Handbook\n\ntext"))
    assert (source.title, source.document_type) == ("Handbook", "markdown")


def test_html_becomes_markdown_without_scripts_and_navigation(write: Writer) -> None:
    page = """<html lang="de"><head><title>My
      page</title><style>p {}</style></head><body><nav>Menu</nav><h2>Leave</h2>
      <p>Sixteen <b>weeks</b>.</p><script>alert(1)</script></body></html>"""
    source = read_file(write("a.html", page))
    assert "## Leave" in source.text
    assert "Sixteen **weeks**." in source.text
    assert not any(word in source.text for word in ("alert", "Menu", "p {}", "My"))
    assert (source.title, source.language, source.document_type) == ("My page", "de", "html")


NESTED = "<div>" * 100_000 + "deep" + "</div>" * 100_000


@pytest.mark.parametrize(
    ("page", "last"),
    [
        ("<p>first" + "<p>paragraph" * 1500, "paragraph"),
        ("<ul>" + "<li>item" * 1500 + "</ul><p>end", "end"),
        ("<table>" + "<tr><td>a<td>b" * 1500 + "</table><p>end", "end"),
    ],
    ids=["paragraphs", "items", "cells"],
)
def test_elements_end_where_html_lets_their_end_be_implied(write: Writer, page: str, last: str) -> None:
    text = read_file(write("a.html", page)).text
    assert text.endswith(f"\n\n{last}")
    assert len(text.splitlines()) > 1500


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.html", NESTED, "HTML"),
        ("a.eml", f"From: a@example.org\nSubject: S\nContent-Type: text/html\n\n{NESTED}", "mail"),
    ],
)
def test_a_page_nested_too_deeply_is_named_with_the_reason(write: Writer, name: str, content: str, kind: str) -> None:
    with pytest.raises(ValidationError, match=rf"{name} is not a readable {kind} file: it is nested too deeply"):
        read_file(write(name, content))


def test_html_without_a_title_takes_its_first_heading(write: Writer) -> None:
    assert read_file(write("a.htm", "<h1>Rules</h1><p>text</p>")).title == "Rules"


def test_pdf_pages_are_read_in_order(write: Writer) -> None:
    source = read_file(write("a.pdf", pdf_bytes("Parental leave", "Sick leave")))
    assert source.text == "Parental leave\n\nSick leave"
    assert (source.document_type, source.title, source.metadata) == ("pdf", "a", {"pages": 2})


def test_an_encrypted_pdf_says_so(write: Writer, tmp_path: Path) -> None:
    writer = pypdf.PdfWriter(clone_from=write("a.pdf", pdf_bytes("secret")))
    writer.encrypt("password", algorithm="RC4-128")
    writer.write(tmp_path / "b.pdf")
    with pytest.raises(ValidationError, match="encrypted"):
        read_file(tmp_path / "b.pdf")


def test_a_pdf_whose_pages_never_end_says_so(write: Writer) -> None:
    endless = pdf_bytes("Leave").replace(b"/Kids [4 0 R]", b"/Kids [2 0 R]")
    with pytest.raises(ValidationError, match=r"a\.pdf is not a readable PDF file: Detected cyclic page references"):
        read_file(write("a.pdf", endless))


@pytest.mark.parametrize("name", ["a.pdf", "a.docx"])
@pytest.mark.parametrize("content", [b"no such format", b"PK\x03\x04broken", b"%PDF-1.4\nbroken"])
def test_broken_files_are_named_with_the_reason(write: Writer, name: str, content: bytes) -> None:
    with pytest.raises(ValidationError, match=name.replace(".", r"\.")) as caught:
        read_file(write(name, content))
    assert caught.value.field == "path"


def test_a_pdf_without_text_points_to_character_recognition(write: Writer) -> None:
    with pytest.raises(ValidationError, match="character recognition"):
        read_file(write("a.pdf", pdf_bytes("")))


def test_docx_keeps_headings_lists_and_tables_in_order(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_heading("Handbook", level=1)
    document.add_paragraph("Sixteen weeks.")
    document.add_paragraph("one", style="List Bullet")
    table = document.add_table(rows=2, cols=2)
    for cell, text in zip((cell for row in table.rows for cell in row.cells), "abcd", strict=True):
        cell.text = text
    document.add_heading("Sick leave", level=2)
    document.save(str(tmp_path / "a.docx"))
    source = read_file(tmp_path / "a.docx")
    assert source.text == (
        "# Handbook\n\nSixteen weeks.\n\n- one\n\n| a | b |\n| --- | --- |\n| c | d |\n\n## Sick leave"
    )
    assert (source.title, source.document_type) == ("Handbook", "docx")


@pytest.mark.parametrize("content", ["", "  \n\t ", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["a.txt", "__init__.py", "a.md"])
def test_nothing_is_to_be_read_in_an_empty_file(write: Writer, name: str, content: str | bytes) -> None:
    with pytest.raises(NothingToRead, match=f"{name} is empty"):
        read_file(write(name, content))


def test_binary_unknown_and_absent_files_are_refused(write: Writer, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="binary"):
        read_file(write("a.txt", b"\x00\x01\x02"))
    with pytest.raises(ValidationError, match="unknown kind"):
        read_file(write("a.xyz", "text"))
    with pytest.raises(ValidationError, match="cannot be read: No such file"):
        read_file(tmp_path / "none.txt")


@pytest.mark.parametrize(("name", "library"), [("a.html", "bs4"), ("a.pdf", "pypdf"), ("a.docx", "docx")])
def test_a_missing_library_names_the_extra(
    write: Writer, monkeypatch: pytest.MonkeyPatch, name: str, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=r"llmstack\[files\]"):
        read_file(write(name, "x"))


def test_supported_goes_by_the_name() -> None:
    assert supported(Path("A.PDF"))
    assert supported(Path("README"))
    assert not supported(Path("a.png"))
    assert not supported(Path("a"))
