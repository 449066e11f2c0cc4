"""What the suites of searching do to a corpus, whichever it is: our documents, or a host's notes."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from document_support import DIMENSIONS, Words
from notes import NOTES, Note, NoteFilter, NotesBase
from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from llmstack import LLMStack
from llmstack.db import Service
from llmstack.documents import DocumentFilter, DocumentInput
from llmstack.embeddings import CallableEmbedder
from llmstack.embeddings.writing import hide, renew, show
from llmstack.retrieval import CorpusService, Filter
from llmstack.settings import Settings


@dataclasses.dataclass(frozen=True)
class Text:
    """A row that a test writes."""

    unit: str
    content: str = "a few words"
    moment: dt.datetime | None = None
    title: str | None = None


class World(Protocol):
    """A corpus with its writer; `units` are what people judge by, and each is one row here."""

    stack: LLMStack
    corpus: CorpusService[Any, Any]

    async def add(
        self,
        units: Mapping[str, str],
        *,
        owner_id: str = "acme",
        moment: dt.datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        title: str | None = None,
    ) -> None:
        """Write a row for each unit, or its new text, embedded; the other parts are alike for all of them."""

    async def delete(self, *units: str, owner_id: str = "acme") -> None:
        """Hide the rows of these units."""

    async def restore(self, unit: str, *, owner_id: str = "acme") -> None:
        """Bring one back."""

    def where(self, **metadata: Any) -> Filter:
        """A filter by metadata."""


class Documents:
    """Our documents, a passage each."""

    def __init__(self, stack: LLMStack) -> None:
        self.stack = stack
        self.corpus: CorpusService[Any, Any] = stack.documents

    async def add(
        self,
        units: Mapping[str, str],
        *,
        owner_id: str = "acme",
        moment: dt.datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        title: str | None = None,
    ) -> None:
        more: dict[str, Any] = {"document_date": moment, "metadata": metadata or {}, "document_name": title}
        inputs = [
            DocumentInput(owner_id=owner_id, id_at_origin=unit, content=content, **more)
            for unit, content in units.items()
        ]
        async for result in self.stack.documents.add_many(inputs):
            assert result.error is None

    async def delete(self, *units: str, owner_id: str = "acme") -> None:
        await self.stack.documents.delete_many(owner_id=owner_id, where=DocumentFilter(id_at_origin=units))

    async def restore(self, unit: str, *, owner_id: str = "acme") -> None:
        page = await self.stack.documents.list(owner_id=owner_id, deleted=True, where=DocumentFilter(id_at_origin=unit))
        await self.stack.documents.restore(owner_id=owner_id, document_id=page.items[0].id)

    def where(self, **metadata: Any) -> Filter:
        return DocumentFilter(metadata=metadata)


class Notes:
    """A host's notes, written by the ORM in its own transactions; the worker embeds them."""

    def __init__(self, stack: LLMStack) -> None:
        self.stack = stack
        self.corpus: CorpusService[Any, Any] = stack.corpus(NOTES)

    async def add(
        self,
        units: Mapping[str, str],
        *,
        owner_id: str = "acme",
        moment: dt.datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        title: str | None = None,
    ) -> None:
        # A space for the jobs to be in; a service makes it with its first search or write.
        if self.stack.embeddings.embedder is not None:
            await self.stack.embeddings.space()
        more: dict[str, Any] = {"context": title or "", **({} if moment is None else {"written_at": moment})}

        async def work(session: AsyncSession) -> None:
            slugs = select(Note).where(Note.owner_id == owner_id, Note.slug.in_(units))
            known = {note.slug: note for note in await session.scalars(slugs)}
            for note in known.values():
                note.content = units[note.slug]
            first = await session.scalar(select(func.count()).select_from(Note).where(Note.owner_id == owner_id)) or 0
            new = [slug for slug in units if slug not in known]
            notes = [
                Note(owner_id=owner_id, slug=slug, content=units[slug], place=place, labels=metadata or {}, **more)
                for place, slug in enumerate(new, first)
            ]
            session.add_all(notes)
            await session.flush()
            assert NOTES.vectors is not None
            ids = [note.id for note in (*known.values(), *notes)]
            await renew(session, NOTES.vectors, owner_id=owner_id, row_ids=ids)

        await self.stack.service.transaction(work)
        self.corpus.changed(len(units))
        if self.stack.embeddings.embedder is not None:
            await self.stack.embeddings.process_pending(table="notes")

    async def delete(self, *units: str, owner_id: str = "acme") -> None:
        await self._mark(units, owner_id, func.now(), hide)

    async def restore(self, unit: str, *, owner_id: str = "acme") -> None:
        await self._mark([unit], owner_id, None, show)

    async def _mark(
        self, units: Sequence[str], owner_id: str, moment: Any, follow: Callable[..., Awaitable[None]]
    ) -> None:
        async def work(session: AsyncSession) -> int:
            marked = update(Note).where(Note.owner_id == owner_id, Note.slug.in_(units)).values(deleted_at=moment)
            ids = (await session.scalars(marked.returning(Note.id))).all()
            await follow(session, NOTES.vectors, owner_id=owner_id, row_ids=ids)
            return len(ids)

        self.corpus.changed(await self.stack.service.transaction(work))

    def where(self, **metadata: Any) -> Filter:
        return NoteFilter(metadata=metadata)


async def write(world: World, texts: Iterable[Text], *, owner_id: str = "acme") -> None:
    """Write rows, those whose other parts are alike together."""
    together: dict[tuple[Any, ...], dict[str, str]] = {}
    for one in texts:
        together.setdefault((one.moment, one.title), {})[one.unit] = one.content
    for (moment, title), units in together.items():
        await world.add(units, owner_id=owner_id, moment=moment, title=title)


def units(world: World, hits: Iterable[Any]) -> list[str]:
    """What people would judge, in the order of the hits."""
    return [str(getattr(hit, world.corpus.corpus.unit)) for hit in hits]


KINDS: Mapping[str, Callable[[LLMStack], World]] = {"documents": Documents, "notes": Notes}
MakeWorld = Callable[..., World]


async def create_notes(service: Service) -> None:
    """What the host's own migrations would make."""
    async with service.engine.begin() as connection:
        await connection.execute(text("CREATE SCHEMA IF NOT EXISTS notebook"))
        await connection.run_sync(NotesBase.metadata.create_all)


def embedders(words: Words) -> dict[str, Any]:
    """What a process is given that knows an old model, its own, and a new one."""
    old, new = (CallableEmbedder(words, name=name, dimensions=DIMENSIONS) for name in ("old", "new"))
    return {"embedder": old, "other_embedders": [new], "settings": Settings(space_refresh=0.0, embedding_batch_size=8)}


def new_of(words: Words) -> CallableEmbedder:
    """The new model."""
    return CallableEmbedder(words, name="new", dimensions=DIMENSIONS)
