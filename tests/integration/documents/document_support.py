"""Documents to add, an embedder that remembers what it embedded, and looks at the tables."""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import re
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import psutil
from sqlalchemy import func, select, text

from llmstack import LLMStack
from llmstack.db.embedded import EmbeddedServer
from llmstack.documents import AddResult, Chunk, DocumentInput
from llmstack.embeddings import CallableEmbedder

DIMENSIONS = 64
MakeStack = Callable[..., LLMStack]
_WORD = re.compile(r"\w+")


def vector_of(content: str) -> list[float]:
    """A bag of words: each word adds to one of the dimensions."""
    vector = [0.01] * DIMENSIONS
    for word in _WORD.findall(content.lower()):
        vector[hashlib.md5(word.encode()).digest()[0] % DIMENSIONS] += 1.0
    length = math.sqrt(sum(value * value for value in vector))
    return [value / length for value in vector]


class Words:
    """Remembers every text that it embeds. `before` runs first; `fault` makes its answer another one."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.calls = 0
        self.before: Callable[[list[str]], Awaitable[None]] | None = None
        self.fault: Callable[[list[str]], Any] | None = None

    async def __call__(self, texts: list[str]) -> Any:
        self.calls += 1
        if self.before is not None:
            await self.before(texts)
        if self.fault is not None and (answer := self.fault(texts)) is not None:
            return await answer if asyncio.iscoroutine(answer) else answer
        self.texts.extend(texts)
        return [vector_of(content) for content in texts]

    def embedder(self) -> CallableEmbedder:
        return CallableEmbedder(self, name="words", dimensions=DIMENSIONS)


def paragraphs(*words: str, size: int = 60) -> str:
    """A Markdown text with a section for each word, in which only that word occurs."""
    return "\n\n".join(f"# Part {word}\n\n" + " ".join([word] * size) for word in words)


def document(origin: str, content: str = "a few words", **more: Any) -> DocumentInput:
    return DocumentInput(**{"owner_id": "acme", "id_at_origin": origin, "content": content, **more})


async def add(stack: LLMStack, origin: str, content: str = "a few words", **more: Any) -> AddResult:
    return await stack.documents.add(**{"owner_id": "acme", "id_at_origin": origin, "content": content, **more})


async def added(stack: LLMStack, inputs: Any, **more: Any) -> list[AddResult]:
    return [result async for result in stack.documents.add_many(inputs, **more)]


async def found(stack: LLMStack, query: str, *, owner_id: str = "acme", **more: Any) -> list[str]:
    """The origins of the hits, each once, sorted."""
    hits = await stack.documents.search(owner_id=owner_id, query=query, limit=1000, **more)
    return sorted({hit.id_at_origin for hit in hits})


async def contents(stack: LLMStack, result: AddResult, **more: Any) -> list[str]:
    assert result.document is not None
    chunks = await stack.documents.chunks(owner_id=result.owner_id, document_id=result.document.id, **more)
    return [chunk.content for chunk in chunks]


async def counted(stack: LLMStack, model: type[Any]) -> int:
    async with stack.service.session() as session:
        return await session.scalar(select(func.count()).select_from(model)) or 0


async def row_versions(stack: LLMStack) -> list[tuple[Any, ...]]:
    """The transaction that wrote each row, and its place: any write changes it."""
    # New statistics may reweigh the chunks.
    await stack.documents.settle()
    tables = ("documents", "chunks", "chunk_embeddings", "chunk_embedding_jobs")
    versions = " UNION ALL ".join(
        f"SELECT '{table}', tableoid::int, ctid::text, xmin::text FROM llmstack.{table}" for table in tables
    )
    async with stack.service.session() as session:
        return sorted(tuple(row) for row in await session.execute(text(versions)))


async def half_documents(stack: LLMStack) -> list[str]:
    """Documents without leaves, or whose leaves have neither vector nor job."""
    statement = """
        SELECT d.id_at_origin FROM llmstack.documents d WHERE NOT EXISTS (
            SELECT FROM llmstack.chunks c WHERE c.document_id = d.id AND c.level = 0)
        UNION ALL
        SELECT d.id_at_origin FROM llmstack.documents d JOIN llmstack.chunks c ON c.document_id = d.id
        WHERE c.level = 0
          AND NOT EXISTS (SELECT FROM llmstack.chunk_embeddings e WHERE e.row_id = c.id)
          AND NOT EXISTS (SELECT FROM llmstack.chunk_embedding_jobs j WHERE j.row_id = c.id)
    """
    async with stack.service.session() as session:
        return list(await session.scalars(text(statement)))


def said(chunks: Sequence[Chunk]) -> set[str]:
    """The distinct words of the chunks."""
    return {word for chunk in chunks for word in _WORD.findall(chunk.content)}


def kill(server: EmbeddedServer) -> None:
    """Kill the server and its backends, as a loss of power would."""
    postmaster = psutil.Process(int((server.data_dir / "postmaster.pid").read_text().splitlines()[0]))
    for process in [postmaster, *postmaster.children(recursive=True)]:
        os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs([postmaster], timeout=10)
