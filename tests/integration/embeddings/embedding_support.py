"""Documents to embed, and an embedder that counts what it is given."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import uuid
from collections.abc import Sequence
from typing import Any

from notes import Note, NoteEmbedding, NoteJob, NotesBase
from sqlalchemy import and_, func, select, text, update

from llmstack.db import Service
from llmstack.documents.models import Chunk, ChunkEmbedding, ChunkEmbeddingJob, Document
from llmstack.embeddings import CallableEmbedder, EmbeddedTable, Embedder, EmbeddingService
from llmstack.settings import Settings

TABLE = EmbeddedTable(
    rows=Chunk,
    embeddings=ChunkEmbedding,
    jobs=ChunkEmbeddingJob,
    text=Chunk.context + "\n" + Chunk.content,
    wanted=and_(Chunk.level == 0, Chunk.deleted_at.is_(None)),
)


def vector_of(content: str) -> list[float]:
    """Eight numbers that stand for the text."""
    return [byte / 255 + 0.01 for byte in hashlib.sha256(content.encode()).digest()[:8]]


class Counting:
    """Remembers every text that it embeds; fails on those with the word poison, and on all when broken."""

    def __init__(self, *, pause: float = 0.0) -> None:
        self.texts: list[str] = []
        self.calls = 0
        self.called = asyncio.Event()
        self.pause = pause
        self.broken = False

    async def __call__(self, texts: list[str]) -> list[list[float]]:
        self.calls += 1
        self.called.set()
        await asyncio.sleep(self.pause)
        bad = [content for content in texts if "poison" in content]
        if self.broken or bad:
            raise ValueError(f"the model cannot read {bad}")
        self.texts.extend(texts)
        return [vector_of(content) for content in texts]


async def add_chunks(service: Service, contents: Sequence[str], *, owner_id: str = "acme") -> list[uuid.UUID]:
    """Write a document with these chunks, and nothing that says they want vectors."""
    document = Document(
        owner_id=owner_id,
        id_at_origin=uuid.uuid4().hex,
        name="Handbook",
        document_type="text",
        language="english",
        content_hash=b"hash",
        content_bytes=1,
        chunking={},
    )
    document.chunks = [
        Chunk(
            owner_id=owner_id,
            position=number,
            content=content,
            token_count=1,
            start_offset=0,
            end_offset=1,
            content_hash=f"{number}:{content}".encode(),
        )
        for number, content in enumerate(contents)
    ]
    async with service.session() as session:
        session.add(document)
        await session.commit()
    return [chunk.id for chunk in document.chunks]


async def count_of(service: Service, model: type[Any]) -> int:
    """The number of rows of a table."""
    async with service.session() as session:
        return (await session.execute(select(func.count()).select_from(model))).scalar_one()


def seconds_from_now(moment: dt.datetime | None) -> float:
    """How long until the moment."""
    assert moment is not None
    return (moment - dt.datetime.now(dt.UTC)).total_seconds()


class Queue:
    """An embedded table with what a test does to its rows and jobs; this one is that of our chunks."""

    table = TABLE
    rows: Any = Chunk
    vectors: Any = ChunkEmbedding
    jobs: Any = ChunkEmbeddingJob
    place = "llmstack"
    unwanted: Sequence[dict[str, Any]] = ({"deleted_at": func.now()}, {"level": 1})
    """Two ways for a row to want no vector."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def prepare(self) -> None:
        """Make the tables, where the service has not."""

    def service_with(self, embedder: Embedder | Counting | None, /, **settings: Any) -> EmbeddingService:
        """The embeddings of this table alone."""
        if isinstance(embedder, Counting):
            embedder = CallableEmbedder(embedder, name="counting", dimensions=8)
        return EmbeddingService(self.service, [self.table], embedder, Settings(**settings))

    async def add(self, contents: Sequence[str], *, owner_id: str = "acme") -> list[uuid.UUID]:
        """Write rows, and nothing that says they want vectors."""
        return await add_chunks(self.service, contents, owner_id=owner_id)

    async def job_of(self, row_id: uuid.UUID) -> Any:
        """The job of a row, as it is now."""
        async with self.service.session() as session:
            return (await session.scalars(select(self.jobs).where(self.jobs.row_id == row_id))).one()

    async def end_leases(self) -> None:
        """Let time pass: every lease is over."""
        async with self.service.session() as session:
            past = func.now() - text("interval '1 second'")
            held = self.jobs.leased_until.is_not(None)
            await session.execute(update(self.jobs).where(held).values(leased_until=past))
            await session.commit()


class NotesQueue(Queue):
    """That of a host's notes, in a schema of the host's own."""

    table = EmbeddedTable(rows=Note, embeddings=NoteEmbedding, jobs=NoteJob, text=Note.context + "\n" + Note.content)
    rows = Note
    vectors = NoteEmbedding
    jobs = NoteJob
    place = "notebook"
    unwanted = ({"deleted_at": func.now()}, {"deleted_at": func.now()})

    async def prepare(self) -> None:
        async with self.service.engine.begin() as connection:
            await connection.execute(text("CREATE SCHEMA notebook"))
            await connection.run_sync(NotesBase.metadata.create_all)

    async def add(self, contents: Sequence[str], *, owner_id: str = "acme") -> list[uuid.UUID]:
        notes = [Note(owner_id=owner_id, slug=uuid.uuid4().hex, content=content) for content in contents]
        async with self.service.session() as session:
            session.add_all(notes)
            await session.commit()
        return [note.id for note in notes]


QUEUES = {"chunks": Queue, "notes": NotesQueue}


def service_with(service: Service, embedder: Embedder | Counting | None, /, **settings: Any) -> EmbeddingService:
    """The embeddings of the chunks."""
    return Queue(service).service_with(embedder, **settings)
