"""`llmstack embeddings`: what is owed, what is there, and the indexes over it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from ..errors import ConfigurationError
from .exits import FAILED, OK
from .invocation import AnyOwner, Invocation, Json, verb
from .output import counted, emit_json, plain, queue_line, show, table

if TYPE_CHECKING:
    from ..embeddings import PendingCounts, SpaceStatus
    from ..embeddings.builds import IndexProgress
    from ..stack import LLMStack

app = typer.Typer(help="Status, pending work, spaces and indexes of embeddings.", no_args_is_help=True)


@verb(app, "status")
async def show_status(call: Invocation, *, owner: AnyOwner = None, json: Json = False) -> None:
    """Show the embedder, how many chunks wait for a vector, and how many have one."""
    async with call.stack() as stack:
        spaces = await stack.embeddings.spaces()
        pending = await _pending(stack, spaces, owner)
        embedder = stack.embeddings.embedder
    if json:
        emit_json(
            {
                "embedder": embedder.name if embedder else None,
                "pending": plain(pending),
                "spaces": plain(spaces),
            }
        )
        return
    typer.echo(f"embedder: {embedder.name if embedder else 'none'}")
    typer.echo(f"pending:  {queue_line(pending)}")
    _show_spaces(spaces)
    if pending.set_aside:
        typer.echo(f"\nto try those set aside again: {call.options.command('embeddings', 'process', '--retry')}")
    elif pending.waiting:
        typer.echo(f"\nto embed them: {call.options.command('embeddings', 'process')}")


async def _pending(stack: LLMStack, spaces: list[SpaceStatus], owner: str | None) -> PendingCounts:
    """The queue, without making a space for an embedder that has none yet."""
    from ..embeddings import PendingCounts

    embedder = stack.embeddings.embedder
    if embedder is not None and embedder.name not in {space.name for space in spaces}:
        return PendingCounts(0, 0, 0)
    return await stack.embeddings.pending(owner_id=owner)


@verb(app, "spaces")
async def list_spaces(call: Invocation, *, json: Json = False) -> None:
    """List the spaces (a model and its dimensions), with coverage and index."""
    async with call.stack() as stack:
        spaces = await stack.embeddings.spaces()
    if json:
        emit_json(spaces)
    else:
        _show_spaces(spaces)


def _show_spaces(spaces: list[SpaceStatus]) -> None:
    if not spaces:
        typer.echo("no spaces yet: one is made when the first text is embedded")
        return
    columns = ["space", "dimensions", "distance", "storage", "state", "vectors", "coverage", "index"]
    show(table(columns, [_row(space) for space in spaces], right=["dimensions", "vectors", "coverage"]))


def _row(space: SpaceStatus) -> list[object]:
    index = space.index_method if space.index in ("none", "ready") else f"{space.index_method}, {space.index}"
    return [
        Text(space.name, style="bold" if space.is_default else ""),
        space.dimensions,
        space.distance,
        space.storage,
        space.state + (", default" if space.is_default else ""),
        f"{space.vectors:,}",
        f"{space.coverage:.1%}",
        index,
    ]


@verb(app, "process")
async def process_pending(
    call: Invocation,
    *,
    owner: AnyOwner = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", help="Chunks at most.", show_default=False)] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Take those up again that failed too often.")] = False,
    json: Json = False,
) -> int:
    """Embed what is waiting; any number of processes may do so at once."""
    async with call.stack() as stack:
        if retry:
            await stack.embeddings.retry_set_aside(owner_id=owner)
        with _bar("embedding") as progress:
            result = await stack.embeddings.process_pending(owner_id=owner, limit=limit, progress=progress)
    if json:
        emit_json(result)
    else:
        typer.echo(
            f"embedded {result.embedded:,}, failed {result.failed:,}; "
            f"{result.remaining:,} left, {result.set_aside:,} set aside"
        )
    return FAILED if result.failed else OK


@verb(app, "backfill")
async def backfill(call: Invocation, *, owner: AnyOwner = None, json: Json = False) -> None:
    """Queue every chunk that has no vector in the embedder's space."""
    async with call.stack() as stack:
        made = await stack.embeddings.backfill(owner_id=owner)
    if json:
        emit_json({"queued": made})
        return
    typer.echo(f"queued {counted(made, 'chunk')}")
    if made:
        typer.echo(f"to embed them: {call.options.command('embeddings', 'process')}")


@verb(app, "index")
async def build_index(
    call: Invocation,
    *,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build it anew beside the old one, then swap.")] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Drop it instead; searches become exact scans.")] = False,
    json: Json = False,
) -> None:
    """Build the approximate index of the embedder's space while everybody reads and writes."""
    if drop and rebuild:
        raise ConfigurationError("--drop and --rebuild exclude one another; give one of them")
    async with call.stack() as stack:
        name = (await stack.embeddings.space()).name
        built: list[str] = []
        if drop:
            await stack.embeddings.drop_index()
        else:
            with _index_bar() as progress:
                make = stack.embeddings.rebuild_index if rebuild else stack.embeddings.build_index
                built = await make(progress=progress)
    if json:
        emit_json({"space": name, "built": built, "dropped": drop})
    elif drop:
        typer.echo(f"dropped the index of {name}")
    else:
        typer.echo(
            f"built {counted(len(built), 'index partition')} of {name}" if built else f"{name} is indexed already"
        )


@contextlib.contextmanager
def _index_bar() -> Iterator[Callable[[IndexProgress], None] | None]:
    """A bar on stderr where that is a terminal, which says what PostgreSQL is doing."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import Progress

    from .output import console

    with Progress(console=console(error=True), transient=True) as progress:
        task = progress.add_task("indexing", total=1.0)

        def move(to: IndexProgress) -> None:
            said = f"partition {to.partition} of {to.partitions}, {to.phase}"
            progress.update(task, completed=to.share, description=said)

        yield move


@contextlib.contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr where that is a terminal, moved by (done, total)."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import Progress

    from .output import console

    with Progress(console=console(error=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
