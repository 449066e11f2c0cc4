"""What deleting, restoring and purging have in common, whatever it is that goes."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence

import typer

from ..errors import ConfigurationError
from .exits import FAILED, OK, say
from .output import Answer, counted


async def change_each(
    ids: Sequence[str], change: Callable[[str], Awaitable[int]], *, owner: str, done: str, noun: str
) -> Answer:
    """Delete or restore each; one that is absent is named and does not stop the others."""
    changed: list[str] = []
    absent: list[str] = []
    for given in ids:
        (changed if await change(given) else absent).append(given)
    for given in absent:
        say(f"error: owner {owner!r} has no such {noun}: {given}", color="red")
    said = f"{done} {counted(len(changed), noun)}"
    return Answer({done: changed, "not_found": absent}, [said], FAILED if absent else OK)


def confirm_purge(owner: str, nouns: str) -> None:
    """Ask whoever sits at the terminal, or refuse."""
    if not sys.stdin.isatty():
        raise ConfigurationError("purge cannot be undone; give --yes where nobody can be asked")
    typer.confirm(f"Delete the deleted {nouns} of {owner!r} for good?", abort=True, err=True)
