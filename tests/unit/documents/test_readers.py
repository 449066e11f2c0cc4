from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import docx
import pypdf
import pytest

from llmstack.documents.chunking import DOCUMENT_TYPES
from llmstack.documents.readers import read_file, supported, walk
from llmstack.errors import MissingExtra, ValidationError

Writer = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def pdf_bytes(*lines: str) -> bytes:
    """A PDF with a page for each line."""
    count = len(lines)
    kids = " ".join(f"{4 + 2 * page} 0 R" for page in range(count))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for page, line in enumerate(lines):
        stream = f"BT /F1 12 Tf 72 720 Td ({line}) Tj ET"
        fonts = "/Resources << /Font << /F1 3 0 R >> >> /MediaBox [0 0 612 792]"
        objects.append(f"<< /Type /Page /Parent 2 0 R {fonts} /Contents {5 + 2 * page} 0 R >>")
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    data, offsets = "%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    trailer = f"trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{len(data)}\n%%EOF\n"
    return f"{data}xref\n0 {size}\n0000000000 65535 f \n{table}{trailer}".encode()


def test_plain_text_is_read_as_utf8(write: Writer) -> None:
    source = read_file(write("note.txt", "Grüße 😀"))
    assert (source.text, source.document_type, source.title) == ("Grüße 😀", "text", "note.txt")
    assert source.metadata == {}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_other_encodings_are_read_and_noted(write: Writer, encoding: str) -> None:
    source = read_file(write("note.txt", "Grüße, Maße".encode(encoding)))
    assert source.text == "Grüße, Maße"
    assert source.metadata["encoding"] == encoding


def test_big_endian_marks_are_understood(write: Writer) -> None:
    assert read_file(write("note.txt", b"\xfe\xff" + "Maße".encode("utf-16-be"))).text == "Maße"


def test_bytes_that_no_western_page_has_are_still_read(write: Writer) -> None:
    assert read_file(write("note.txt", b"caf\xe9 \x81")).metadata["encoding"] == "latin-1"


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


NESTED = "<div>" * 3000 + "deep" + "</div>" * 3000


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


@pytest.mark.parametrize("name", ["a.pdf", "a.docx"])
@pytest.mark.parametrize("content", [b"", b"no such format", b"PK\x03\x04broken", b"%PDF-1.4\nbroken"])
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


def test_email_gives_headers_body_and_attachment_names(write: Writer) -> None:
    message = (
        "From: Ann <ann@example.org>\r\nTo: bob@example.org\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"
        'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="b"\r\n\r\n'
        "--b\r\nContent-Type: text/plain; charset=iso-8859-1\r\n"
        "Content-Transfer-Encoding: quoted-printable\r\n\r\n"
        "sch=F6n\r\n--b\r\nContent-Type: text/csv\r\n"
        "Content-Disposition: attachment; filename=x.csv\r\n\r\n1,2\r\n--b--\r\n"
    )
    source = read_file(write("a.eml", message))
    assert source.text == "From: Ann <ann@example.org>\nTo: bob@example.org\nSubject: Grüße\n\nschön"
    assert (source.title, source.document_type) == ("Grüße", "email")
    assert source.metadata["attachments"] == ["x.csv"]


def test_an_html_mail_is_read_as_text(write: Writer) -> None:
    message = "From: a@example.org\nSubject: S\nContent-Type: text/html; charset=utf-8\n\n<p>Hello <b>you</b></p>"
    assert read_file(write("a.eml", message)).text.endswith("Hello **you**")


@pytest.mark.parametrize("content", ["", "  \n\t ", b"\xef\xbb\xbf"])
def test_files_without_text_are_refused(write: Writer, content: str | bytes) -> None:
    with pytest.raises(ValidationError, match="no text"):
        read_file(write("a.txt", content))


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


def test_walk_finds_readable_files_in_order_and_passes_over_the_rest(write: Writer, tmp_path: Path) -> None:
    kept = ["b.md", "a/z.py", "a/b/c.txt", "a.txt"]
    passed_over = [
        ".hidden.md",
        ".git/x.md",
        "node_modules/x.js",
        "a/__pycache__/x.py",
        "picture.png",
        "env/pyvenv.cfg",
        "env/x.py",
    ]
    for name in [*kept, *passed_over]:
        write(name, "x")
    write("binary.txt", b"\x00\x01")
    found = [str(path.relative_to(tmp_path)) for path in walk([tmp_path])]
    assert found == ["a.txt", "b.md", "a/z.py", "a/b/c.txt"]


def test_walk_survives_links_in_a_circle_and_dangling_ones(write: Writer, tmp_path: Path) -> None:
    file = write("a/x.md", "x")
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    os.symlink(tmp_path / "gone.md", tmp_path / "dangling.md")
    os.symlink(file, tmp_path / "again.md")
    assert [path.name for path in walk([tmp_path])] == ["again.md"]


def test_walk_gives_a_named_file_once_and_whatever_it_is(write: Writer, tmp_path: Path) -> None:
    odd = write("a.xyz", "x")
    assert list(walk([odd, odd])) == [odd]
    with pytest.raises(ValidationError, match="does not exist"):
        list(walk([tmp_path / "none"]))
