"""A change of model is finished although the server was killed in the middle of it."""

from __future__ import annotations

import asyncio
import re
import sys
import types
import uuid
from pathlib import Path
from typing import Any

import pytest
from corpus_support import Notes, create_notes, embedders, new_of
from document_support import Words, kill
from notes import NOTES, NoteEmbedding
from sqlalchemy import MetaData, UniqueConstraint, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from llmstack import LLMStack
from llmstack.db.base import Identified
from llmstack.db.embedded import EmbeddedServer, start
from llmstack.documents import ChunkEmbedding, DocumentInput
from llmstack.embeddings import (
    EmbeddedTable,
    EmbeddingJobMixin,
    EmbeddingMixin,
    job_table,
    renew,
    vector_table,
)
from llmstack.errors import DatabaseUnavailable
from llmstack.retrieval import Corpus, Filter, SearchHit
from llmstack.search import SearchableMixin, search_index

README = (Path(__file__).parents[3] / "llmstack" / "retrieval" / "README.md").read_text()
ROWS = 150
"""Of each table."""


class LettersBase(DeclarativeBase):
    metadata = MetaData(schema="notebook")


class Letter(Identified, SearchableMixin, LettersBase):
    __tablename__ = "letters"
    __table_args__ = (UniqueConstraint("owner_id", "id"), search_index("letters"))
    __corpus__ = "letters"


class LetterEmbedding(EmbeddingMixin, LettersBase):
    __tablename__ = "letter_embeddings"
    __table_args__ = vector_table(Letter, partitions=2)


class LetterJob(EmbeddingJobMixin, LettersBase):
    __tablename__ = "letter_jobs"
    __table_args__ = job_table(Letter)


LETTERS = Corpus(
    name="letters", rows=Letter, hit=SearchHit, where=Filter,
    vectors=EmbeddedTable(rows=Letter, embeddings=LetterEmbedding, jobs=LetterJob, text=Letter.content),
)  # fmt: skip


async def fill(stack: LLMStack) -> None:
    inputs = [DocumentInput(owner_id="acme", id_at_origin=f"d{n}", content=f"topic{n}") for n in range(ROWS)]
    async for result in stack.documents.add_many(inputs):
        assert result.error is None
    await Notes(stack).add({f"n{n}": f"topic{n}" for n in range(ROWS)})

    async def work(session: AsyncSession) -> None:
        letters = [Letter(owner_id="acme", content=f"topic{n}") for n in range(ROWS)]
        session.add_all(letters)
        await session.flush()
        assert LETTERS.vectors is not None
        await renew(session, LETTERS.vectors, owner_id="acme", row_ids=[letter.id for letter in letters])

    await stack.service.transaction(work)
    await stack.embeddings.process_pending()


async def vectors(stack: LLMStack) -> list[int]:
    counts = [select(func.count()).select_from(one) for one in (ChunkEmbedding, NoteEmbedding, LetterEmbedding)]
    async with stack.service.session() as session:
        return [await session.scalar(count) or 0 for count in counts]


async def change_until_killed(stack: LLMStack, words: Words, server: EmbeddedServer, *, after: int) -> None:
    """Begin a change of the model, and kill the server once so many vectors of the new one were made."""
    await stack.embeddings.add_space(new_of(words), index_method="none")
    await stack.embeddings.backfill(space="new")
    made, killed = len(words.texts), asyncio.Event()

    async def kill_once(texts: list[str]) -> None:
        if len(words.texts) > made + after and not killed.is_set():
            killed.set()
            await asyncio.to_thread(kill, server)

    words.before = kill_once
    with pytest.raises(DatabaseUnavailable):
        await stack.embeddings.process_pending(space="new")
    words.before = None


async def test_a_change_of_three_tables_is_finished_after_the_server_was_killed_in_it(server: EmbeddedServer) -> None:
    words = Words()
    async with LLMStack.open(server.url, **embedders(words)) as stack:
        await create_notes(stack.service)
        async with stack.service.engine.begin() as connection:
            await connection.run_sync(LettersBase.metadata.create_all)
        corpora: list[Any] = [stack.documents, stack.corpus(NOTES), stack.corpus(LETTERS)]
        await fill(stack)
        assert await vectors(stack) == [ROWS] * 3
        await change_until_killed(stack, words, server, after=ROWS)
        again = start(server.data_dir, announce=False)
        try:
            # What was claimed is free again when its lease ends.
            async with LLMStack.open(server.url, **embedders(words)) as restarted:
                restarted.corpus(NOTES)
                restarted.corpus(LETTERS)
                kept = [count - ROWS for count in await vectors(restarted)]
                assert all(0 < count < ROWS for count in kept)
                assert not (await restarted.embeddings.verify("new")).ready
                async with restarted.service.session() as session:
                    for jobs in ("llmstack.chunk_embedding_jobs", "notebook.note_jobs", "notebook.letter_jobs"):
                        await session.execute(text(f"UPDATE {jobs} SET leased_until = NULL"))
                    await session.commit()
                assert (await restarted.embeddings.process_pending(space="new")).remaining == 0
                await restarted.embeddings.cut_over("new")
            for searched in corpora:
                hits = await searched.search(owner_id="acme", query="topic77", mode="vector", limit=20)
                # Others have the same vector: there are more words than dimensions.
                assert "topic77" in [hit.content for hit in hits if hit.score == pytest.approx(hits[0].score, abs=1e-3)]
            await stack.embeddings.retire("old")
            assert await vectors(stack) == [ROWS] * 3
            assert (await stack.embeddings.pending()).waiting == 0
        finally:
            again.release()


def host_of_the_readme(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the README's code of a host makes."""
    (code,) = [one for one in re.findall(r"^```python\n(.*?)^```", README, re.M | re.S) if "NOTES = Corpus(" in one]
    assert len([line for line in code.splitlines() if line.strip()]) <= 40
    module = types.ModuleType("shop_search")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    base = type("ShopBase", (DeclarativeBase,), {})
    module.__dict__.update(uuid=uuid, Mapped=Mapped, mapped_column=mapped_column, ShopBase=base)
    exec(compile(code, "README.md", "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


async def test_the_host_of_the_readme_changes_its_model_through_a_kill(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, words = host_of_the_readme(monkeypatch), Words()
    note, corpus = host["Note"], host["NOTES"]
    async with LLMStack.open(server.url, **embedders(words)) as stack:
        notes = stack.corpus(corpus)
        async with stack.service.engine.begin() as connection:
            for model in (note, host["NoteEmbedding"], host["NoteJob"]):
                await connection.run_sync(model.__table__.create)
        await stack.embeddings.space()

        async def work(session: AsyncSession) -> None:
            written = [note(owner_id="acme", author=f"a{n % 2}", content=f"topic{n}") for n in range(ROWS)]
            session.add_all(written)
            await session.flush()
            await renew(session, corpus.vectors, owner_id="acme", row_ids=[one.id for one in written])

        await stack.service.transaction(work)
        assert (await stack.embeddings.process_pending()).embedded == ROWS
        await change_until_killed(stack, words, server, after=ROWS // 2)
        again = start(server.data_dir, announce=False)
        try:
            async with stack.service.session() as session:
                await session.execute(text("UPDATE note_jobs SET leased_until = NULL"))
                await session.commit()
            assert (await stack.embeddings.process_pending(space="new")).remaining == 0
            await stack.embeddings.cut_over("new")
            await stack.embeddings.retire("old")
            where = host["NoteFilter"](author="a1")
            hits = await notes.search(owner_id="acme", query="topic77", where=where)
            assert (hits[0].content, hits[0].author, set(hits[0].legs)) == ("topic77", "a1", {"text", "vector"})
            assert {hit.author for hit in hits} == {"a1"}
        finally:
            again.release()
