"""`llmstack search`: hits that a person can read, or JSON."""

from __future__ import annotations

import enum
import json as json_module
import time
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group as Lines
from rich.padding import Padding
from rich.text import Text

from ..errors import ValidationError
from .invocation import Invocation, Json, Owner, verb
from .output import counted, emit_json, plain, printable, show, table
from .snippets import marked, snippet, terms_of

if TYPE_CHECKING:
    from ..documents import DocumentHit
    from ..retrieval import SearchExplanation, SearchHits
    from ..stack import LLMStack


class Mode(enum.StrEnum):
    """The legs of a search."""

    hybrid = "hybrid"
    vector = "vector"
    text = "text"


class Group(enum.StrEnum):
    """What one hit stands for."""

    document = "document"
    parent = "parent"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    verb(app, "search")(search)


async def search(
    call: Invocation,
    query: Annotated[str, typer.Argument(help='Words that rank; `"..."` must occur, `-word` must not.')],
    *,
    owner: Owner,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Hits at most.")] = 10,
    mode: Annotated[
        Mode | None,
        typer.Option(help="Without it hybrid, or text where there is no embedder.", show_default=False),
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Weight of the vector leg, from 0 to 1.", show_default=False)
    ] = None,
    type: Annotated[list[str] | None, typer.Option(help="Only these document types.", show_default=False)] = None,
    language: Annotated[list[str] | None, typer.Option(help="Only these languages.", show_default=False)] = None,
    metadata: Annotated[
        str | None,
        typer.Option(help='Filter as JSON, for instance {"team": "hr", "year": {"$gte": 2024}}.', show_default=False),
    ] = None,
    also: Annotated[
        list[str] | None, typer.Option(help="Another wording of the query; may be repeated.", show_default=False)
    ] = None,
    group: Annotated[
        Group | None, typer.Option(help="One hit for each document, or each parent passage.", show_default=False)
    ] = None,
    rerank: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Order the candidates by this model of litellm.", show_default=False),
    ] = None,
    diversity: Annotated[float, typer.Option(help="Weight against hits like those before, from 0 to 1.")] = 0.0,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show ranks, scores and terms of each hit, and the plan.")
    ] = False,
    json: Json = False,
) -> None:
    """Find the best passages of an owner's documents."""
    from ..documents import DocumentFilter
    from ..retrieval import LiteLLMReranker

    wanted = _parsed(metadata)
    async with call.stack(migrate=call.embedded) as stack:
        started = time.perf_counter()
        hits = await stack.documents.search(
            owner_id=owner,
            query=query,
            limit=limit,
            mode=mode.value if mode else None,
            alpha=alpha,
            where=DocumentFilter(document_type=type or None, language=language or None, metadata=wanted),
            expand=also or None,
            group_by=group.value if group else None,
            reranker=LiteLLMReranker(rerank) if rerank else None,
            diversity=diversity,
            explain=explain,
        )
        elapsed = time.perf_counter() - started
        if json:
            _emit(query, owner, elapsed, hits)
        elif hits:
            show_hits(query, hits, explain=explain)
            show(Text(_summary(hits, elapsed, explain=explain), style="dim"))
        else:
            await _say_nothing_found(call, stack, owner)
        if hits.explanation is not None and not json:
            show_explanation(hits.explanation)


def _parsed(metadata: str | None) -> dict[str, Any] | None:
    if metadata is None:
        return None
    try:
        value = json_module.loads(metadata)
    except ValueError as error:
        raise ValidationError("metadata", f"it is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValidationError("metadata", 'it must be a JSON object, such as {"team": "hr"}')
    return value


def _emit(query: str, owner: str, elapsed: float, hits: SearchHits[DocumentHit]) -> None:
    ranked = [{"rank": rank, **plain(hit)} for rank, hit in enumerate(hits, 1)]
    answer = {
        "query": query,
        "owner_id": owner,
        "mode": hits.mode,
        "vector_path": hits.vector_path,
        "reranked": hits.reranked,
        "elapsed_ms": round(elapsed * 1000, 1),
        "hits": ranked,
    }
    if hits.explanation is not None:
        answer["explanation"] = plain(hits.explanation)
    emit_json(answer)


def show_hits(query: str, hits: Sequence[DocumentHit], *, explain: bool = False) -> None:
    """Print each hit with its place and the passage around what matched."""
    terms = terms_of(query)
    show(*(_shown(rank, hit, terms, explain=explain) for rank, hit in enumerate(hits, 1)))


def _shown(rank: int, hit: DocumentHit, terms: Sequence[str], *, explain: bool) -> Lines:
    title, place = _title(hit), printable(hit.id_at_origin)
    kind = f"({hit.document_type})"
    if title == PurePath(place).name:
        title, place = place, ""
    head = Text.assemble((f"{rank:>2}. ", "bold"), (title, "bold cyan"), (f"  {hit.score:.3f}", "dim"))
    passage = Text(printable(snippet(hit.content, terms)))
    for start, end in marked(passage.plain, terms):
        passage.stylize("bold yellow", start, end)
    lines = [Text(f"{place}  {kind}".strip(), style="dim"), passage]
    if explain:
        lines[1:1] = [Text(_legs(hit), style="magenta")]
        if hit.matched:
            lines.insert(2, Text(_matched(hit), style="magenta"))
    return Lines(head, *(Padding(line, (0, 0, 0, 4), expand=False) for line in lines), Text(""))


def _title(hit: DocumentHit) -> str:
    """The document's name and the section path, without a heading that repeats the one before it."""
    context = hit.context if hit.context.startswith(hit.document_name) else hit.document_name
    parts = printable(context).split(" > ")
    return " > ".join(part for number, part in enumerate(parts) if number == 0 or part != parts[number - 1])


def _legs(hit: DocumentHit) -> str:
    parts = [f"{name}: not found" for name in ("text", "vector") if name not in hit.legs]
    parts += [f"{name}: rank {leg.rank}, score {leg.score:.4f}" for name, leg in hit.legs.items()]
    return "   ".join(sorted(parts))


def _matched(hit: DocumentHit) -> str:
    return ", ".join(f"{printable(term.lexeme)} ({term.idf:.2f} x {term.weight:.2f})" for term in hit.matched)


def _summary(hits: SearchHits[DocumentHit], elapsed: float, *, explain: bool) -> str:
    said = f"{counted(len(hits), 'hit')} in {elapsed * 1000:.0f} ms, mode {hits.mode}"
    if hits.reranked:
        said += ", reranked"
    if not explain:
        return said
    found = {name: sum(name in hit.legs for hit in hits) for name in ("text", "vector")}
    return f"{said}; {found['text']} found by text, {found['vector']} by vector; the score fuses both"


def show_explanation(told: SearchExplanation) -> None:
    """Print the terms of the query, what it was answered with, and the scans of its plan."""
    terms = [
        [term.lexeme, f"{term.idf:.3f}", term.frequency, f"{term.document_count:,}", f"{term.estimated_rows:,.0f}",
         "candidates" if term.is_candidate else "score only"]
        for term in told.terms
    ]  # fmt: skip
    steps = [
        [step.part, step.node, step.index or step.relation, f"{step.rows:,}", f"{step.milliseconds:.2f}"]
        for step in told.plan
    ]
    stages = ", ".join(f"{name} {spent:.1f}" for name, spent in told.milliseconds.items())
    settings = ", ".join(f"{name} {value}" for name, value in told.settings.items())
    numbers = ["idf", "times", "rows with it", "expected rows", "rows", "ms"]
    if terms:
        show(table(["term", "idf", "times", "rows with it", "expected rows", "used for"], terms, right=numbers))
        typer.echo(f"expected candidates: {told.estimated_rows:,.0f} of a budget of {told.budget:,}\n")
    show(table(["part", "scan", "of", "rows", "ms"], steps, right=numbers))
    typer.echo(
        f"planned in {told.planning_milliseconds:.1f} ms, executed in {told.execution_milliseconds:.1f} ms\n"
        f"space: {told.space or 'none'}; weight of the vector leg: {'none' if told.alpha is None else told.alpha}\n"
        f"settings: {settings}\nmilliseconds: {stages}"
    )


async def _say_nothing_found(call: Invocation, stack: LLMStack, owner: str) -> None:
    typer.echo("nothing found")
    if (await stack.documents.list(owner_id=owner, limit=1)).total == 0:
        command = call.options.command("ingest", "PATH", "--owner", owner)
        typer.echo(f"owner {owner!r} has no documents in schema {stack.service.schema!r}; try: {command}")
