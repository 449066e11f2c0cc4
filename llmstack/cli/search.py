"""`llmstack search`: hits that a person can read, or JSON."""

from __future__ import annotations

import enum
import json as json_module
import time
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.padding import Padding
from rich.text import Text

from ..errors import ValidationError
from .invocation import Invocation, Json, Owner, verb
from .output import counted, emit_json, plain, printable, show
from .snippets import marked, snippet, terms_of

if TYPE_CHECKING:
    from ..documents import SearchHit
    from ..stack import LLMStack


class Mode(enum.StrEnum):
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
    explain: Annotated[bool, typer.Option("--explain", help="Show each leg's rank and score.")] = False,
    json: Json = False,
) -> None:
    """Find the best passages of an owner's documents."""
    wanted = _parsed(metadata)
    async with call.stack(migrate=call.embedded) as stack:
        started = time.perf_counter()
        hits = await stack.documents.search(
            owner_id=owner,
            query=query,
            limit=limit,
            mode=mode.value if mode else None,
            alpha=alpha,
            document_type=type or None,
            language=language or None,
            metadata=wanted,
        )
        elapsed = time.perf_counter() - started
        used = used_mode(stack, hits, mode.value if mode else None)
        if json:
            _emit(query, owner, used, elapsed, hits)
        elif hits:
            show_hits(query, hits, explain=explain)
            show(Text(_summary(hits, elapsed, used, explain=explain), style="dim"))
        else:
            await _say_nothing_found(call, stack, owner)


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


def used_mode(stack: LLMStack, hits: Sequence[SearchHit], asked: str | None) -> str:
    """The mode that answered: without an answer of the embedder a search is one of text."""
    without_vectors = stack.embeddings.embedder is None or (hits and not any("vector" in hit.legs for hit in hits))
    return asked or ("text" if without_vectors else "hybrid")


def _emit(query: str, owner: str, mode: str, elapsed: float, hits: Sequence[SearchHit]) -> None:
    ranked = [{"rank": rank, **plain(hit)} for rank, hit in enumerate(hits, 1)]
    milliseconds = round(elapsed * 1000, 1)
    emit_json({"query": query, "owner_id": owner, "mode": mode, "elapsed_ms": milliseconds, "hits": ranked})


def show_hits(query: str, hits: Sequence[SearchHit], *, explain: bool = False) -> None:
    """Print each hit with its place and the passage around what matched."""
    terms = terms_of(query)
    show(*(_shown(rank, hit, terms, explain=explain) for rank, hit in enumerate(hits, 1)))


def _shown(rank: int, hit: SearchHit, terms: Sequence[str], *, explain: bool) -> Group:
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
        lines.insert(1, Text(_legs(hit), style="magenta"))
    return Group(head, *(Padding(line, (0, 0, 0, 4), expand=False) for line in lines), Text(""))


def _title(hit: SearchHit) -> str:
    """The document's name and the section path, without a heading that repeats the one before it."""
    context = hit.context if hit.context.startswith(hit.document_name) else hit.document_name
    parts = printable(context).split(" > ")
    return " > ".join(part for number, part in enumerate(parts) if number == 0 or part != parts[number - 1])


def _legs(hit: SearchHit) -> str:
    parts = []
    for name in ("text", "vector"):
        leg = hit.legs.get(name)
        parts.append(f"{name}: not found" if leg is None else f"{name}: rank {leg.rank}, score {leg.score:.4f}")
    return "   ".join(parts)


def _summary(hits: Sequence[SearchHit], elapsed: float, mode: str, *, explain: bool) -> str:
    said = f"{counted(len(hits), 'hit')} in {elapsed * 1000:.0f} ms, mode {mode}"
    if not explain:
        return said
    found = {name: sum(name in hit.legs for hit in hits) for name in ("text", "vector")}
    return f"{said}; {found['text']} found by text, {found['vector']} by vector; the score fuses both"


async def _say_nothing_found(call: Invocation, stack: LLMStack, owner: str) -> None:
    typer.echo("nothing found")
    if (await stack.documents.list(owner_id=owner, limit=1)).total == 0:
        command = call.options.command("ingest", "PATH", "--owner", owner)
        typer.echo(f"owner {owner!r} has no documents in schema {stack.service.schema!r}; try: {command}")
