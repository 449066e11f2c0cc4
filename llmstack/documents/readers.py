"""Read files as texts, and find the files worth reading."""

from __future__ import annotations

import codecs
import contextlib
import email
import email.policy
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmstack.errors import LLMStackError, MissingExtra, ValidationError

from ..db.checks import UNSTORABLE

if TYPE_CHECKING:
    from docx.table import Table
    from docx.text.paragraph import Paragraph

_CODE = re.findall(
    r"\w+",
    """
    bash bat c cc cfg clj cmake cpp cs css cxx dart ex exs erl f90 fish go gradle graphql groovy h
    hpp hs ini java jl js jsx kt kts less lua m mjs ml mm nim php pl pm proto ps1 py pyi pyx r rake
    rb rs sass scala scss sh sol sql svelte swift tcl tf ts tsx vb vim vue xml zig zsh
    """,
)
_TYPES: dict[str, str] = {
    **{f".{suffix}": "code" for suffix in _CODE},
    **dict.fromkeys((".txt", ".text", ".rst", ".log", ".json", ".jsonl", ".csv", ".tsv"), "text"),
    **dict.fromkeys((".toml", ".yaml", ".yml"), "text"),
    **dict.fromkeys((".md", ".markdown"), "markdown"),
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    ".pdf": "pdf",
    ".docx": "docx",
    ".eml": "email",
}
_NAMES = {"readme": "text", "license": "text", "changelog": "text", "makefile": "code", "dockerfile": "code"}
_SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__", "__pypackages__", "venv", "site-packages"})
_NEVER_IN_TEXT = frozenset(b"\0\1\2\3\4\5\6\7\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19")
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True, slots=True)
class SourceText:
    """A file's text, ready to be added as a document."""

    text: str
    document_type: str
    title: str
    language: str | None = None
    """As the file itself declares it."""
    metadata: dict[str, Any] = field(default_factory=dict)


def supported(path: Path) -> bool:
    """Tell by the name whether `read_file` takes the file."""
    return _type_of(path) is not None


def walk(paths: Iterable[Path]) -> Iterator[Path]:
    """Give the readable files under the paths, each once, sorted by name within each path.

    A file that is named outright is given whatever it is. Hidden and generated folders, virtual environments,
    unknown kinds and binary files are passed over; links to folders are not followed.
    """
    seen: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise ValidationError("path", f"{path} does not exist")
        for file in _files(path) if path.is_dir() else [path]:
            if (real := file.resolve()) not in seen:
                seen.add(real)
                yield file


def read_file(path: Path) -> SourceText:
    """Read by the kind that the name tells; a file without text is an error."""
    document_type = _type_of(path)
    if document_type is None:
        raise ValidationError("path", f"{path} is of an unknown kind; known are {', '.join(sorted(_TYPES))}")
    read = _READERS.get(document_type, _read_text)
    try:
        source = read(path)
    except OSError as error:
        raise ValidationError("path", f"{path} cannot be read: {error.strerror or error}") from error
    text = UNSTORABLE.sub("", source.text)
    if not text.strip():
        raise ValidationError("path", f"{path} has no text{_HINTS.get(document_type, '')}")
    title = " ".join(UNSTORABLE.sub("", source.title).split()) or path.name
    return SourceText(text, document_type, title, source.language, source.metadata)


_HINTS = {"pdf": "; a scanned PDF needs character recognition first"}


def _type_of(path: Path) -> str | None:
    return _TYPES.get(path.suffix.lower()) or _NAMES.get(path.name.lower())


def _files(folder: Path) -> Iterator[Path]:
    for current, folders, names in os.walk(folder):
        here = Path(current)
        folders[:] = sorted(name for name in folders if not _is_skipped(here / name))
        for name in sorted(names):
            file = here / name
            if not name.startswith(".") and supported(file) and not _is_binary(file):
                yield file


def _is_skipped(folder: Path) -> bool:
    name = folder.name
    return name.startswith(".") or name in _SKIPPED_FOLDERS or (folder / "pyvenv.cfg").exists()


def _is_binary(file: Path) -> bool:
    """Look at the first bytes of what should be text; a file that cannot be opened is left to `read_file`."""
    if _type_of(file) in ("pdf", "docx") or not file.is_file():
        return not file.is_file()
    with contextlib.suppress(OSError), file.open("rb") as opened:
        head = opened.read(4096)
        return not head.startswith(tuple(bom for bom, _ in _BOMS)) and not _NEVER_IN_TEXT.isdisjoint(head)
    return False


def decode(data: bytes) -> tuple[str, str]:
    """Give the text and its encoding: what a byte order mark says, else UTF-8, else a Western code page."""
    marked = next((encoding for bom, encoding in _BOMS if data.startswith(bom)), None)
    for encoding in (marked, "utf-8", "cp1252"):
        if encoding:
            with contextlib.suppress(UnicodeDecodeError):
                return data.decode(encoding), encoding
    return data.decode("latin-1"), "latin-1"


def _decoded(path: Path) -> tuple[str, dict[str, Any]]:
    data = path.read_bytes()
    if not data.startswith(tuple(bom for bom, _ in _BOMS)) and not _NEVER_IN_TEXT.isdisjoint(data[:4096]):
        raise ValidationError("path", f"{path} is binary, not text")
    text, encoding = decode(data)
    return text, {} if encoding == "utf-8" else {"encoding": encoding}


def _read_text(path: Path) -> SourceText:
    text, metadata = _decoded(path)
    return SourceText(text, "text", path.name, metadata=metadata)


def _read_markdown(path: Path) -> SourceText:
    text, metadata = _decoded(path)
    return SourceText(text, "markdown", _first_heading(text) or path.stem, metadata=metadata)


def _first_heading(text: str) -> str | None:
    from .chunking.structure import markdown_headings

    return next((title for level, title in markdown_headings(text) if level == 1), None)


def _read_html(path: Path) -> SourceText:
    with _needs("HTML files"):
        from bs4 import BeautifulSoup
        from markdownify import MarkdownConverter
    with _explained(path, "HTML"):
        soup = BeautifulSoup(path.read_bytes(), "html.parser")
        root = soup.find("html")
        language = root.get("lang") if root else None
        title = soup.title or soup.find("h1")
        name = title.get_text(" ", strip=True) if title else path.stem
        for tag in soup(["head", "script", "style", "nav", "noscript", "template", "svg"]):
            tag.decompose()
        text: str = MarkdownConverter(heading_style="ATX").convert_soup(soup)
        text = re.sub(r"\n{3,}", "\n\n", text).strip()
        return SourceText(text, "html", name, language if isinstance(language, str) else None)


def _read_pdf(path: Path) -> SourceText:
    with _needs("PDF files"):
        import pypdf
    with _explained(path, "PDF"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = pypdf.PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise ValidationError("path", f"{path} is encrypted; save it without a password first")
        text = "\n\n".join(page.extract_text() for page in reader.pages)
        information = reader.metadata
        title = str(information.title or "") if information else ""
        return SourceText(text, "pdf", title or path.stem, metadata={"pages": len(reader.pages)})


def _read_docx(path: Path) -> SourceText:
    with _needs("DOCX files"):
        import docx
        from docx.table import Table
    with _explained(path, "DOCX"):
        opened = docx.Document(str(path))
        blocks = [
            _row_lines(block) if isinstance(block, Table) else _markdown_line(block)
            for block in opened.iter_inner_content()
        ]
        text = "\n\n".join(block for block in blocks if block.strip())
        title = opened.core_properties.title or _first_heading(text) or path.stem
        return SourceText(text, "docx", title)


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


def _read_email(path: Path) -> SourceText:
    with _explained(path, "mail"):
        message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
        shown = ("From", "To", "Cc", "Date", "Subject")
        headers = {name: " ".join(str(message[name]).split()) for name in shown if message[name]}
        lines = [f"{name}: {value}" for name, value in headers.items()]
        attached = [name for part in message.iter_attachments() if (name := part.get_filename())]
        metadata: dict[str, Any] = {name.lower(): value for name, value in headers.items() if name != "Subject"}
        if attached:
            metadata["attachments"] = attached
        text = "\n".join([*lines, "", _body(message)]).strip()
        return SourceText(text, "email", headers.get("Subject", path.stem), metadata=metadata)


def _body(message: EmailMessage) -> str:
    part = message.get_body(preferencelist=("plain", "html"))
    if part is None:
        return ""
    payload = part.get_payload(decode=True)
    data = payload if isinstance(payload, bytes) else b""
    text, _ = decode(data)
    with contextlib.suppress(LookupError, UnicodeDecodeError):
        text = data.decode(part.get_content_charset("utf-8"))
    return _html_text(text) if part.get_content_subtype() == "html" else text.replace("\r\n", "\n")


def _html_text(html: str) -> str:
    with _needs("HTML mail"):
        from markdownify import markdownify
    text: str = markdownify(html, heading_style="ATX", strip=["script", "style"])
    return text


@contextlib.contextmanager
def _needs(feature: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise MissingExtra(feature=f"reading {feature}", extra="files") from error


@contextlib.contextmanager
def _explained(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a parser raises on a broken file into an error that names the file."""
    try:
        yield
    except (LLMStackError, OSError):
        raise
    except RecursionError as error:
        raise ValidationError("path", f"{path} is not a readable {kind} file: it is nested too deeply") from error
    except Exception as error:
        reason = str(error).strip() or type(error).__name__
        raise ValidationError("path", f"{path} is not a readable {kind} file: {reason}") from error


_READERS: dict[str, Callable[[Path], SourceText]] = {
    "markdown": _read_markdown,
    "html": _read_html,
    "pdf": _read_pdf,
    "docx": _read_docx,
    "email": _read_email,
}
