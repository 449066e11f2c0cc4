"""What comes one after another, from a list or from a stream."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import TypeVar

Item = TypeVar("Item")


async def each_of(items: Iterable[Item] | AsyncIterable[Item]) -> AsyncIterator[Item]:
    """The items, whether or not they have to be waited for."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
