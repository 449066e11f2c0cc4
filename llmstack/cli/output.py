"""What is printed: JSON for programs, tables and text for people."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ..embeddings import PendingCounts

_WIDE = 1000
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise


def console(*, error: bool = False) -> Console:
    """A console of the stream as it is now; what is not a terminal gets plain text that is never cut."""
    stream = sys.stderr if error else sys.stdout
    width = None if stream.isatty() else _WIDE
    return _Console(file=stream, width=width, highlight=False, emoji=False, markup=False)


def emit_json(value: Any) -> None:
    """One JSON document on stdout."""
    typer.echo(json.dumps(plain(value), indent=2, ensure_ascii=False, default=str))


def plain(value: Any) -> Any:
    """Dataclasses, mappings and sequences as what JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.isoformat() if hasattr(value, "isoformat") else value


def printable(value: object) -> str:
    """Text that cannot steer a terminal."""
    return _CONTROL.sub("", str(value).encode("utf-8", "backslashreplace").decode())


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Iterable[str] = ()) -> Table:
    """A table without lines between its rows; the columns in `right` are numbers."""
    numbers = set(right)
    made = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    for name in columns:
        made.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else printable(cell) for cell in row))
    return made


def show(*items: Any) -> None:
    """Print tables and texts on stdout."""
    out = console()
    for item in items:
        out.print(item, soft_wrap=not out.is_terminal and not isinstance(item, Table))


def queue_line(pending: PendingCounts) -> str:
    """The queue of embeddings in one line."""
    parts = {
        "waiting": pending.waiting,
        "under way or resting": pending.leased,
        "set aside": pending.set_aside,
    }
    return ", ".join(f"{number:,} {name}" for name, number in parts.items())


def counted(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
