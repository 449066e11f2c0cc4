"""`llmstack calibrate`, `searches`, `feedback`, `refresh`, `reweigh`, `reanalyse`: tune the search of a corpus."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ..errors import ConfigurationError, ValidationError
from .invocation import AnyOwner, CorpusName, Invocation, Owner, verb
from .output import Answer, counted, page, plain, table

if TYPE_CHECKING:
    from ..retrieval import Calibration, JudgedQuery, RecordedSearch

Limit = Annotated[int, typer.Option("--limit", "-n", help="Rows of one page.")]
Cursor = Annotated[str | None, typer.Option(help="Where the page before ended.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    verb(app, "calibrate")(calibrate)
    verb(app, "searches")(searches)
    verb(app, "feedback")(feedback)
    verb(app, "refresh")(refresh)
    verb(app, "reweigh")(reweigh)
    verb(app, "reanalyse")(reanalyse)


async def calibrate(
    call: Invocation,
    *,
    owner: AnyOwner = None,
    corpus: CorpusName = "documents",
    judged: Annotated[
        Path | None,
        typer.Option(
            help='JSON lines: {"owner_id": ..., "query": ..., "relevant": {unit: grade}}. Without it '
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
) -> Answer:
    """Choose the weight of the vectors and the BM25 parameters by judged queries."""
    _check_combination(judged, dry_run=dry_run, show_all=show_all, undo=undo)
    given = None if judged is None else _read(judged, owner)
    async with call.corpus(corpus) as searched:
        if show_all:
            found = list(await searched.calibrations())
        elif undo:
            found = [await searched.undo_calibration()]
        else:
            found = [
                await searched.calibrate(
                    given,
                    owner_id=None if given is not None else owner,
                    minimum=minimum,
                    standard_errors=standard_errors,
                    tune_text=tune_text,
                    dry_run=dry_run,
                )
            ]
    listed = [_as_json(one) for one in found]
    shown: list[Any] = [line for one in found for line in _described(one)] or ["there is no calibration"]
    return Answer({"calibrations": listed} if show_all else listed[0], shown)


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
        wanted = '{"owner_id": ..., "query": ..., "relevant": {unit: grade}}'
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
    call: Invocation, *, owner: Owner, corpus: CorpusName = "documents", limit: Limit = 20, cursor: Cursor = None
) -> Answer:
    """List an owner's logged searches, newest first, with the grades of their hits."""
    async with call.corpus(corpus) as searched:
        found = await searched.searches(owner_id=owner, limit=limit, cursor=cursor)
    columns = ["id", "at", "mode", "ms", "hits", "graded", "query"]
    return page(
        found,
        name="searches",
        noun="logged search",
        items=[_search_as_json(one) for one in found.items],
        rows=table(columns, map(_row, found.items), right=["ms", "hits", "graded"]),
        command=call.options.command("searches", "--owner", owner, "--corpus", corpus),
    )


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
        list[str],
        typer.Argument(
            metavar="HIT=GRADE...", help="What is judged (an id at the origin) or a row's id, and 0 or more."
        ),
    ],
    *,
    owner: Owner,
    corpus: CorpusName = "documents",
) -> Answer:
    """Grade the hits of a logged search; a later grade replaces an earlier one."""
    parsed: dict[Any, float] = dict(map(_grade, grades))
    if len(parsed) < len(grades):
        raise ValidationError("grades", "a hit is named twice")
    async with call.corpus(corpus) as searched:
        number = await searched.record_feedback(owner_id=owner, search_id=search, grades=parsed)
    return Answer({"recorded": number}, [f"recorded {counted(number, 'grade')}"])


def _grade(given: str) -> tuple[str, float]:
    hit, separator, grade = given.rpartition("=")
    try:
        if not separator:
            raise ValueError(given)
        return hit, float(grade)
    except ValueError:
        raise ValidationError("grades", f"{given!r:.60} is not HIT=GRADE, such as notes.md=2") from None


async def refresh(call: Invocation, *, corpus: CorpusName = "documents") -> Answer:
    """Read the term statistics that text search ranks by anew; ingesting does so by itself."""
    async with call.corpus(corpus) as searched:
        read = await searched.refresh_statistics()
    if read is None:
        return Answer(None, ["another process is doing so right now"])
    return Answer(read, [f"read {counted(read.row_count, 'row')}, {read.average_length:.0f} words on average"])


async def reweigh(
    call: Invocation,
    *,
    corpus: CorpusName = "documents",
    k1: Annotated[float | None, typer.Option(help="How fast repetition counts less.", show_default=False)] = None,
    b: Annotated[float | None, typer.Option(help="Length normalisation, 0 to 1.", show_default=False)] = None,
    average_length: Annotated[
        float | None, typer.Option(help="Words of a row; without it as measured.", show_default=False)
    ] = None,
    context_weight: Annotated[
        float | None, typer.Option(help="Weight of name and section.", show_default=False)
    ] = None,
) -> Answer:
    """Give the corpus other BM25 parameters and rewrite its weights, a batch at a time; call again to resume."""
    async with call.corpus(corpus) as searched:
        number = await searched.reweigh(k1=k1, b=b, average_length=average_length, context_weight=context_weight)
    return Answer({"rewritten": number}, [f"rewrote the weights of {counted(number, 'row')}"])


async def reanalyse(call: Invocation, *, corpus: CorpusName = "documents") -> Answer:
    """Read the words inside of others anew: for rows that other tools wrote, and those from before an upgrade."""
    async with call.corpus(corpus) as searched:
        number = await searched.reanalyse()
    return Answer({"changed": number}, [f"read further words in {counted(number, 'row')}"])
