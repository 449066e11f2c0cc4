"""A repository's verbs as a service's: each in a session of its own."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
Repository = TypeVar("Repository")
Owned = TypeVar("Owned", covariant=True)


class Domain(Protocol[Owned]):
    """A service over one repository, which it makes anew for each session."""

    async def _read(self, work: Callable[[Owned], Awaitable[T]]) -> T:
        """Run the work as one read, which is repeated once where its connection turns out to be broken."""

    async def _write(self, work: Callable[[Owned], Awaitable[T]]) -> T:
        """Run the work in a transaction, anew after a serialization failure or a deadlock."""


def reading(
    verb: Callable[Concatenate[Repository, P], Awaitable[T]],
) -> Callable[Concatenate[Domain[Repository], P], Coroutine[Any, Any, T]]:
    """The repository's verb as one read of its service."""

    @functools.wraps(verb)
    async def run(self: Domain[Repository], /, *given: P.args, **named: P.kwargs) -> T:
        return await self._read(lambda repository: verb(repository, *given, **named))

    return run


def writing(
    verb: Callable[Concatenate[Repository, P], Awaitable[T]],
) -> Callable[Concatenate[Domain[Repository], P], Coroutine[Any, Any, T]]:
    """The repository's verb in one transaction of its service."""

    @functools.wraps(verb)
    async def run(self: Domain[Repository], /, *given: P.args, **named: P.kwargs) -> T:
        return await self._write(lambda repository: verb(repository, *given, **named))

    return run
