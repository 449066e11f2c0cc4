"""Jupyter notebooks: their text and code, without what the code gave out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from .encodings import decode
from .formats import TYPES_OF_FORMATS
from .needs import explained
from .plain import first_heading
from .sources import Source, SourceText


def read_notebook(source: Source) -> SourceText:
    """Cells in their order, code in fences of its language; versions 3 and 4 of the format."""
    with explained(source.name, "notebook"):
        notebook = json.loads(decode(source.read())[0])
        described = notebook.get("metadata", {})
        language = described.get("language_info", {}).get("name") or described.get("kernelspec", {}).get("language", "")
        text = "\n\n".join(block for cell in _cells(notebook) if (block := _block(cell, language)))
        title = described.get("title") or first_heading(text) or source.path.stem
        return SourceText(text, TYPES_OF_FORMATS["notebook"], str(title), metadata={"format": "ipynb"})


def _cells(notebook: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from notebook.get("cells", ())
    for worksheet in notebook.get("worksheets", ()):
        yield from worksheet.get("cells", ())


def _block(cell: dict[str, Any], language: str) -> str:
    kind = cell["cell_type"]
    given = cell.get("source", cell.get("input", ""))
    text = (given if isinstance(given, str) else "".join(given)).strip("\n")
    if not text.strip():
        return ""
    if kind == "code":
        fence = "````" if "```" in text else "```"
        return f"{fence}{cell.get('language', language)}\n{text}\n{fence}"
    return f"{'#' * int(cell.get('level', 1))} {text}" if kind == "heading" else text
