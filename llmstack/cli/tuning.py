"""`llmstack calibrate`, `searches` and `feedback`: tune a search by what people said of its hits."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ..errors import ConfigurationError, ValidationError
from .invocation import AnyOwner, Invocation, Json, Owner, verb
from .output import counted, emit_json, plain, show, table

if TYPE_CHECKING:
    from ..retrieval import Calibration, JudgedQuery, RecordedSearch

Limit = Annotated[int, typer.Option("--limit", "-n", help="Rows of one page.")]
Cursor = Annotated[str | None, typer.Option(help="Where the page before ended.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    verb(app, "calibrate")(calibrate)
    verb(app, "searches")(searches)
    verb(app, "feedback")(feedback)


async def calibrate(
    call: Invocation,
    *,
    owner: AnyOwner = None,
    judged: Annotated[
        Path | None,
        typer.Option(
            help='JSON lines: {"owner_id": ..., "query": ..., "relevant": {id at origin: grade}}. Without it '
            "recorded feedback.",
            show_default=False,
        ),
    ] = None,
    minimum: Annotated[int, typer.Option(help="Judged queries that are needed.")] = 20,
    standard_errors: Annotated[float, typer.Option(help="How clear a gain must be.")] = 1.0,
    tune_text: Annotated[bool, typer.Option("--text/--no-text", help="BM25 parameters too.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be chosen, change nothing.")] = False,
    show_all: Annotated[bool, typer.Option("--show", help="List the calibrations.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Put the settings before the last one back.")] = False,
    json: Json = False,
) -> None:
    """Choose the weight of the vectors and the BM25 parameters by judged queries."""
    _check_combination(judged, dry_run=dry_run, show_all=show_all, undo=undo)
    given = None if judged is None else _read(judged, owner)
    async with call.stack() as stack:
        if show_all:
            found = list(await stack.documents.calibrations())
        elif undo:
            found = [await stack.documents.undo_calibration()]
        else:
            found = [
                await stack.documents.calibrate(
                    given,
                    owner_id=None if given is not None else owner,
                    minimum=minimum,
                    standard_errors=standard_errors,
                    tune_text=tune_text,
                    dry_run=dry_run,
                )
            ]
    if json:
        listed = [_as_json(one) for one in found]
        emit_json({"calibrations": listed} if show_all else listed[0])
    elif not found:
        typer.echo("there is no calibration")
    else:
        for one in found:
            show(*_described(one))


def _check_combination(judged: Path | None, *, dry_run: bool, show_all: bool, undo: bool) -> None:
    if (show_all or undo) and (judged is not None or dry_run or (show_all and undo)):
        raise ConfigurationError("--show and --undo stand alone: neither with each other, --judged nor --dry-run")


def _read(path: Path, owner: str | None) -> list[JudgedQuery]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    return [_judged(line, number, owner) for number, line in enumerate(lines, 1) if line.strip()]


def _judged(line: str, number: int, owner: str | None) -> JudgedQuery:
    from ..retrieval import JudgedQuery

    try:
        value = json_module.loads(line)
        relevant = value["relevant"]
        graded = relevant if isinstance(relevant, Mapping) else dict.fromkeys(map(str, relevant), 1.0)
        return JudgedQuery(owner_id=owner or value["owner_id"], query=value["query"], relevant=dict(graded))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        wanted = '{"owner_id": ..., "query": ..., "relevant": {id at origin: grade}}'
        raise ValidationError("judged", f"line {number} is not {wanted}: {error!r:.100}") from error


def _as_json(one: Calibration) -> dict[str, Any]:
    return {**plain(one), "id": None if one.id is None else str(one.id), "changed": one.changed}


def _described(one: Calibration) -> list[Text]:
    state = "dry run" if one.id is None else "undone" if one.undone_at else "changed" if one.changed else "kept"
    lines = [Text(f"{one.created_at:%Y-%m-%d %H:%M}  {state}, {one.evidence.get('queries')} queries", style="bold")]
    before, after = plain(one.before), plain(one.after)
    for name, value in before.items():
        was, now = ("default" if setting is None else f"{setting:g}" for setting in (value, after[name]))
        lines.append(Text(f"  {name:<15} {was}" + ("" if was == now else f" -> {now}")))
    for part in ("alpha", "text"):
        if (found := one.evidence.get(part)) is not None:
            needed = found["needed_standard_errors"] * found["standard_error"]
            said = f"best {found['best']}: nDCG@10 {found['gain']:+.4f}, needed {needed:+.4f}"
            lines.append(
                Text(f"  {part:<15} {said}; chosen {found['chosen']} ({found['chosen_gain']:+.4f})", style="dim")
            )
    return lines


async def searches(
    call: Invocation, *, owner: Owner, limit: Limit = 20, cursor: Cursor = None, json: Json = False
) -> None:
    """List an owner's logged searches, newest first, with the grades of their hits."""
    async with call.stack() as stack:
        page = await stack.documents.searches(owner_id=owner, limit=limit, cursor=cursor)
    if json:
        emit_json(
            {"total": page.total, "cursor": page.cursor, "searches": [_search_as_json(one) for one in page.items]}
        )
        return
    if page.items:
        columns = ["id", "at", "mode", "ms", "hits", "graded", "query"]
        show(table(columns, [_row(one) for one in page.items], right=["ms", "hits", "graded"]))
    show(
        Text(
            f"{len(page.items):,} of {counted(page.total, 'logged search').replace('searchs', 'searches')}",
            style="bold",
        )
    )
    if page.cursor is not None:
        typer.echo(f"next page: {call.options.command('searches', '--owner', owner, '--cursor', page.cursor)}")


def _row(one: RecordedSearch) -> tuple[object, ...]:
    graded = sum(hit.grade is not None for hit in one.hits)
    return (
        one.id,
        f"{one.created_at:%Y-%m-%d %H:%M}",
        one.mode,
        f"{one.elapsed_ms:.0f}",
        len(one.hits),
        graded,
        one.query,
    )


def _search_as_json(one: RecordedSearch) -> dict[str, Any]:
    return {**plain(one), "id": str(one.id)}


async def feedback(
    call: Invocation,
    search: Annotated[str, typer.Argument(metavar="SEARCH", help="The id of a logged search.")],
    grades: Annotated[
        list[str], typer.Argument(metavar="HIT=GRADE...", help="An id at the origin or a chunk's id, and 0 or more.")
    ],
    *,
    owner: Owner,
    json: Json = False,
) -> None:
    """Grade the hits of a logged search; a later grade replaces an earlier one."""
    parsed: dict[Any, float] = dict(map(_grade, grades))
    if len(parsed) < len(grades):
        raise ValidationError("grades", "a hit is named twice")
    async with call.stack() as stack:
        number = await stack.documents.record_feedback(owner_id=owner, search_id=search, grades=parsed)
    if json:
        emit_json({"recorded": number})
    else:
        typer.echo(f"recorded {counted(number, 'grade')}")


def _grade(given: str) -> tuple[str, float]:
    hit, separator, grade = given.rpartition("=")
    try:
        if not separator:
            raise ValueError(given)
        return hit, float(grade)
    except ValueError:
        raise ValidationError("grades", f"{given!r:.60} is not HIT=GRADE, such as notes.md=2") from None
