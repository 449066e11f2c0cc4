"""`llmstack demo`: real files in, three questions answered."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

import llmstack

from ..errors import ValidationError
from .exits import FAILED, OK
from .ingest import counts, described_outcomes
from .intake import FileReading, Intake
from .invocation import Invocation, Options, verb
from .output import counted, show
from .search import described_hits

if TYPE_CHECKING:
    from ..stack import LLMStack

_OWNER, _SCHEMA, _HITS, _QUESTIONS = "demo", "llmstack_demo", 3, 3
_OUR_QUESTIONS = (
    "who holds the migration lock?",
    "how are the text and vector scores fused?",
    "what happens to the document when the embedder fails?",
)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    verb(app, "demo")(demo)


async def demo(
    call: Invocation,
    path: Annotated[
        Path | None,
        typer.Argument(help="Files of your own; without it llmstack's README and sources.", show_default=False),
    ] = None,
) -> int:
    """Ingest files into the embedded server and ask three questions.

    Works in the schema llmstack_demo unless --schema is given, on the embedded server unless --url is given,
    and with the local embedder. A second run finds everything unchanged.
    """
    started = time.perf_counter()
    call = _demo_call(call)
    home, paths = _sources(path)
    reading = FileReading(owner_id=_OWNER, relative_to=home)
    files = _questioned(reading.files(paths))
    if not files:
        raise ValidationError("path", f"there is nothing to read in {path}")
    async with call.stack(migrate=True) as stack:
        _step(f"PostgreSQL is ready, schema {stack.service.schema!r} is migrated", started)
        began = time.perf_counter()
        intake = Intake(stack)
        if (stopped := await intake.run(reading, files)) is not None:
            raise stopped
        totals = ", ".join(f"{number:,} {name}" for name, number in counts(intake.outcomes).items())
        chunks = (await stack.documents.statistics(owner_id=_OWNER)).chunks
        _step(f"{counted(len(files), 'file')}: {totals}; {counted(chunks, 'chunk')} to search", began)
        failed = [outcome for outcome in intake.outcomes if outcome.outcome == "failed"]
        if failed:
            show(*described_outcomes(failed))
        questions = await _questions(stack, own=path is not None)
        for question in questions:
            await _ask(stack, question)
    _say_next(call, questions[0], started)
    return FAILED if failed else OK


def _demo_call(call: Invocation) -> Invocation:
    """The environment's database and embedder are for real work: only the command line leads elsewhere."""
    options = dataclasses.replace(call.options, schema=call.options.schema or _SCHEMA)
    settings = options.settings()
    if options.url is None:
        settings = settings.model_copy(update={"database_url": None, "reader_url": None})
    if options.embedder is None:
        from ..embeddings.local import local_is_installed

        settings = settings.model_copy(update={"embedder": "local" if local_is_installed() else "none"})
    return Invocation(options=options, settings=settings)


def _sources(path: Path | None) -> tuple[Path, list[Path]]:
    """The folder that identities are relative to, and what to read."""
    if path is not None:
        return (path if path.is_dir() else path.absolute().parent), [path]
    package = Path(llmstack.__file__).parent
    here = Path.cwd()
    if (here / "README.md").is_file() and (here / "llmstack" / "__init__.py").is_file():
        return here, [here / "README.md", here / "llmstack"]
    return package.parent, [package]


def _questioned(files: list[Path]) -> list[Path]:
    # This file holds the questions, so it would be an answer to each.
    return [file for file in files if file.resolve() != Path(__file__).resolve()]


async def _questions(stack: LLMStack, *, own: bool) -> Sequence[str]:
    """Three questions; for files of the user's own, the names of three documents."""
    if not own:
        return _OUR_QUESTIONS
    page = await stack.documents.list(owner_id=_OWNER, limit=_QUESTIONS)
    return [" ".join(re.findall(r"\w+", Path(one.name).stem.replace("_", " "))) or one.name for one in page.items]


async def _ask(stack: LLMStack, question: str) -> None:
    # The first use of an embedder loads its model.
    if stack.embeddings.embedder is not None:
        await stack.embeddings.embed([question], kind="query")
    began = time.perf_counter()
    hits = await stack.documents.search(owner_id=_OWNER, query=question, limit=_HITS)
    elapsed = (time.perf_counter() - began) * 1000
    show(
        Text.assemble("\n", ("? ", "bold magenta"), (question, "bold"), (f"   {elapsed:.0f} ms, {hits.mode}\n", "dim"))
    )
    show(*described_hits(stack.documents.corpus, question, hits))


def _step(message: str, since: float) -> None:
    show(Text.assemble(message, (f"  ({time.perf_counter() - since:.1f} s)", "dim")))


def _say_next(call: Invocation, question: str, started: float) -> None:
    def command(*words: str, options: Options = call.options) -> str:
        return "  " + options.command(*words)

    show(Text(f"Done in {time.perf_counter() - started:.1f} s. Try next:", style="bold"))
    plain = dataclasses.replace(call.options, schema=None)
    for line in (
        command("search", question, "--owner", _OWNER, "--explain"),
        command("documents", "list", "--owner", _OWNER),
        command("ingest", "PATH", "--owner", "me", options=plain),
        command("search", "WORDS", "--owner", "me", options=plain),
        command("doctor"),
    ):
        typer.echo(line)
