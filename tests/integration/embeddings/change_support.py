"""Two models of other lengths and other tastes, and stacks that know one of them or both."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import event, text

from llmstack import LLMStack
from llmstack.documents import DocumentHit
from llmstack.embeddings import CallableEmbedder, Embedder
from llmstack.settings import Settings

COUNT = 12
REFRESH = 0.1
MakeStack = Callable[..., LLMStack]
_NUMBER = re.compile(r"paper (\d+)")


class Model:
    """Ranks the papers by their number: the old model upwards, the new one downwards; other texts come last.

    `before` runs first, with the texts.
    """

    def __init__(self, name: str, *, dimensions: int, downwards: bool) -> None:
        self.name = name
        self.dimensions = dimensions
        self.downwards = downwards
        self.texts: list[str] = []
        self.before: Callable[[list[str]], Awaitable[None]] | None = None

    async def __call__(self, texts: list[str]) -> list[list[float]]:
        if self.before is not None:
            await self.before(texts)
        self.texts.extend(texts)
        return [self.vector(content) for content in texts]

    def vector(self, content: str) -> list[float]:
        if "which" in content:
            angle = 0.0
        else:
            found = _NUMBER.search(content)
            number = COUNT if found is None else int(found[1])
            place = COUNT - 1 - number if self.downwards and found else number
            angle = (place + 1) * math.pi / 2 / (COUNT + 2)
        rest = [0.0] * (self.dimensions - 2)
        return [*rest, math.cos(angle), math.sin(angle)]

    @property
    def ranking(self) -> list[str]:
        """The papers in the order in which this model finds them."""
        return sorted((f"paper {number}" for number in range(COUNT)), key=_numbered, reverse=self.downwards)

    def embedder(self) -> CallableEmbedder:
        return CallableEmbedder(self.__call__, name=self.name, dimensions=self.dimensions)


def _numbered(name: str) -> int:
    return int(name.split()[1])


def stack_on(engine: Any, embedder: Embedder | str | None, *others: Embedder, **settings: Any) -> LLMStack:
    """A stack as another process would have it: with its own answer to which space serves."""
    given = Settings(**{"space_refresh": REFRESH, **settings})
    return LLMStack(engine=engine, embedder=embedder, other_embedders=others, settings=given)


async def add_papers(stack: LLMStack, numbers: Sequence[int] = range(COUNT)) -> None:
    for number in numbers:
        await add(stack, f"paper {number}")


async def add(stack: LLMStack, content: str, **more: Any) -> Any:
    """Add a document that is called like its text."""
    return await stack.documents.add(**{"owner_id": "acme", "id_at_origin": content, "content": content, **more})


async def found(stack: LLMStack, *, mode: Any = "vector", query: str = "which", limit: int = 10) -> list[str]:
    """The origins of what is found, best first."""
    hits: Sequence[DocumentHit] = await stack.documents.search(owner_id="acme", query=query, mode=mode, limit=limit)
    return [hit.id_at_origin for hit in hits]


async def scalar(stack: LLMStack, statement: str) -> Any:
    """One value of the schema."""
    async with stack.service.session() as session:
        return await session.scalar(text(statement))


async def places(stack: LLMStack, content: str) -> dict[str, str]:
    """Where a document's vector is, and where one is owed, by the name of the space."""
    statement = """
        SELECT s.name, 'vector' AS kind
        FROM llmstack.chunk_embeddings JOIN llmstack.embedding_spaces s ON s.id = space_id
        JOIN llmstack.chunks c ON c.id = row_id WHERE c.content = :content
        UNION ALL
        SELECT s.name, 'job' FROM llmstack.chunk_embedding_jobs JOIN llmstack.embedding_spaces s ON s.id = space_id
        JOIN llmstack.chunks c ON c.id = row_id WHERE c.content = :content
    """
    async with stack.service.session() as session:
        rows = (await session.execute(text(statement), {"content": content})).all()
    assert len({row.name for row in rows}) == len(rows), rows
    return {row.name: row.kind for row in rows}


async def grow(stack: LLMStack, name: str) -> None:
    """Give a space all that it lacks."""
    await stack.embeddings.backfill(space=name)
    await stack.embeddings.process_pending(space=name)
    await stack.embeddings.build_index(space=name)


@contextlib.contextmanager
def statements(engine: Any) -> Iterator[list[str]]:
    """The statements that are sent meanwhile."""
    sent: list[str] = []

    def note(*arguments: Any) -> None:
        sent.append(arguments[2])

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", note)
