"""Find the files worth reading, and say of the others why they are passed over."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from llmstack.errors import ValidationError

from .encodings import is_binary
from .formats import TEXTUAL, format_of

_SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__", "__pypackages__", "venv", "site-packages"})

PassedOver = Callable[[Path, str], None]
"""Is told the file, and of which kind it is: a suffix, or a few words."""


def walk(
    paths: Iterable[Path], *, passed_over: PassedOver, follow_links: bool = False, encoding: str | None = None
) -> Iterator[Path]:
    """Give the readable files under the paths, each once, sorted by name within each path.

    A file that is named outright is given whatever it is. Hidden and generated folders, hidden files and virtual
    environments are left out; of every other file that is not given `passed_over` is told. A link to a file in the
    named folder is that file; links that leave it, and links to folders, are followed with `follow_links` alone.
    What is text is told by its `encoding`, where one is named.
    """
    seen: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise ValidationError("path", f"{path} does not exist")
        for file in _files(path, passed_over, follow_links, encoding) if path.is_dir() else [path]:
            if (real := file.resolve()) not in seen:
                seen.add(real)
                yield file


def _files(folder: Path, passed_over: PassedOver, follow_links: bool, encoding: str | None) -> Iterator[Path]:
    root = folder.resolve()
    seen = {root}
    for current, folders, names in os.walk(folder, followlinks=follow_links):
        here = Path(current)
        folders[:] = sorted(name for name in folders if _is_entered(here / name, passed_over, follow_links, seen))
        for name in sorted(names):
            if name.startswith("."):
                continue
            reason = _reason(here / name, root, follow_links, encoding)
            if reason is None:
                yield here / name
            else:
                passed_over(here / name, reason)


def _is_entered(folder: Path, passed_over: PassedOver, follow_links: bool, seen: set[Path]) -> bool:
    name = folder.name
    if name.startswith(".") or name in _SKIPPED_FOLDERS or (folder / "pyvenv.cfg").exists():
        return False
    if folder.is_symlink() and not follow_links:
        passed_over(folder, "link to a folder")
        return False
    real = folder.resolve()
    # Links may lead in a circle.
    is_new = real not in seen
    seen.add(real)
    return is_new


def _reason(file: Path, root: Path, follow_links: bool, encoding: str | None) -> str | None:
    """Why the file is passed over, None for one to read."""
    if not file.exists():
        return "link to nothing"
    if not file.is_file():
        return "not a regular file"
    if file.is_symlink() and not follow_links and not file.resolve().is_relative_to(root):
        return "link out of its folder"
    found = format_of(file)
    if found is None:
        return file.suffix.lower() or "without a known name"
    return _reason_within(file, found, encoding)


def _reason_within(file: Path, found: str, encoding: str | None) -> str | None:
    """Look at the size and the first bytes; a file that cannot be opened is left to its reader."""
    with contextlib.suppress(OSError):
        if not file.stat().st_size:
            return "empty"
        if found in TEXTUAL:
            with file.open("rb") as opened:
                if is_binary(opened.read(4096), encoding):
                    return f"{file.suffix.lower() or file.name} that is binary"
    return None
