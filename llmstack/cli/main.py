"""The application: its verbs, its help, its end."""

from __future__ import annotations

import sys

import typer

from . import (
    demo,
    doctor,
    documents,
    embeddings,
    ingest,
    migrate,
    search,
    summaries,
    thread_reading,
    threads,
    transfer,
    tuning,
)
from .exits import BROKEN_PIPE, EXIT_CODES, INTERRUPTED, drop_output
from .invocation import DataDir, EmbedderName, Options, Schema, Url, Verbose, Version

_EPILOG = "Exit status:\n\n" + "\n".join(f"- {code}: {meaning}" for code, meaning in EXIT_CODES.items())

app = typer.Typer(
    name="llmstack",
    epilog=_EPILOG,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    context: typer.Context,
    url: Url = None,
    schema: Schema = None,
    data_dir: DataDir = None,
    embedder: EmbedderName = None,
    verbose: Verbose = False,
    version: Version = False,
) -> None:
    """The data layer of an LLM application on one PostgreSQL: ingest, search, migrate, look after.

    The global options may stand before or after the verb; each is also read from the environment.
    """
    context.obj = Options(url=url, schema=schema, data_dir=data_dir, embedder=embedder, verbose=verbose)


demo.register(app)
ingest.register(app)
search.register(app)
tuning.register(app)
app.add_typer(documents.app, name="documents")
thread_reading.register(threads.app)
transfer.register(threads.app)
summaries.register(threads.app)
app.add_typer(threads.app, name="threads")
app.add_typer(embeddings.app, name="embeddings")
app.add_typer(migrate.app, name="migrate")
doctor.register(app)


def main() -> int:
    """Run with the arguments of the process; return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    status: object = 0
    try:
        app(prog_name="llmstack")
    except SystemExit as end:
        status = end.code
    except KeyboardInterrupt:
        status = INTERRUPTED
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()
        status = BROKEN_PIPE
    return status if isinstance(status, int) else 0
