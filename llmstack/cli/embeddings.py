"""`llmstack embeddings`: what is owed, what is there, and the indexes over it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.table import Table
from rich.text import Text

from ..errors import ConfigurationError
from .exits import FAILED, OK, say
from .invocation import AnyOwner, Invocation, verb
from .output import Answer, counted, plain, progress, queue_line, table

if TYPE_CHECKING:
    from ..embeddings import SpaceStatus, Verification
    from ..embeddings.builds import IndexProgress
    from ..embeddings.spaces import Distance, IndexMethod, Quantization, Storage

app = typer.Typer(help="Status, pending work, spaces and indexes of embeddings.", no_args_is_help=True)


Space = Annotated[
    str | None, typer.Option("--space", help="This space alone, by its name.", metavar="NAME", show_default=False)
]
SpaceName = Annotated[str, typer.Argument(metavar="NAME", help="The name of a space.", show_default=False)]
Force = Annotated[bool, typer.Option("--force", help="Even if it lacks something.")]
LeastCoverage = Annotated[
    float, typer.Option("--least-coverage", help="The share of chunks that must have their vector.", min=0, max=1)
]


@verb(app, "status")
async def show_status(call: Invocation, *, owner: AnyOwner = None, space: Space = None) -> Answer:
    """Show the embedders, how many chunks wait for a vector, and how many have one."""
    async with call.stack() as stack:
        pending = await stack.embeddings.pending(space=space, owner_id=owner)
        spaces = [one for one in await stack.embeddings.spaces() if space in (None, one.name)]
        embedder, embedders = stack.embeddings.embedder, [one.name for one in stack.embeddings.embedders]
    name = None if embedder is None else embedder.name
    shown = [f"embedder: {', '.join(embedders) or 'none'}", f"pending:  {queue_line(pending)}", _listed(spaces)]
    if pending.set_aside:
        shown.append(f"\nto try those set aside again: {_command(call, 'process', space, '--retry')}")
    elif pending.waiting:
        shown.append(f"\nto embed them: {_command(call, 'process', space)}")
    return Answer({"embedder": name, "embedders": embedders, "pending": pending, "spaces": spaces}, shown)


def _command(call: Invocation, verb: str, space: str | None, *more: str) -> str:
    """The next command, about the same space."""
    return call.options.command("embeddings", verb, *more, *(() if space is None else ("--space", space)))


@verb(app, "spaces")
async def list_spaces(call: Invocation) -> Answer:
    """List the spaces (a model and its dimensions), with coverage and index."""
    async with call.stack() as stack:
        spaces = await stack.embeddings.spaces()
    return Answer(spaces, [_listed(spaces)])


def _listed(spaces: list[SpaceStatus]) -> Table | str:
    if not spaces:
        return "no spaces yet: one is made when the first text is embedded"
    columns = ["space", "dimensions", "distance", "storage", "state", "vectors", "coverage", "pending", "index"]
    return table(columns, map(_row, spaces), right=["dimensions", "vectors", "coverage", "pending"])


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
        f"{space.pending + space.set_aside:,}",
        index,
    ]


@verb(app, "process")
async def process_pending(
    call: Invocation,
    *,
    owner: AnyOwner = None,
    space: Space = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", help="Chunks at most.", show_default=False)] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Take those up again that failed too often.")] = False,
) -> Answer:
    """Embed what is waiting, the serving space's first; any number of processes may do so at once."""
    async with call.stack() as stack:
        if retry:
            await stack.embeddings.retry_set_aside(space=space, owner_id=owner)
        with progress("embedding") as move:
            result = await stack.embeddings.process_pending(space=space, owner_id=owner, limit=limit, progress=move)
    said = f"embedded {result.embedded:,}, failed {result.failed:,}"
    left = f"{result.remaining:,} left, {result.set_aside:,} set aside"
    return Answer(result, [f"{said}; {left}"], FAILED if result.failed else OK)


@verb(app, "backfill")
async def backfill(call: Invocation, *, owner: AnyOwner = None, space: Space = None) -> Answer:
    """Queue every chunk that has no vector in the serving space, or in another one."""
    async with call.stack() as stack:
        with progress("queueing") as move:
            made = await stack.embeddings.backfill(space=space, owner_id=owner, progress=move)
    next_step = [f"to embed them: {_command(call, 'process', space)}"] if made else []
    return Answer({"queued": made}, [f"queued {counted(made, 'row')}", *next_step])


@verb(app, "add-space")
async def add_space(
    call: Invocation,
    name: Annotated[
        str, typer.Argument(metavar="EMBEDDER", help="`local`, or a litellm model; `model=512` for its dimensions.")
    ],
    *,
    distance: Annotated[str, typer.Option(help="cosine, inner_product or l2.")] = "cosine",
    storage: Annotated[str, typer.Option(help="halfvec, or vector for 4-byte floats.")] = "halfvec",
    index_method: Annotated[str, typer.Option(help="hnsw, ivfflat or none.")] = "hnsw",
    parameter: Annotated[
        list[str] | None, typer.Option(help="A parameter of the index, such as m=24.", show_default=False)
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="fast, balanced or accurate, in place of parameters.", show_default=False)
    ] = None,
    quantization: Annotated[
        str | None, typer.Option(help="binary: the index holds bits, the vectors rank.", show_default=False)
    ] = None,
) -> Answer:
    """Make a space for another embedder; it grows in the shadow until a cut-over."""
    from ..embeddings import named_embedder

    embedder = named_embedder(name, call.settings)
    async with call.stack() as stack:
        is_known = embedder.name in {one.name for one in stack.embeddings.embedders}
        space = await stack.embeddings.add_space(
            embedder,
            distance=cast("Distance", distance),
            storage=cast("Storage", storage),
            index_method=cast("IndexMethod", index_method),
            index_parameters=_parameters(parameter or [], preset),
            quantization=cast("Quantization | None", quantization),
        )
    shown = [f"{space.name}: {space.dimensions} dimensions, {space.distance}, {space.storage}, {space.index_method}"]
    if not is_known:
        shown.append(f"in every process: LLMSTACK_OTHER_EMBEDDERS={name}")
    return Answer(space, [*shown, f"to queue every row: {_command(call, 'backfill', space.name)}"])


def _parameters(given: list[str], preset: str | None) -> dict[str, int] | str:
    if preset is not None:
        if given:
            raise ConfigurationError("--preset and --parameter exclude one another; give one of them")
        return preset
    pairs = [one.partition("=") for one in given]
    for name, _, value in pairs:
        if not name or not value.isdecimal():
            raise ConfigurationError(f"--parameter {name!r}: give a name and a whole number, such as m=24")
    return {name: int(value) for name, _, value in pairs}


@verb(app, "verify")
async def verify(call: Invocation, name: SpaceName, *, least_coverage: LeastCoverage = 1.0) -> Answer:
    """Say what a space lacks to serve; exit status 1 if anything."""
    async with call.stack() as stack:
        found = await stack.embeddings.verify(name, least_coverage=least_coverage)
    recall = "" if found.recall is None else f", recall {found.recall:.1%}"
    shown = [f"{name}: {found.coverage:.1%} covered, {found.pending:,} pending, index {found.index}{recall}"]
    shown += [f"- {fault}" for fault in found.faults]
    if step := _next_step(call, found):
        shown.append(step)
    return Answer({**plain(found), "ready": found.ready}, shown, OK if found.ready else FAILED)


def _next_step(call: Invocation, found: Verification) -> str:
    if found.ready:
        return f"to let it serve: {call.options.command('embeddings', 'cut-over', found.space)}"
    steps = {
        "backfill": f"to queue them: {_command(call, 'backfill', found.space)}",
        "process_pending": f"to embed them: {_command(call, 'process', found.space)}",
        "retry_set_aside": f"to try them again: {_command(call, 'process', found.space, '--retry')}",
        "build_index": f"to build it: {_command(call, 'index', found.space)}",
    }
    return next((steps[verb] for verb in found.steps if verb in steps), "")


@verb(app, "cut-over")
async def cut_over(
    call: Invocation,
    name: SpaceName,
    *,
    force: Force = False,
    least_coverage: LeastCoverage = 1.0,
) -> Answer:
    """Let a space serve that has every vector and its index; what served before is kept up."""
    async with call.stack() as stack:
        space = await stack.embeddings.cut_over(name, force=force, least_coverage=least_coverage)
        is_known = space.name in {one.name for one in stack.embeddings.embedders}
    if not is_known:
        say("warning: its embedder is not named here; check LLMSTACK_OTHER_EMBEDDERS of the others", color="yellow")
    way_back = f"to go back: {call.options.command('embeddings', 'roll-back')}"
    return Answer(space, [_serving(call, space.name), way_back])


@verb(app, "roll-back")
async def roll_back(call: Invocation, *, force: Force = False, least_coverage: LeastCoverage = 1.0) -> Answer:
    """Let the space serve that served before the last cut-over."""
    async with call.stack() as stack:
        space = await stack.embeddings.roll_back(force=force, least_coverage=least_coverage)
    return Answer(space, [_serving(call, space.name)])


def _serving(call: Invocation, name: str) -> str:
    return f"{name} serves; processes that know its embedder follow within {call.settings.space_refresh:g} s"


@verb(app, "retire")
async def retire(call: Invocation, name: SpaceName) -> Answer:
    """Delete the vectors, jobs and index of a space that does not serve; there is no way back to it."""
    async with call.stack() as stack:
        gone = await stack.embeddings.retire(name)
    said = f"retired {name}: {counted(gone.vectors, 'vector')} and {counted(gone.jobs, 'job')} deleted"
    return Answer(gone, [said])


@verb(app, "index")
async def build_index(
    call: Invocation,
    *,
    space: Space = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build it anew beside the old one, then swap.")] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Drop it instead; searches become exact scans.")] = False,
) -> Answer:
    """Build the approximate index of the serving space, or of another one, while everybody reads and writes."""
    if drop and rebuild:
        raise ConfigurationError("--drop and --rebuild exclude one another; give one of them")
    async with call.stack() as stack:
        name = space or (await stack.embeddings.space()).name
        built: list[str] = []
        if drop:
            await stack.embeddings.drop_index(space=space)
        else:
            make = stack.embeddings.rebuild_index if rebuild else stack.embeddings.build_index
            with progress("indexing") as move:
                built = await make(space=space, progress=None if move is None else functools.partial(_tell, move))
    made = f"built {counted(len(built), 'index partition')} of {name}" if built else f"{name} is indexed already"
    said = f"dropped the index of {name}" if drop else made
    return Answer({"space": name, "built": built, "dropped": drop}, [said])


def _tell(move: Callable[..., None], to: IndexProgress) -> None:
    """What PostgreSQL is doing."""
    move(to.share, 1.0, f"partition {to.partition} of {to.partitions}, {to.phase}")
