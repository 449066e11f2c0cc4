"""A repository's verbs as a service's: each in a session of its own."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from .database import Service

P = ParamSpec("P")
T = TypeVar("T")
Repository = TypeVar("Repository")


class Domain(Generic[Repository]):
    """A service over one repository; `reading` and `writing` take verbs over, and the rest is its own."""

    _service: Service

    def _repository(self, session: AsyncSession) -> Repository:
        raise NotImplementedError

    async def _read(self, work: Callable[[Repository], Awaitable[T]]) -> T:
        return await self._service.read(lambda session: work(self._repository(session)))

    async def _write(self, work: Callable[[Repository], Awaitable[T]]) -> T:
        return await self._service.transaction(lambda session: work(self._repository(session)))


def reading(
    verb: Callable[Concatenate[Repository, P], Awaitable[T]],
) -> Callable[Concatenate[Domain[Repository], P], Coroutine[Any, Any, T]]:
    """The verb as one read, which is repeated once where its connection turns out to be broken."""

    @functools.wraps(verb)
    async def run(self: Domain[Repository], /, *given: P.args, **named: P.kwargs) -> T:
        return await self._read(lambda repository: verb(repository, *given, **named))

    return run


def writing(
    verb: Callable[Concatenate[Repository, P], Awaitable[T]],
) -> Callable[Concatenate[Domain[Repository], P], Coroutine[Any, Any, T]]:
    """The verb in a transaction, which runs anew after a serialization failure or a deadlock."""

    @functools.wraps(verb)
    async def run(self: Domain[Repository], /, *given: P.args, **named: P.kwargs) -> T:
        return await self._write(lambda repository: verb(repository, *given, **named))

    return run
