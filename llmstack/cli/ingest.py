"""`llmstack ingest`: files and folders become documents."""

from __future__ import annotations

import json as json_module
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from ..errors import ValidationError
from .exits import FAILED, OK, described, say
from .intake import FileOutcome, FileReading, Intake, PassedOver, read_only
from .invocation import Invocation, Owner, verb
from .output import Answer, counted, printable, table

_LISTED = 40
_KINDS = 12
_STYLES = {"added": "green", "updated": "cyan", "unchanged": "dim", "readable": "green", "failed": "bold red"}


def register(app: typer.Typer) -> None:
    """Add the verb."""
    verb(app, "ingest")(ingest)


async def ingest(
    call: Invocation,
    paths: Annotated[
        list[Path],
        typer.Argument(help="Files and folders; folders are read recursively.", show_default=False),
    ],
    *,
    owner: Owner,
    type: Annotated[
        str | None,
        typer.Option(help="Document type; without it as the file's name tells.", show_default=False),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(help="Language such as english or de, or auto to detect it.", show_default=False),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE on every document, again for more; VALUE may be JSON.", show_default=False),
    ] = None,
    chunking: Annotated[
        str, typer.Option(help="hierarchical, fixed_size, sliding_window, semantic or none.")
    ] = "hierarchical",
    relative_to: Annotated[
        Path | None,
        typer.Option(help="Make identities relative to this folder, the same on every machine.", show_default=False),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(help="Encoding of text and HTML, such as cp1251; without it detected.", show_default=False),
    ] = None,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Follow links out of the named folders, and to folders.")
    ] = False,
    time_limit: Annotated[float, typer.Option(min=0.1, help="Seconds that a single file may take to be read.")] = 60.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read the files, store nothing.")] = False,
) -> Answer:
    """Add files: text, Markdown, HTML, PDF, office formats, books, notebooks, mail, source code.

    A file's identity is its absolute path, so that a second run from anywhere finds it again: what did not
    change is left alone, what did is replaced. `--relative-to` makes it the path below a folder instead.
    """
    reading = FileReading(
        owner_id=owner,
        document_type=type,
        language=_checked_language(language),
        metadata=_metadata(metadata or []),
        chunking=chunking,
        relative_to=relative_to,
        encoding=_checked_encoding(encoding),
        follow_links=follow_links,
        time_limit=time_limit,
    )
    files = reading.files(paths)
    if dry_run:
        outcomes = await read_only(reading, files, call.settings)
        stopped = None
    else:
        async with call.stack(migrate=call.embedded) as stack:
            intake = Intake(stack)
            stopped = await intake.run(reading, files)
            outcomes = intake.outcomes
    _say_what_is_owed(call, outcomes)
    status = FAILED if any(outcome.outcome == "failed" for outcome in outcomes) else OK
    if stopped is not None:
        reached = {one.path for one in outcomes} | {one.path for one in reading.passed_over}
        unreached = {str(file) for file in files} - reached
        say(f"{counted(len(unreached), 'file')} not reached; the same command may be run again")
    shown = [*described_outcomes(outcomes), *_described_rest(reading.passed_over, each=call.options.verbose)]
    answer = _as_json(outcomes, reading.passed_over, stopped, each=call.options.verbose)
    return Answer(answer, shown, status, error=stopped)


def _checked_encoding(encoding: str | None) -> str | None:
    from ..documents.readers import check_encoding

    return None if encoding is None else check_encoding(encoding)


def _checked_language(language: str | None) -> str | None:
    from ..search.languages import normalize_language

    if language not in (None, "auto", "simple") and normalize_language(language) == "simple":
        say(
            f"warning: PostgreSQL has no text search for {language!r}; words are taken as they are",
            color="yellow",
        )
    return language


def _metadata(pairs: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key.strip():
            raise ValidationError("metadata", f"{pair!r:.60} is not KEY=VALUE")
        try:
            found[key.strip()] = json_module.loads(value)
        except ValueError:
            found[key.strip()] = value
    return found


def counts(outcomes: Sequence[FileOutcome]) -> dict[str, int]:
    """How many files ended how."""
    found: dict[str, int] = {}
    for outcome in outcomes:
        found[outcome.outcome] = found.get(outcome.outcome, 0) + 1
    return {name: found[name] for name in _STYLES if name in found}


def described_outcomes(outcomes: Sequence[FileOutcome]) -> list[Any]:
    """What was stored, then every failure with its reason, then the totals."""
    shown: list[Any] = []
    stored = [one for one in outcomes if one.outcome not in ("unchanged", "failed")]
    failed = [one for one in outcomes if one.outcome == "failed"]
    if stored:
        rows = [(_styled(one), one.name, one.chunks, one.note) for one in stored[:_LISTED]]
        shown.append(table(["", "file", "chunks", ""], rows, right=["chunks"]))
        if len(stored) > _LISTED:
            shown.append(Text(f"... and {len(stored) - _LISTED:,} more; --json lists them all", style="dim"))
    if failed:
        shown.append(table(["", "file", "why"], [(_styled(one), one.name, one.note) for one in failed]))
    totals = ", ".join(f"{number:,} {name}" for name, number in counts(outcomes).items())
    files = len({one.path for one in outcomes})
    read = counted(files, "file")
    if files < len(outcomes):
        read += f" with {counted(len(outcomes), 'document')}"
    return [*shown, Text(f"{read}: {totals or 'nothing to read'}", style="bold")]


def _kinds(passed_over: Sequence[PassedOver]) -> dict[str, int]:
    """How many files of each kind were passed over, the most frequent first."""
    return dict(Counter(one.kind for one in passed_over).most_common())


def _described_rest(passed_over: Sequence[PassedOver], *, each: bool) -> list[Any]:
    if not passed_over:
        return []
    kinds = [f"{number:,} {printable(kind)}" for kind, number in _kinds(passed_over).items()]
    if more := kinds[_KINDS:]:
        kinds[_KINDS:] = [f"and {counted(len(more), 'kind')} more"]
    named = [table(["", "file", "kind"], [("passed over", one.path, one.kind) for one in passed_over])] if each else []
    return [*named, Text(f"{len(passed_over):,} passed over: {', '.join(kinds)}", style="dim")]


def _styled(outcome: FileOutcome) -> Text:
    return Text(outcome.outcome, style=_STYLES[outcome.outcome])


def _as_json(
    outcomes: Sequence[FileOutcome], passed_over: Sequence[PassedOver], stopped: Exception | None, *, each: bool
) -> dict[str, Any]:
    rest = {"count": len(passed_over), "kinds": _kinds(passed_over), **({"files": passed_over} if each else {})}
    return {
        "counts": counts(outcomes),
        "files": outcomes,
        "passed_over": rest,
        "stopped": None if stopped is None else described(stopped),
    }


def _say_what_is_owed(call: Invocation, outcomes: Sequence[FileOutcome]) -> None:
    owed = sum(outcome.embeddings_pending for outcome in outcomes)
    reason = next((outcome.embedding_error for outcome in outcomes if outcome.embedding_error), None)
    if owed or reason:
        why = f" ({' '.join(reason.split())})" if reason else ""
        say(f"warning: {counted(owed, 'chunk')} without a vector yet{why}", color="yellow")
        say(f"try:   {call.options.command('embeddings', 'process')}")
