"""Which files are read, told by their names, and the type of document that they become."""

from __future__ import annotations

import re
from pathlib import Path

_CODE = re.findall(
    r"\w+",
    """
    bash bat c cc cfg clj cmake cpp cs css cxx dart ex exs erl f90 fish go gradle graphql groovy h
    hpp hs ini java jl js jsx kt kts less lua m mjs ml mm nim php pl pm proto ps1 py pyi pyx r rake
    rb rs sass scala scss sh sol sql svelte swift tcl tf ts tsx vb vim vue xml zig zsh
    """,
)
_FORMATS: dict[str, str] = {
    **{f".{suffix}": "code" for suffix in _CODE},
    **dict.fromkeys((".txt", ".text", ".rst", ".log", ".json", ".jsonl", ".csv", ".tsv"), "text"),
    **dict.fromkeys((".toml", ".yaml", ".yml"), "text"),
    **dict.fromkeys((".md", ".markdown"), "markdown"),
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    ".pdf": "pdf",
    ".docx": "docx",
    ".eml": "email",
    ".mbox": "mbox",
    ".ipynb": "notebook",
    **{f".{name}": name for name in ("pptx", "xlsx", "epub", "odt", "rtf")},
}
_NAMES = {"readme": "text", "license": "text", "changelog": "text", "makefile": "code", "dockerfile": "code"}

PLAIN = frozenset({"text", "code", "markdown"})
"""Formats that are their own text."""

TEXTUAL = PLAIN | {"html", "email", "mbox", "notebook", "rtf"}
"""Formats in which no binary file begins."""

TYPES_OF_FORMATS = {
    "pptx": "presentation",
    **dict.fromkeys(("notebook", "xlsx", "epub", "odt", "rtf"), "markdown"),
}
"""What a format becomes where that is not a type of the same name."""


def format_of(path: Path) -> str | None:
    """The format that the name tells, None for an unknown one."""
    return _FORMATS.get(path.suffix.lower()) or _NAMES.get(path.name.lower())


def supported(path: Path) -> bool:
    """Tell by the name whether a file is of a known kind."""
    return format_of(path) is not None


def known_suffixes() -> str:
    """The suffixes, as an error lists them."""
    return ", ".join(sorted(_FORMATS))
