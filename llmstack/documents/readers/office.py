"""Word processors' texts, presentations, spreadsheets and books, as Markdown."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from llmstack.errors import ValidationError

from .formats import TYPES_OF_FORMATS
from .needs import explained, needed
from .plain import first_heading
from .sources import Source, SourceText, check_size

if TYPE_CHECKING:
    from docx.table import Table
    from docx.text.paragraph import Paragraph

_MIME = {
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "epub": "application/epub+zip",
    "odt": "application/vnd.oasis.opendocument.text",
    "rtf": "application/rtf",
}
_NAMESPACES = {
    "p": "http://schemas.openxmlformats.org/presentationml/2006/main",
    "a": "http://schemas.openxmlformats.org/drawingml/2006/main",
}
_NOTES = re.compile(r"ppt/notesSlides/notesSlide(\d+)\.xml")
_NOTES_BODY = ".//p:sp/p:nvSpPr/p:nvPr/p:ph[@type='body']/../../.."
_OLD_OR_ENCRYPTED = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_MEDIA = re.compile(
    r"\.(avi|bmp|emf|gif|jpe?g|m4[av]|mov|mp[34]|ogg|otf|png|tiff?|ttf|wav|webp|wmf|woff2?)$", re.IGNORECASE
)


def read_docx(source: Source) -> SourceText:
    """Headings, paragraphs, lists and tables in their order."""
    with needed("DOCX files"):
        import docx
        from docx.table import Table
    with explained(source.name, "DOCX"):
        _check_package(source)
        opened = docx.Document(str(source.path))
        blocks = [
            _row_lines(block) if isinstance(block, Table) else _markdown_line(block)
            for block in opened.iter_inner_content()
        ]
        text = "\n\n".join(block for block in blocks if block.strip())
        title = opened.core_properties.title or first_heading(text) or source.path.stem
        return SourceText(text, "docx", title)


def read_office(source: Source) -> SourceText:
    """Slides, sheets, chapters or paragraphs in their order; tables become Markdown's."""
    kind = source.format.upper()
    with needed(f"{kind} files"):
        from kreuzberg import ContentFilterConfig, ExtractionConfig, extract_bytes_sync
    with explained(source.name, kind):
        data = source.read()
        if source.format != "rtf":
            _check_package(source)
        elif not data.startswith(rb"{\rtf"):
            raise ValueError(r"it does not begin with {\rtf")
        config = ExtractionConfig(
            output_format="markdown",
            use_cache=False,
            enable_quality_processing=False,
            content_filter=ContentFilterConfig(strip_repeating_text=False),
        )
        found = extract_bytes_sync(data, _MIME[source.format], config=config)
        text = "\n\n".join([found.content.strip(), *(_notes(source) if source.format == "pptx" else ())])
        title = found.metadata.get("title") or first_heading(text) or source.path.stem
        language = found.metadata.get("language")
        document_type, metadata = TYPES_OF_FORMATS[source.format], {"format": source.format}
        return SourceText(text, document_type, str(title), language, metadata)


def _notes(source: Source) -> Iterator[str]:
    """What the speaker notes to slides, which the library leaves out."""
    with zipfile.ZipFile(source.path) as package:
        numbers = {name: int(match[1]) for name in package.namelist() if (match := _NOTES.fullmatch(name))}
        for name in sorted(numbers, key=numbers.__getitem__):
            for body in ElementTree.fromstring(package.read(name)).iterfind(_NOTES_BODY, _NAMESPACES):
                lines = ["".join(line.itertext()).strip() for line in body.iterfind(".//a:p", _NAMESPACES)]
                if written := "\n".join(line for line in lines if line):
                    yield f"Notes: {written}"


def _check_package(source: Source) -> None:
    """Know before it is unpacked how much text the archive holds; its pictures and sounds are not read."""
    with source.path.open("rb") as opened:
        if opened.read(8) == _OLD_OR_ENCRYPTED:
            raise ValidationError(
                "path", f"{source.name} is encrypted, or of the format before {source.format.upper()}"
            )
        with zipfile.ZipFile(opened) as package:
            parts = [one for one in package.infolist() if not _MEDIA.search(one.filename)]
    check_size(source.name, sum(one.file_size for one in parts), source.max_bytes, "unpacked it would hold")


def _markdown_line(paragraph: Paragraph) -> str:
    style = (paragraph.style.name if paragraph.style else None) or ""
    level = 1 if style == "Title" else int(match[1]) if (match := re.match(r"Heading ([1-9])", style)) else 0
    text = paragraph.text.strip()
    if level and text:
        return f"{'#' * min(level, 6)} {' '.join(text.split())}"
    return f"- {text}" if text and style.startswith("List ") else text


def _row_lines(table: Table) -> str:
    rows = [[" ".join(cell.text.split()) for cell in row.cells] for row in table.rows]
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    if lines:
        lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines)
