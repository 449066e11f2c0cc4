"""Work one step ahead: what comes next is made while the present is in use."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Generic, TypeVar

Made = TypeVar("Made")


@dataclass(slots=True, frozen=True)
class _Step(Generic[Made]):
    """What came: `made`, an `error`, or, with neither, the end."""

    made: Made | None = None
    error: BaseException | None = None


async def prefetched(source: AsyncGenerator[Made, None]) -> AsyncGenerator[Made, None]:
    """The items of a source; an item is made while the one before it is in use, and no further one is.

    One task runs all of the source, so that what it opens it also closes; the task ends with this generator. An
    error of the source is raised in its turn.
    """
    steps: asyncio.Queue[_Step[Made]] = asyncio.Queue()
    taken = asyncio.Semaphore(0)
    maker = asyncio.create_task(_make(source, steps, taken))
    try:
        while (step := await steps.get()).made is not None:
            taken.release()
            yield step.made
        if step.error is not None:
            raise step.error
    finally:
        maker.cancel()
        # Its errors have been told, or nobody waits for them any more.
        await asyncio.wait([maker])


async def _make(
    source: AsyncGenerator[Made, None], steps: asyncio.Queue[_Step[Made]], taken: asyncio.Semaphore
) -> None:
    try:
        async with contextlib.aclosing(source):
            async for made in source:
                steps.put_nowait(_Step(made))
                await taken.acquire()
    except Exception as error:
        steps.put_nowait(_Step(error=error))
    except BaseException:
        # Whoever waits is not left waiting. Not with the error itself: its frames would keep the source from its end.
        steps.put_nowait(_Step(error=asyncio.CancelledError()))
        raise
    else:
        steps.put_nowait(_Step())
