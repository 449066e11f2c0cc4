"""`llmstack search`: hits that a person can read, or JSON."""

from __future__ import annotations

import enum
import json
import time
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, TypeGuard

import typer
from rich.console import Group as Lines
from rich.padding import Padding
from rich.text import Text

from ..errors import ValidationError
from .invocation import CorpusName, Invocation, Owner, verb
from .output import Answer, counted, plain, printable, table
from .snippets import marked, snippet, terms_of

if TYPE_CHECKING:
    from ..documents import DocumentHit
    from ..retrieval import Corpus, CorpusService, SearchExplanation, SearchHit, SearchHits


class SearchMode(enum.StrEnum):
    """The legs of a search."""

    hybrid = "hybrid"
    vector = "vector"
    text = "text"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    verb(app, "search")(search)


async def search(
    call: Invocation,
    query: Annotated[str, typer.Argument(help='Words that rank; `"..."` must occur, `-word` must not.')],
    *,
    owner: Owner,
    corpus: CorpusName = "documents",
    limit: Annotated[int, typer.Option("--limit", "-n", help="Hits at most.")] = 10,
    mode: Annotated[
        SearchMode | None,
        typer.Option(help="Without it hybrid, or text where there is no embedder.", show_default=False),
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Weight of the vector leg, from 0 to 1.", show_default=False)
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="JSON", help="The parts of the corpus' filter.", show_default=False)
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
        str | None, typer.Option(help="One hit for each of these: document, parent, ...", show_default=False)
    ] = None,
    rerank: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Order the candidates by this model of litellm.", show_default=False),
    ] = None,
    diversity: Annotated[float, typer.Option(help="Weight against hits like those before, from 0 to 1.")] = 0.0,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show ranks, scores and terms of each hit, and the plan.")
    ] = False,
) -> Answer:
    """Find the best passages of an owner's documents, or the best rows of another corpus."""
    from ..retrieval import LiteLLMReranker

    parts = _parts(where, document_type=type, language=language, metadata=parsed_object("metadata", metadata))
    async with call.corpus(corpus, migrate=call.embedded) as searched:
        wanted = searched.corpus.where.from_json(parts)
        started = time.perf_counter()
        hits = await searched.search(
            owner_id=owner,
            query=query,
            limit=limit,
            mode=mode.value if mode else None,
            alpha=alpha,
            where=wanted,
            expand=also or None,
            group_by=group,
            reranker=LiteLLMReranker(rerank) if rerank else None,
            diversity=diversity,
            explain=explain,
        )
        elapsed = time.perf_counter() - started
        if hits:
            shown: list[Any] = [*described_hits(searched.corpus, query, hits, explain=explain)]
            shown.append(Text(summary(hits, elapsed, explain=explain), style="dim"))
        else:
            shown = ["nothing found", *await _way_out(call, searched, owner)]
        if hits.explanation is not None:
            shown += _described_explanation(hits.explanation)
    return Answer(hits_as_json(query, owner, elapsed, hits), shown)


def _parts(where: str | None, **options: Any) -> dict[str, Any]:
    """The parts of a filter, of which none may be given twice."""
    parts, given = parsed_object("where", where) or {}, {name: part for name, part in options.items() if part}
    if twice := sorted(parts.keys() & given.keys()):
        raise ValidationError("where", f"{twice[0]} is given by an option of its own, too; give one of them")
    return {**parts, **given}


def parsed_object(field: str, given: str | None) -> dict[str, Any] | None:
    """The JSON object of an option."""
    if given is None:
        return None
    try:
        value = json.loads(given)
    except ValueError as error:
        raise ValidationError(field, f"it is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValidationError(field, 'it must be a JSON object, such as {"team": "hr"}')
    return value


def hits_as_json(query: str, owner: str, elapsed: float, hits: SearchHits[Any]) -> dict[str, Any]:
    """What `--json` has of a search."""
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
    return answer


def described_hits(
    corpus: Corpus[Any, Any], query: str, hits: Sequence[SearchHit], *, explain: bool = False
) -> list[Lines]:
    """Each hit with its place and the passage around what matched."""
    terms = terms_of(query)
    return [_shown(rank, hit, corpus.unit_of(hit), terms, explain=explain) for rank, hit in enumerate(hits, 1)]


def passage(content: str, terms: Sequence[str]) -> Text:
    """The part of a text that shows why it was found, with the words marked."""
    shown = Text(printable(snippet(content, terms)))
    for start, end in marked(shown.plain, terms):
        shown.stylize("bold yellow", start, end)
    return shown


def _is_document(hit: SearchHit) -> TypeGuard[DocumentHit]:
    # Its class is loaded where there is a hit of it.
    return hasattr(hit, "document_name")


def _shown(rank: int, hit: SearchHit, unit: str, terms: Sequence[str], *, explain: bool) -> Lines:
    title, place = _title(hit), printable(unit)
    kind = f"({hit.document_type})" if _is_document(hit) else ""
    if title in ("", PurePath(place).name):
        title, place = place, ""
    head = Text.assemble((f"{rank:>2}. ", "bold"), (title, "bold cyan"), (f"  {hit.score:.3f}", "dim"))
    lines = [Text(f"{place}  {kind}".strip(), style="dim"), passage(hit.content, terms)]
    if explain:
        lines[1:1] = [Text(_legs(hit), style="magenta")]
        if hit.matched:
            lines.insert(2, Text(_matched(hit), style="magenta"))
    return Lines(head, *(Padding(line, (0, 0, 0, 4), expand=False) for line in lines), Text(""))


def _title(hit: SearchHit) -> str:
    """The document's name and the section path, without a heading that repeats the one before it."""
    if not _is_document(hit):
        return printable(hit.context)
    context = hit.context if hit.context.startswith(hit.document_name) else hit.document_name
    parts = printable(context).split(" > ")
    return " > ".join(part for number, part in enumerate(parts) if number == 0 or part != parts[number - 1])


def _legs(hit: SearchHit) -> str:
    parts = [f"{name}: not found" for name in ("text", "vector") if name not in hit.legs]
    parts += [f"{name}: rank {leg.rank}, score {leg.score:.4f}" for name, leg in hit.legs.items()]
    return "   ".join(sorted(parts))


def _matched(hit: SearchHit) -> str:
    return ", ".join(f"{printable(term.lexeme)} ({term.idf:.2f} x {term.weight:.2f})" for term in hit.matched)


def summary(hits: SearchHits[Any], elapsed: float, *, explain: bool = False) -> str:
    """How many hits, in what time, by which legs."""
    said = f"{counted(len(hits), 'hit')} in {elapsed * 1000:.0f} ms, mode {hits.mode}"
    if hits.reranked:
        said += ", reranked"
    if not explain:
        return said
    found = {name: sum(name in hit.legs for hit in hits) for name in ("text", "vector")}
    return f"{said}; {found['text']} found by text, {found['vector']} by vector; the score fuses both"


def _described_explanation(told: SearchExplanation) -> list[Any]:
    """The terms of the query, what it was answered with, and the scans of its plan."""
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
    shown: list[Any] = []
    if terms:
        columns = ["term", "idf", "times", "rows with it", "expected rows", "used for"]
        shown.append(table(columns, terms, right=numbers))
        shown.append(f"expected candidates: {told.estimated_rows:,.0f} of a budget of {told.budget:,}\n")
    return [
        *shown,
        table(["part", "scan", "of", "rows", "ms"], steps, right=numbers),
        f"planned in {told.planning_milliseconds:.1f} ms, executed in {told.execution_milliseconds:.1f} ms\n"
        f"space: {told.space or 'none'}; weight of the vector leg: {'none' if told.alpha is None else told.alpha}\n"
        f"settings: {settings}\nmilliseconds: {stages}",
    ]


async def _way_out(call: Invocation, searched: CorpusService[Any, Any], owner: str) -> list[str]:
    from ..documents import DocumentService

    if not isinstance(searched, DocumentService) or (await searched.list(owner_id=owner, limit=1)).total:
        return []
    command = call.options.command("ingest", "PATH", "--owner", owner)
    return [f"owner {owner!r} has no documents in schema {call.settings.schema_name!r}; try: {command}"]
