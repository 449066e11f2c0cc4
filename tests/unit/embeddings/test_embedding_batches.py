"""What `embed_all` accepts from an embedder, and what it says of the rest."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from llmstack.embeddings import CallableEmbedder, embed_all
from llmstack.errors import ConfigurationError, EmbeddingError
from llmstack.settings import Settings


async def _embed(fn: Callable[[list[str]], Any], texts: list[str], **settings: Any) -> list[list[float]]:
    embedder = CallableEmbedder(fn, name="m", dimensions=2)
    return await embed_all(embedder, texts, kind="document", settings=Settings(**settings))


def _lengths(texts: list[str]) -> list[list[float]]:
    return [[float(len(text)), 1.0] for text in texts]


@pytest.mark.parametrize(
    "shape",
    [
        lambda rows: rows,
        lambda rows: [tuple(row) for row in rows],
        lambda rows: np.array(rows, dtype=np.float32),
        lambda rows: [np.array(row) for row in rows],
        lambda rows: (row for row in rows),
    ],
    ids=["lists", "tuples", "array", "arrays", "generator"],
)
async def test_a_function_may_return_any_shape_of_vectors(shape: Callable[[Any], Any]) -> None:
    vectors = await _embed(lambda texts: shape(_lengths(texts)), ["a", "bbb"])
    assert vectors == [[1.0, 1.0], [3.0, 1.0]]
    assert all(type(value) is float for vector in vectors for value in vector)


async def test_a_function_may_be_async() -> None:
    async def embed(texts: list[str]) -> list[list[float]]:
        await asyncio.sleep(0)
        return _lengths(texts)

    class Model:
        async def __call__(self, texts: list[str]) -> list[list[float]]:
            return await embed(texts)

    assert await _embed(embed, ["a"]) == await _embed(Model(), ["a"]) == [[1.0, 1.0]]


async def test_a_blocking_function_leaves_the_event_loop_free() -> None:
    threads: list[str] = []

    def embed(texts: list[str]) -> list[list[float]]:
        threads.append(threading.current_thread().name)
        return _lengths(texts)

    await _embed(embed, ["a"])
    assert threads != [threading.main_thread().name]


async def test_texts_are_batched_and_equal_texts_are_embedded_once() -> None:
    batches: list[list[str]] = []

    async def embed(texts: list[str]) -> list[list[float]]:
        batches.append(texts)
        return _lengths(texts)

    texts = ["a", "bb", "a", "ccc", "bb", "dddd", "eeeee"]
    vectors = await _embed(embed, texts, embedding_batch_size=2)
    assert [vector[0] for vector in vectors] == [1, 2, 1, 3, 2, 4, 5]
    assert batches == [["a", "bb"], ["ccc", "dddd"], ["eeeee"]]


async def test_no_more_calls_run_at_a_time_than_the_settings_allow() -> None:
    running, most = 0, 0

    async def embed(texts: list[str]) -> list[list[float]]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.002)
        running -= 1
        return _lengths(texts)

    texts = [str(number) for number in range(20)]
    await _embed(embed, texts, embedding_batch_size=1, embedding_concurrency=3)
    assert most == 3


async def test_no_texts_cost_no_call() -> None:
    def embed(texts: list[str]) -> list[list[float]]:
        raise AssertionError

    assert await _embed(embed, []) == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([[1.0, 1.0]], "returned 1 vectors for 2 texts"),
        ([[1.0, 1.0]] * 3, "returned 3 vectors for 2 texts"),
        ([[1.0, 1.0], [1.0]], "vector 2 of 2 has 1 dimensions instead of 2"),
        ([[1.0, 1.0], []], "vector 2 of 2 has 0 dimensions instead of 2"),
        ([[1.0, math.nan], [1.0, 1.0]], "vector 1 of 2 holds NaN or infinite"),
        ([[1.0, 1.0], [math.inf, 1.0]], "vector 2 of 2 holds NaN or infinite"),
        ([[0.0, 0.0], [1.0, 1.0]], "vector 1 of 2 is zero"),
        ([[1e-9, 0.0], [1.0, 1.0]], "vector 1 of 2 is zero"),
        ([[1.0, -70000.0], [1.0, 1.0]], r"beyond the range of halfvec \(65504\)"),
        (None, "TypeError"),
        ([None, None], "TypeError"),
        ("ab", "ValueError"),
    ],
)
async def test_an_answer_that_cannot_be_stored_is_refused_in_words(answer: Any, message: str) -> None:
    with pytest.raises(EmbeddingError, match=message):
        await _embed(lambda texts: answer, ["first", "second"])


async def test_full_vectors_may_exceed_the_range_of_half_vectors() -> None:
    embedder = CallableEmbedder(lambda texts: [[1e9, 1e-9]], name="m", dimensions=2)
    assert await embed_all(embedder, ["a"], settings=Settings(), storage="vector") == [[1e9, 1e-9]]


async def test_an_error_names_its_class_and_says_nothing_of_the_text() -> None:
    def embed(texts: list[str]) -> list[list[float]]:
        raise LookupError(f"cannot embed {texts[0]!r} with key sk-abcdefghijklmnop")

    with pytest.raises(EmbeddingError, match="LookupError: cannot embed") as caught:
        await _embed(embed, ["the diary of an unknown person"])
    shown = "".join(traceback.format_exception(caught.value))
    assert "diary" not in shown.replace(__file__, "").replace('["the diary of an unknown person"]', "")
    assert "abcdefghijklmnop" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("blocking", [True, False])
async def test_a_call_that_hangs_ends_at_the_timeout(blocking: bool) -> None:
    async def wait(texts: list[str]) -> list[list[float]]:
        await asyncio.sleep(30)
        return []

    def sleep(texts: list[str]) -> list[list[float]]:
        time.sleep(2)
        return []

    started = time.monotonic()
    with pytest.raises(EmbeddingError, match=r"no answer within 0\.05 s"):
        await _embed(sleep if blocking else wait, ["a"], embedding_timeout=0.05)
    assert time.monotonic() - started < 1.5


def test_a_blocking_call_that_hangs_does_not_keep_the_loop_from_closing() -> None:
    async def main() -> None:
        with pytest.raises(EmbeddingError):
            await _embed(lambda texts: time.sleep(3), ["a"], embedding_timeout=0.05)

    started = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - started < 2


async def test_the_first_failure_stops_the_other_calls() -> None:
    finished: list[str] = []

    async def embed(texts: list[str]) -> list[list[float]]:
        if texts == ["bad"]:
            raise ValueError("no")
        await asyncio.sleep(5)
        finished.extend(texts)
        return _lengths(texts)

    with pytest.raises(EmbeddingError, match="failed on 1 text: ValueError: no"):
        await _embed(embed, ["good", "bad"], embedding_batch_size=1)
    assert finished == []


@pytest.mark.parametrize("dimensions", [0, -1])
def test_a_callable_needs_dimensions(dimensions: int) -> None:
    with pytest.raises(ConfigurationError, match="dimensions"):
        CallableEmbedder(_lengths, name="m", dimensions=dimensions)


@pytest.mark.parametrize("number", [1, 3])
async def test_an_embedder_that_overhears_a_cancellation_does_not_keep_its_caller_going(number: int) -> None:
    asked = asyncio.Event()
    task = asyncio.create_task(_embed(_deaf(asked), [f"text {n}" for n in range(number)], embedding_batch_size=1))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_embedder_that_overhears_its_deadline_has_failed() -> None:
    with pytest.raises(EmbeddingError, match="no answer within"):
        await _embed(_deaf(asyncio.Event()), ["one text"], embedding_timeout=0.05)


async def test_who_is_cancelled_already_may_still_embed() -> None:
    async def last_words() -> list[list[float]]:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            return await _embed(_lengths, ["good bye"])
        return []

    task = asyncio.create_task(last_words())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == [[8.0, 1.0]]


def _deaf(asked: asyncio.Event) -> Callable[[list[str]], Any]:
    async def embed(texts: list[str]) -> list[list[float]]:
        asked.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(10)
        return [[1.0, 0.0]] * len(texts)

    return embed
