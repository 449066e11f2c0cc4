"""Files as other programs write them, and one call that reads them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmstack.documents.readers import SourceText, read, sources

Writer = Callable[[str, str | bytes], Path]


def read_file(path: Path, **options: Any) -> SourceText:
    """Read a file that becomes a single document."""
    (source,) = sources(path, **options)
    return read(source)


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


def package(path: Path, **parts: str | bytes) -> Path:
    """An archive of parts, as the office formats are; `__` in a name stands for a slash, `_` for a dot."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), content)
    return path


_XML = '<?xml version="1.0" encoding="UTF-8"?>'
_OPEN = "urn:oasis:names:tc:opendocument:xmlns"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"


def odt(path: Path, body: str) -> Path:
    """An OpenDocument text around the elements of its body."""
    names = f'xmlns:office="{_OPEN}:office:1.0" xmlns:text="{_OPEN}:text:1.0" xmlns:table="{_OPEN}:table:1.0"'
    content = f"<office:body><office:text>{body}</office:text></office:body>"
    return package(
        path,
        mimetype="application/vnd.oasis.opendocument.text",
        content_xml=f"{_XML}<office:document-content {names}>{content}</office:document-content>",
    )


def epub(path: Path, *chapters: str, title: str) -> Path:
    """A book of chapters, listed in the other order and read in the order of its spine."""
    container = (
        '<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
    )
    numbers = range(len(chapters))
    items = "".join(
        f'<item id="c{number}" href="c{number}.xhtml" media-type="application/xhtml+xml"/>'
        for number in reversed(numbers)
    )
    spine = "".join(f'<itemref idref="c{number}"/>' for number in numbers)
    book = (
        '<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="i">'
        '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:identifier id="i">1</dc:identifier>'
        f"<dc:title>{title}</dc:title><dc:language>en</dc:language></metadata>"
        f"<manifest>{items}</manifest><spine>{spine}</spine></package>"
    )
    pages = {
        f"c{number}_xhtml": f'<html xmlns="http://www.w3.org/1999/xhtml"><body>{chapter}</body></html>'
        for number, chapter in enumerate(chapters)
    }
    return package(
        path, mimetype="application/epub+zip", **{"META-INF__container_xml": _XML + container}, book_opf=_XML + book,
        **pages,
    )  # fmt: skip


def xlsx(path: Path, sheet: str, *rows: tuple[str | float, ...]) -> Path:
    """A workbook of one sheet, with its texts in the cells."""

    def cell(value: str | float) -> str:
        if isinstance(value, str):
            return f'<c t="inlineStr"><is><t>{value}</t></is></c>'
        return f"<c><v>{value}</v></c>"

    lines = "".join(f'<row r="{number}">{"".join(map(cell, row))}</row>' for number, row in enumerate(rows, start=1))
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    return _office(
        path, "xl/workbook.xml", "spreadsheetml.sheet",
        f'<workbook xmlns="{main}" xmlns:r="{_OFFICE}/relationships">'
        f'<sheets><sheet name="{sheet}" sheetId="1" r:id="rId1"/></sheets></workbook>',
        {"xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{lines}</sheetData></worksheet>'},
        {"rId1": ("worksheet", "worksheets/sheet1.xml")},
    )  # fmt: skip


def pptx(path: Path, *slides: str, notes: Sequence[str] = ()) -> Path:
    """A presentation with a box of text on each slide, and notes."""
    main, draw = (f"http://schemas.openxmlformats.org/{one}/2006/main" for one in ("presentationml", "drawingml"))
    names = f'xmlns:p="{main}" xmlns:a="{draw}" xmlns:r="{_OFFICE}/relationships"'
    ids = "".join(f'<p:sldId id="{256 + number}" r:id="rId{number}"/>' for number in range(1, len(slides) + 1))
    parts = {
        f"ppt/slides/slide{number}.xml": f"<p:sld {names}><p:cSld><p:spTree><p:sp><p:nvSpPr/><p:spPr/><p:txBody>"
        f"<a:p><a:r><a:t>{text}</a:t></a:r></a:p></p:txBody></p:sp></p:spTree></p:cSld></p:sld>"
        for number, text in enumerate(slides, start=1)
    }
    parts |= {
        f"ppt/notesSlides/notesSlide{number}.xml": f"<p:notes {names}><p:cSld><p:spTree><p:sp><p:nvSpPr><p:nvPr>"
        f'<p:ph type="{kind}"/></p:nvPr></p:nvSpPr><p:txBody><a:p><a:r><a:t>{text}</a:t></a:r></a:p></p:txBody></p:sp>'
        "</p:spTree></p:cSld></p:notes>"
        for number, note in enumerate(notes, start=1)
        for kind, text in [note.split(": ")]
    }
    links = {f"rId{number}": ("slide", f"slides/slide{number}.xml") for number in range(1, len(slides) + 1)}
    whole = f"<p:presentation {names}><p:sldIdLst>{ids}</p:sldIdLst></p:presentation>"
    return _office(path, "ppt/presentation.xml", "presentationml.presentation", whole, parts, links)


def _office(
    path: Path, main: str, kind: str, whole: str, parts: dict[str, str], links: dict[str, tuple[str, str]]
) -> Path:
    """An Office Open XML package: a main part, and the parts that it links."""
    folder, _, name = main.rpartition("/")
    types = (
        f'<Types xmlns="{_PACKAGE}/content-types"><Default Extension="xml" ContentType="application/xml"/>'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/{main}" ContentType="application/vnd.openxmlformats-officedocument.{kind}.main+xml"/>'
        "</Types>"
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", _XML + types)
        archive.writestr("_rels/.rels", _XML + _links({"rId1": ("officeDocument", main)}))
        archive.writestr(main, _XML + whole)
        archive.writestr(f"{folder}/_rels/{name}.rels", _XML + _links(links))
        for part, content in parts.items():
            archive.writestr(part, _XML + content)
    return path


def _links(targets: dict[str, tuple[str, str]]) -> str:
    links = "".join(
        f'<Relationship Id="{name}" Type="{_OFFICE}/relationships/{kind}" Target="{target}"/>'
        for name, (kind, target) in targets.items()
    )
    return f'<Relationships xmlns="{_PACKAGE}/relationships">{links}</Relationships>'


def notebook(*cells: dict[str, Any], language: str = "python") -> str:
    """A notebook of version 4."""
    return json.dumps(
        {"cells": list(cells), "metadata": {"language_info": {"name": language}}, "nbformat": 4, "nbformat_minor": 5}
    )
