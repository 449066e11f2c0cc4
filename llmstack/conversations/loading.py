"""Append to many threads: in batches of a transaction each, with the bad kept from the good."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from ..db.database import Service
from ..db.streams import each_of
from ..errors import DatabaseUnavailable, LLMStackError, ValidationError
from ..settings import Settings
from .preparation import prepare, size_of
from .records import AppendResult, PreparedThread, ThreadInput
from .writer import write_threads

Item = TypeVar("Item")
Result = TypeVar("Result")
BATCH_MESSAGES = 2_000
BATCH_CHARACTERS = 1_000_000


async def append_many(
    service: Service, settings: Settings, inputs: Iterable[ThreadInput] | AsyncIterable[ThreadInput]
) -> AsyncGenerator[AppendResult, None]:
    """Results in the order of the inputs; each batch is written before its first result is given."""
    async with contextlib.aclosing(_batches(inputs)) as batches:
        async for batch in batches:
            prepared = await asyncio.to_thread(_prepare_all, batch, settings)
            good = [one for one in prepared if isinstance(one, PreparedThread)]
            written = iter(await write_apart(service, good, write_threads))
            for given, one in zip(batch, prepared, strict=True):
                yield _result(given, next(written) if isinstance(one, PreparedThread) else one)


def _result(given: ThreadInput, done: AppendResult | LLMStackError) -> AppendResult:
    if isinstance(done, AppendResult):
        return done
    named = given.thread if isinstance(given.thread, str) else None
    return AppendResult(owner_id=given.owner_id, id_at_origin=named, error=str(done))


def _prepare_all(batch: Sequence[ThreadInput], settings: Settings) -> list[PreparedThread | LLMStackError]:
    found: list[PreparedThread | LLMStackError] = []
    for given in batch:
        try:
            found.append(prepare(given, settings))
        except ValidationError as error:
            found.append(error)
    return found


async def write_apart(
    service: Service,
    items: Sequence[Item],
    write: Callable[[AsyncSession, Sequence[Item]], Awaitable[list[Result | LLMStackError]]],
) -> list[Result | LLMStackError]:
    """Write the items in one transaction; where the server refuses it, each in its own."""
    if not items:
        return []
    try:
        return await service.transaction(lambda session: write(session, items))
    except DatabaseUnavailable:
        raise
    except LLMStackError as error:
        if len(items) == 1:
            return [error]
    return [result for item in items for result in await write_apart(service, [item], write)]


async def _batches(
    inputs: Iterable[ThreadInput] | AsyncIterable[ThreadInput],
) -> AsyncGenerator[list[ThreadInput], None]:
    batch: list[ThreadInput] = []
    messages = characters = 0
    async for given in each_of(inputs):
        batch.append(given)
        messages += len(given.messages)
        characters += sum(map(size_of, given.messages))
        if messages >= BATCH_MESSAGES or characters >= BATCH_CHARACTERS:
            yield batch
            batch, messages, characters = [], 0, 0
    if batch:
        yield batch
