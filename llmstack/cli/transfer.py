"""`llmstack threads export` and `import`: threads as lines of JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer
from rich.text import Text

from ..errors import ConfigurationError, DatabaseError, LLMStackError, ValidationError
from .exits import FAILED, OK, described, say
from .invocation import Invocation, Owner, verb
from .output import Answer, counted, progress, table
from .threads import Since, Users, get_thread, moment

if TYPE_CHECKING:
    from ..conversations import ImportResult
    from ..stack import LLMStack

_LISTED = 40
_KEPT = 10_000
"""Lines that were refused and are named in JSON."""


class Format(enum.StrEnum):
    """How threads are written."""

    jsonl = "jsonl"
    openai = "openai"


def register(app: typer.Typer) -> None:
    """Add the verbs to those of threads."""
    verb(app, "export")(export_threads)
    verb(app, "import")(import_threads)


async def export_threads(
    call: Invocation,
    threads: Annotated[
        list[str] | None,
        typer.Argument(metavar="THREAD...", help="Ids at the origin, or ids; without them all.", show_default=False),
    ] = None,
    *,
    owner: Owner,
    format: Annotated[
        Format, typer.Option(help="jsonl has everything; openai is what its fine-tuning takes, a chat on each line.")
    ] = Format.jsonl,
    output: Annotated[
        Path | None, typer.Option("--output", help="Into this file instead of standard output.", show_default=False)
    ] = None,
    user: Users = None,
    since: Since = None,
) -> int:
    """Write threads with all that is in them as lines of JSON, in the order of their ids at the origin."""
    from ..conversations import ThreadFilter

    number, where = 0, ThreadFilter(user_id=user or None, since=moment(since))
    async with call.stack() as stack:
        chosen = [(await get_thread(stack, owner, one)).id for one in threads] if threads else None
        lines = stack.conversations.export(
            owner_id=owner,
            threads=chosen,
            where=where,
            format=format.value,
        )
        with _written(output) as file:
            async for line in lines:
                file.write(f"{line}\n".encode())
                number += 1
    say(f"exported {counted(number, 'line')}{'' if output is None else f' to {output}'}")
    return OK


@contextlib.contextmanager
def _written(output: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or the file, which comes into being when it is whole."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = output.with_name(f"{output.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        os.replace(part, output)
    except OSError as error:
        # A database that went away is an error of a connection, too.
        if isinstance(error, LLMStackError):
            raise
        raise ConfigurationError(f"{output} cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


@dataclasses.dataclass
class _Tally:
    """What an import came to; of the lines that were refused the first so many are kept."""

    threads: int = 0
    new: int = 0
    messages: int = 0
    known: int = 0
    summaries: int = 0
    cleaned: int = 0
    refused: int = 0
    refusals: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    last: str | None = None

    def add(self, one: ImportResult) -> None:
        """Count a thread, or a part of one, or a line that was refused."""
        if one.error is not None:
            self.refused += 1
            if len(self.refusals) < _KEPT:
                self.refusals.append({"line": one.line, "thread": one.id_at_origin, "reason": one.error})
            return
        # The parts of a long thread follow one another.
        self.threads += one.id_at_origin != self.last
        self.last = one.id_at_origin
        self.new += one.is_new
        self.messages += one.messages
        self.known += one.known
        self.summaries += one.summaries
        self.cleaned += one.cleaned


async def import_threads(
    call: Invocation,
    file: Annotated[Path, typer.Argument(help="The file, or - for standard input.", show_default=False)],
    *,
    owner: Owner,
    format: Annotated[
        Format | None,
        typer.Option(help="jsonl or openai; without it as the beginning of the file tells.", show_default=False),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(help="Of threads that name none: english, de, ... or auto to detect it.", show_default=False),
    ] = None,
) -> Answer:
    """Store exported threads, or chats as OpenAI has them: an object on each line, or one array.

    What is there already is not stored again: the same command may be repeated, and after mending a refused line.
    """
    tally, stopped = _Tally(), None
    with _opened(file) as source, progress("importing") as move:
        size = 0 if str(file) == "-" else os.fstat(source.fileno()).st_size
        done = 0

        def advance(line: bytes) -> bytes:
            nonlocal done
            done += len(line)
            if move is not None and size:
                move(done, size)
            return line

        told, lines = _format_of(_texts(map(advance, source)))
        async with call.stack(migrate=call.embedded) as stack:
            try:
                results = stack.conversations.import_(
                    owner_id=owner, lines=lines, format=format.value if format else told.value, language=language
                )
                async for result in results:
                    tally.add(result)
                if move is not None:
                    move(1, 1, "embedding")
                await stack.conversations.settle()
                await _say_what_is_owed(call, stack, owner)
            except DatabaseError as error:
                stopped = error
    return _answer(tally, stopped)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    try:
        opened = file.open("rb")
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    with opened:
        yield opened


def _texts(lines: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            yield line.decode()
        except UnicodeDecodeError:
            raise ValidationError("file", f"line {number} is not UTF-8; convert the file") from None


def _format_of(lines: Iterator[str]) -> tuple[Format, Iterator[str]]:
    """The format by the first line that says something, and the lines again."""
    read: list[str] = []
    for line in lines:
        read.append(line)
        if line.strip("\ufeff \t\r\n"):
            break
    return _told_by(read[-1] if read else ""), itertools.chain(read, lines)


def _told_by(line: str) -> Format:
    try:
        value = json.loads(line.removeprefix("\ufeff"))
    except ValueError:
        return Format.openai if line.lstrip("\ufeff \t").startswith("[") else Format.jsonl
    return Format.jsonl if isinstance(value, dict) and "messages" not in value else Format.openai


async def _say_what_is_owed(call: Invocation, stack: LLMStack, owner: str) -> None:
    from ..conversations.models import MESSAGES

    if stack.embeddings.embedder is None:
        return
    pending = await stack.embeddings.pending(table=MESSAGES, owner_id=owner)
    if owed := pending.waiting + pending.leased + pending.set_aside:
        say(f"warning: {counted(owed, 'message')} without a vector yet", color="yellow")
        say(f"try:   {call.options.command('embeddings', 'process')}")


def _totals(tally: _Tally) -> str:
    stored = f"{counted(tally.threads, 'thread')}, {tally.new:,} new: {counted(tally.messages, 'message')}"
    if tally.summaries:
        stored += f" and {tally.summaries:,} {'summary' if tally.summaries == 1 else 'summaries'}"
    known = [f"{tally.known:,} there already"] if tally.known else []
    refused = [f"{counted(tally.refused, 'line')} refused"] if tally.refused else []
    return ", ".join([f"{stored} stored", *known, *refused])


def _answer(tally: _Tally, stopped: DatabaseError | None) -> Answer:
    shown: list[Any] = []
    if tally.refusals:
        rows = [(one["line"], one["thread"] or "", one["reason"]) for one in tally.refusals[:_LISTED]]
        shown.append(table(["line", "thread", "refused because"], rows, right=["line"]))
    if tally.refused > _LISTED:
        shown.append(Text(f"... and {tally.refused - _LISTED:,} more; --json lists them", style="dim"))
    shown.append(Text(_totals(tally), style="bold"))
    if tally.cleaned:
        shown.append(f"in {counted(tally.cleaned, 'thread')} characters that PostgreSQL cannot store were removed")
    value = {name: getattr(tally, name) for name in ("threads", "new", "messages", "known", "summaries", "cleaned")}
    value |= {"refused": tally.refused, "refusals": tally.refusals}
    value["stopped"] = None if stopped is None else described(stopped)
    return Answer(value, shown, FAILED if tally.refused else OK, error=stopped)
