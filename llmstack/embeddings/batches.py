"""Many texts through an embedder: batched, bounded, checked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

from ..errors import EmbeddingError, MissingExtra
from ..providers.failures import describe
from ..settings import Settings
from .protocol import Embedder, Kind
from .vectors import as_vectors, fault_of


async def embed_all(
    embedder: Embedder,
    texts: Sequence[str],
    *,
    kind: Kind = "document",
    settings: Settings,
    dimensions: int | None = None,
    storage: str = "halfvec",
) -> list[list[float]]:
    """A checked vector for each text; equal texts are embedded once. All or EmbeddingError."""
    unique = list(dict.fromkeys(texts))
    size = settings.embedding_batch_size
    batches = [unique[start : start + size] for start in range(0, len(unique), size)]
    expected = dimensions or embedder.dimensions
    slots = asyncio.Semaphore(settings.embedding_concurrency)

    async def embed_one(batch: list[str]) -> list[list[float]]:
        async with slots:
            vectors = await _call(embedder, batch, kind=kind, seconds=settings.embedding_timeout)
        _check(embedder, batch, vectors, dimensions=expected, storage=storage)
        return vectors

    if len(batches) == 1:
        # A query: a task for it would take three turns of the event loop more.
        found = await embed_one(batches[0])
    else:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(embed_one(batch)) for batch in batches]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        found = [vector for task in tasks for vector in task.result()]
    by_text = dict(zip(unique, found, strict=True))
    return [by_text[text] for text in texts]


async def _call(embedder: Embedder, batch: list[str], *, kind: Kind, seconds: float) -> list[list[float]]:
    deadline = asyncio.timeout(seconds)
    try:
        async with deadline:
            vectors = await _unless_cancelled(embedder.embed(batch, kind=kind))
        return as_vectors(vectors)
    except MissingExtra:
        raise
    except Exception as error:
        said = describe(error, texts=batch)
        if deadline.expired():
            said = f"no answer within {seconds:g} s"
    # Outside the handler, so that the embedder's own error, which may quote a text, is not even the context.
    raise EmbeddingError(f"embedder {embedder.name!r} failed on {_count(batch)}: {said}")


async def _unless_cancelled(answer: Awaitable[Any]) -> Any:
    """The answer; CancelledError where this task was cancelled meanwhile, though the embedder may have caught it."""
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    found = await answer
    if task.cancelling() > before:
        raise asyncio.CancelledError
    return found


def _check(embedder: Embedder, batch: list[str], vectors: list[list[float]], *, dimensions: int, storage: str) -> None:
    if len(vectors) != len(batch):
        raise EmbeddingError(f"embedder {embedder.name!r} returned {len(vectors)} vectors for {_count(batch)}")
    expected = dimensions or embedder.dimensions or len(vectors[0])
    for place, vector in enumerate(vectors):
        fault = fault_of(vector, dimensions=expected, storage=storage)
        if fault is not None:
            raise EmbeddingError(f"embedder {embedder.name!r}: vector {place + 1} of {len(batch)} {fault}")


def _count(batch: Sequence[str]) -> str:
    return "1 text" if len(batch) == 1 else f"{len(batch)} texts"
