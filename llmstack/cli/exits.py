"""Exit statuses, and errors as one or two lines."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator

import typer
from pydantic import ValidationError as InvalidSettings

from .. import errors
from ..settings import Settings

OK, FAILED, USAGE, UNAVAILABLE, BEHIND, NEWER, LOCKED, INTERRUPTED, BROKEN_PIPE = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    130,
    141,
)

EXIT_CODES: dict[int, str] = {
    OK: "fine",
    FAILED: "something failed: some files or lines, a check that found differences, a problem that doctor found",
    USAGE: "wrong usage, bad input or configuration",
    UNAVAILABLE: "the database cannot be reached or started",
    BEHIND: "migrations are needed first: llmstack migrate",
    NEWER: "the database is newer than this version of llmstack",
    LOCKED: "another process held the migration lock for too long",
    INTERRUPTED: "interrupted by Ctrl-C",
    BROKEN_PIPE: "the reader of the output went away",
}

_BY_ERROR: tuple[tuple[type[Exception], int], ...] = (
    (errors.DatabaseBehind, BEHIND),
    (errors.DatabaseNewer, NEWER),
    (errors.MigrationLockTimeout, LOCKED),
    (errors.DatabaseUnavailable, UNAVAILABLE),
    (errors.EmbeddedServerError, UNAVAILABLE),
    (errors.ConfigurationError, USAGE),
    (errors.ValidationError, USAGE),
    (InvalidSettings, USAGE),
)


def exit_code(error: BaseException) -> int:
    """The status that stands for this error."""
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), FAILED)


def described(error: BaseException) -> str:
    """The error in one line; of bad settings the names alone, for a value may be a secret."""
    if isinstance(error, InvalidSettings):
        return "; ".join(f"{_variable(item['loc'])}: {item['msg']}" for item in error.errors(include_input=False))
    said = " ".join(str(getattr(error, "orig", None) or error).split())
    if isinstance(error, errors.LLMStackError):
        return said
    return f"unexpected {type(error).__name__}: {said}"


def _variable(location: tuple[int | str, ...]) -> str:
    name = str(location[0]) if location else "settings"
    return f"LLMSTACK_{name.upper()}" if name in Settings.model_fields else name


@contextlib.contextmanager
def reporting(*, verbose: bool, way_out: Callable[[BaseException], str | None]) -> Iterator[None]:
    """Turn every error into a message on stderr and an exit status; a traceback only if `verbose`."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        drop_output()
        raise typer.Exit(BROKEN_PIPE) from None
    except Exception as error:
        if verbose:
            traceback.print_exc()
        say(f"error: {described(error)}", color="red")
        if (command := way_out(error)) is not None:
            say(f"try:   {command}")
        raise typer.Exit(exit_code(error)) from None


def say(message: str, *, color: str | None = None) -> None:
    """A line on stderr."""
    typer.secho(message, fg=color, err=True)


def drop_output() -> None:
    """Nobody reads stdout any more; what is still buffered must not raise at the end."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
