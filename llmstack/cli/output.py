"""What is printed: JSON for programs, tables and text for people."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ..db.paging import Page
    from ..embeddings import PendingCounts

_WIDE = 1000
"""Columns of what is no terminal: nothing is wrapped or cut there."""
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise


def console(*, error: bool = False) -> Console:
    """A console of the stream as it is now; what is not a terminal gets plain text that is never cut."""
    stream = sys.stderr if error else sys.stdout
    width = None if stream.isatty() else _WIDE
    return _Console(file=stream, width=width, highlight=False, emoji=False, markup=False)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a verb found: `value` for `--json`, `shown` for people (lines, texts and tables), and its exit status.

    `error` is what broke it off: it is told after what was found until then, and the status is the error's.
    """

    value: Any
    shown: Sequence[Any] = ()
    status: int = 0
    error: Exception | None = None

    def print(self, *, json: bool) -> None:
        """Print the one or the other."""
        if json:
            emit_json(self.value)
        else:
            show(*self.shown)


def page(found: Page[Any], *, name: str, noun: str, items: Sequence[Any], rows: Table, command: str) -> Answer:
    """A page as a table with its total and the command of the next one; `items` are what JSON has under `name`."""
    shown: list[Any] = [
        *([rows] if items else []),
        Text(f"{len(items):,} of {counted(found.total, noun)}", style="bold"),
    ]
    if found.cursor is not None:
        shown.append(f"next page: {command} --cursor {found.cursor}")
    return Answer({"total": found.total, "cursor": found.cursor, name: items}, shown)


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[..., None] | None]:
    """A bar on stderr, moved by (done, total) and what is said beside it; None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import Progress

    with Progress(console=console(error=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def move(done: float, total: float, said: str = what) -> None:
            bar.update(task, completed=done, total=total, description=said)

        yield move


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
    """Print lines, tables and texts on stdout."""
    out = console()
    for item in items:
        if isinstance(item, str):
            typer.echo(item)
        else:
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
    plural = "es" if noun.endswith(("ch", "s", "x")) else "s"
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}{plural}"
