"""Blocking calls in threads that are kept for the next call."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
from typing import Any

import pytest

from llmstack.providers import threads
from llmstack.providers.threads import call, in_thread


async def test_calls_that_follow_one_another_share_a_few_threads() -> None:
    seen = {await in_thread(threading.get_ident) for _ in range(200)}
    assert threading.get_ident() not in seen
    # The next call may come before the thread of the last one waits again.
    assert len(seen) <= 3


async def test_calls_at_once_each_have_a_thread_and_few_are_kept() -> None:
    gate = threading.Barrier(threads._IDLE_AT_MOST + 4, timeout=10)
    await asyncio.gather(*(in_thread(gate.wait) for _ in range(gate.parties)))
    for _ in range(100):
        if len(threads._idle) == threads._IDLE_AT_MOST:
            break
        await asyncio.sleep(0.01)
    assert len(threads._idle) == threads._IDLE_AT_MOST


async def test_a_call_that_hangs_keeps_no_other_waiting() -> None:
    release = threading.Event()
    hanging = asyncio.ensure_future(in_thread(release.wait, 10))
    assert [await in_thread(len, "abc") for _ in range(5)] == [3] * 5
    release.set()
    assert await hanging


async def test_each_call_has_the_context_of_its_caller() -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")

    async def named(value: str) -> str:
        name.set(value)
        return await in_thread(name.get)

    assert await asyncio.gather(*(asyncio.create_task(named(value)) for value in "abc")) == ["a", "b", "c"]
    assert await in_thread(name.get) == "nobody"


async def test_what_a_call_raises_is_raised_to_its_caller_and_its_thread_goes_on() -> None:
    def fail() -> None:
        raise ValueError("bad")

    for _ in range(3):
        with pytest.raises(ValueError, match="bad"):
            await in_thread(fail)
        assert await in_thread(len, "ab") == 2


async def test_a_coroutine_function_is_awaited_here_and_an_awaitable_from_a_thread_too() -> None:
    async def here(value: int) -> tuple[int, int]:
        return threading.get_ident(), value

    def there(value: int) -> Any:
        return here(value)

    assert await call(here, 1) == (threading.get_ident(), 1)
    assert await call(there, 2) == (threading.get_ident(), 2)


_FORK = """
import asyncio, os
from llmstack.providers import threads
asyncio.run(threads.in_thread(len, "abc"))
child = os.fork()
if child == 0:
    os._exit(0 if not threads._idle and asyncio.run(threads.in_thread(len, "abc")) == 3 else 1)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_fork_begins_without_threads() -> None:
    # From 3.12 on Python warns of a fork beside threads, which is what is tried here.
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", _FORK], timeout=60, check=False)
    assert done.returncode == 0
