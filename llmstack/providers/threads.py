"""Blocking calls off the event loop, in threads that never keep a process alive."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import os
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")


async def call(fn: Callable[..., Any], *arguments: Any) -> Any:
    """The answer of a function: awaited here where it is a coroutine, from a thread where it may block."""
    # An object's coroutine made in a thread would be left alone where the caller is cancelled.
    if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__):
        return await fn(*arguments)
    answer = await in_thread(fn, *arguments)
    return await answer if inspect.isawaitable(answer) else answer


async def in_thread(work: Callable[..., Result], *arguments: Any) -> Result:
    """Await a blocking call.

    A pool's threads are joined at exit, so that one call that hangs would hang the process; these are not.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def run() -> None:
        result: Any = None
        failed: BaseException | None = None
        try:
            result = context.run(work, *arguments)
        except BaseException as error:
            # StopIteration cannot be set on a future.
            failed = RuntimeError("the call raised StopIteration") if isinstance(error, StopIteration) else error
        # The loop may be closed by the time that a call which nobody waits for returns.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, result, failed)

    _hand_over(run)
    return await future


_Jobs = queue.SimpleQueue[Callable[[], None]]
_IDLE_AT_MOST = 8
"""Threads that are kept for the next call: about as many as ever run at once."""
_idle: list[_Jobs] = []
# Threads do not survive a fork.
os.register_at_fork(after_in_child=_idle.clear)


def _hand_over(job: Callable[[], None]) -> None:
    """To a thread that waits for work, or a new one: making one takes a quarter of what a call costs."""
    try:
        jobs = _idle.pop()
    except IndexError:
        jobs = queue.SimpleQueue()
        threading.Thread(target=_work, args=(jobs,), name="llmstack-call", daemon=True).start()
    jobs.put(job)


def _work(jobs: _Jobs) -> None:
    while True:
        jobs.get()()
        if len(_idle) >= _IDLE_AT_MOST:
            return
        _idle.append(jobs)
