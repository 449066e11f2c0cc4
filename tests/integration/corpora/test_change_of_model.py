"""A change of model over our documents and two tables of a host, also when the server is killed in the middle."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import types
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from corpus_support import Documents, Notes, World, create_notes, units
from document_support import DIMENSIONS, Words
from notes import NOTES, Note, NoteEmbedding, NotesBase
from sqlalchemy import Connection, UniqueConstraint, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from llmstack import LLMStack
from llmstack.db import Database, ddl
from llmstack.db.base import Identified
from llmstack.db.embedded import EmbeddedServer, start
from llmstack.documents import ChunkEmbedding, DocumentInput
from llmstack.embeddings import (
    CallableEmbedder,
    EmbeddedTable,
    EmbeddingJobMixin,
    EmbeddingMixin,
    job_table,
    renew,
    vector_table,
)
from llmstack.errors import Conflict, DatabaseUnavailable
from llmstack.retrieval import Corpus, Filter, SearchHit
from llmstack.search import SearchableMixin, search_index
from llmstack.settings import Settings

README = (Path(__file__).parents[3] / "README.md").read_text()
ROWS = 150
"""Of each table."""


class Letter(Identified, SearchableMixin, NotesBase):
    __tablename__ = "letters"
    __table_args__ = (UniqueConstraint("owner_id", "id"), search_index("letters"))
    __corpus__ = "letters"


class LetterEmbedding(EmbeddingMixin, NotesBase):
    __tablename__ = "letter_embeddings"
    __table_args__ = vector_table(Letter, partitions=2)


class LetterJob(EmbeddingJobMixin, NotesBase):
    __tablename__ = "letter_jobs"
    __table_args__ = job_table(Letter)


LETTERS = Corpus(
    name="letters", rows=Letter, hit=SearchHit, where=Filter,
    vectors=EmbeddedTable(rows=Letter, embeddings=LetterEmbedding, jobs=LetterJob, text=Letter.content),
)  # fmt: skip


def embedders(words: Words) -> dict[str, Any]:
    old, new = (CallableEmbedder(words, name=name, dimensions=DIMENSIONS) for name in ("old", "new"))
    return {"embedder": old, "other_embedders": [new], "settings": Settings(space_refresh=0.0, embedding_batch_size=8)}


def new_of(words: Words) -> CallableEmbedder:
    return CallableEmbedder(words, name="new", dimensions=DIMENSIONS)


@pytest_asyncio.fixture
async def stack(llmstack_database: Database) -> AsyncIterator[LLMStack]:
    await create_notes(llmstack_database.service())
    async with LLMStack(engine=llmstack_database.engine, **embedders(Words())) as stack:
        yield stack


async def test_a_corpus_that_is_registered_while_a_model_changes_joins_it(stack: LLMStack) -> None:
    await stack.documents.add(owner_id="acme", id_at_origin="d", content="kettle")
    await stack.embeddings.add_space(new_of(Words()), index_method="none")
    await stack.embeddings.backfill(space="new")
    await stack.embeddings.process_pending(space="new")
    with pytest.raises(Conflict, match=r'"notebook"."note_embeddings".*LLMSTACK_CORPORA'):
        await stack.embeddings.cut_over("new")
    notes = Notes(stack)
    await notes.add({"n": "kettle"})
    stack.corpus(LETTERS)
    assert (await stack.embeddings.verify("new")).ready
    async with stack.service.session() as session:
        await session.execute(text("DELETE FROM notebook.note_embeddings"))
        await session.commit()
    (fault,) = (await stack.embeddings.verify("new")).faults
    assert fault.startswith("notes: 1 of 1 rows have neither vector nor job")
    with pytest.raises(Conflict, match="notes: 1 of 1 rows"):
        await stack.embeddings.cut_over("new")
    await stack.embeddings.backfill(space="new")
    await stack.embeddings.process_pending(space="new")
    await stack.embeddings.cut_over("new")
    for corpus in (stack.documents, notes.corpus):
        hits = await corpus.search(owner_id="acme", query="kettle", mode="vector")
        assert [hit.content for hit in hits] == ["kettle"]


async def first_by_vector(stack: LLMStack, query: str) -> list[str]:
    """The best document and the best note."""
    corpora: list[Any] = [stack.documents, stack.corpus(NOTES)]
    hits = [await one.search(owner_id="acme", query=query, mode="vector", limit=1) for one in corpora]
    return [found[0].content for found in hits]


async def test_a_change_of_model_is_one_of_documents_and_notes(stack: LLMStack) -> None:
    stack.corpus(LETTERS)
    for world in (Documents(stack), Notes(stack)):
        await world.add({"one": "kettle", "two": "parental leave"})
    await stack.embeddings.add_space(new_of(Words()), index_method="none")
    assert await stack.embeddings.backfill(space="new", table="chunks") == 2
    assert (await stack.embeddings.process_pending(space="new")).embedded == 2
    # Every document has its vector, and no note: half of all is covered, and none of a table is not enough.
    assert (await stack.embeddings.verify("new")).faults == (
        "notes: 2 of 2 rows have neither vector nor job: backfill queues them",
    )
    for least in (1.0, 0.5):
        with pytest.raises(Conflict, match="cannot cut over to 'new': notes: 2 of 2 rows"):
            await stack.embeddings.cut_over("new", least_coverage=least)
    assert (await stack.embeddings.space()).name == "old"
    assert await stack.embeddings.backfill(space="new") == 2
    assert (await stack.embeddings.process_pending(space="new")).embedded == 2
    assert (await stack.embeddings.verify("new")).ready
    assert (await stack.embeddings.cut_over("new")).name == "new"
    assert await first_by_vector(stack, "parental leave") == ["parental leave"] * 2
    gone = await stack.embeddings.retire("old")
    assert (gone.vectors, gone.jobs) == (4, 0)
    assert await first_by_vector(stack, "kettle") == ["kettle"] * 2


async def test_notes_that_have_vectors_of_the_old_model_alone_join_a_change_that_runs(
    stack: LLMStack, llmstack_database: Database
) -> None:
    stack.corpus(LETTERS)
    await Documents(stack).add({"d": "kettle"})
    async with LLMStack(engine=llmstack_database.engine, **embedders(Words())) as host:
        await Notes(host).add({"one": "kettle", "two": "parental leave"})
    await stack.embeddings.add_space(new_of(Words()), index_method="none")
    assert await stack.embeddings.backfill(space="new") == 1
    await stack.embeddings.process_pending(space="new")
    # Of what this process knows nothing is missing.
    assert (await stack.embeddings.verify("new")).ready
    strange = r'in "notebook"\."note_embeddings", "notebook"\."note_jobs" belong .* LLMSTACK_CORPORA'
    with pytest.raises(Conflict, match=strange):
        await stack.embeddings.cut_over("new")
    stack.corpus(NOTES)
    (fault,) = (await stack.embeddings.verify("new")).faults
    assert fault == "notes: 2 of 2 rows have neither vector nor job: backfill queues them"
    with pytest.raises(Conflict, match="notes: 2 of 2 rows"):
        await stack.embeddings.cut_over("new")
    assert await stack.embeddings.backfill(space="new") == 2
    assert (await stack.embeddings.process_pending(space="new")).embedded == 2
    await stack.embeddings.cut_over("new")
    assert (await stack.embeddings.retire("old")).vectors == 3
    assert await first_by_vector(stack, "kettle") == ["kettle"] * 2


async def waiting(stack: LLMStack) -> dict[str, int]:
    tables = ("chunks", "notes")
    return {one: (await stack.embeddings.pending(space="new", table=one)).waiting for one in tables}


@pytest.mark.parametrize(("few", "many"), [("chunks", "notes"), ("notes", "chunks")])
async def test_a_run_with_a_limit_starves_neither_table(stack: LLMStack, few: str, many: str) -> None:
    worlds: dict[str, World] = {"chunks": Documents(stack), "notes": Notes(stack)}
    for table, count in ((few, 4), (many, 40)):
        await worlds[table].add({str(number): f"topic{number}" for number in range(count)})
    await stack.embeddings.add_space(new_of(Words()), index_method="none")
    assert await stack.embeddings.backfill(space="new") == 44
    # Two batches: what has few jobs is done, and the other one gets the rest.
    assert (await stack.embeddings.process_pending(space="new", limit=16)).embedded == 16
    assert await waiting(stack) == {few: 0, many: 28}
    assert (await stack.embeddings.process_pending(space="new")).remaining == 0


async def test_small_limits_starve_no_table(stack: LLMStack) -> None:
    for world in (Documents(stack), Notes(stack)):
        await world.add({str(number): f"topic{number}" for number in range(40)})
    await stack.embeddings.add_space(new_of(Words()), index_method="none")
    assert await stack.embeddings.backfill(space="new") == 80
    for _ in range(4):
        assert (await stack.embeddings.process_pending(space="new", limit=8)).embedded == 8
    left = await waiting(stack)
    assert max(left.values()) <= 28, left
    for _ in range(20):
        assert (await stack.embeddings.process_pending(space="new", limit=1)).embedded == 1
    assert all(after < before for after, before in zip((await waiting(stack)).values(), left.values(), strict=True))


async def keep_notes_in_step(stack: LLMStack) -> None:
    def work(connection: Connection) -> None:
        with Operations.context(MigrationContext.configure(connection)):
            ddl.keep_in_step("notes", vectors="note_embeddings", jobs="note_jobs", text=["content"], schema="notebook")

    async with stack.service.engine.begin() as connection:
        await connection.run_sync(work)


async def test_rows_that_other_tools_write_are_embedded_and_found(stack: LLMStack) -> None:
    await keep_notes_in_step(stack)
    notes = Notes(stack)
    await stack.embeddings.space()
    async with stack.service.session() as session:
        rows = [{"owner_id": "acme", "slug": name, "content": name} for name in ("kettle", "teapot")]
        await session.execute(insert(Note), rows)
        await session.commit()
    assert (await stack.embeddings.process_pending()).embedded == 2
    hits = await notes.corpus.search(owner_id="acme", query="kettle", mode="vector")
    assert units(notes, hits)[0] == "kettle"
    async with stack.service.session() as session:
        await session.execute(update(Note).where(Note.slug == "kettle").values(content="rocket"))
        await session.execute(update(Note).where(Note.slug == "teapot").values(deleted_at=func.now()))
        await session.commit()
    assert await notes.corpus.search(owner_id="acme", query="teapot", mode="vector") == []
    assert (await stack.embeddings.process_pending()).embedded == 1
    (hit,) = await notes.corpus.search(owner_id="acme", query="rocket", mode="vector")
    assert hit.content == "rocket"


async def run(stack: LLMStack, *statements: str) -> None:
    """As psql would."""
    async with stack.service.engine.begin() as connection:
        for statement in statements:
            await connection.exec_driver_sql(statement)


async def test_rows_of_plain_sql_are_embedded_in_every_space_and_searched_by_words_and_vectors(stack: LLMStack) -> None:
    stack.corpus(LETTERS)
    notes = Notes(stack)
    await keep_notes_in_step(stack)
    await stack.embeddings.space()
    await stack.embeddings.add_space(new_of(Words()), index_method="none")
    await run(
        stack,
        "INSERT INTO notebook.notes (id, owner_id, slug, content) "
        "SELECT gen_random_uuid(), 'acme', word, word FROM unnest(ARRAY['kettle', 'teapot', 'leave']) word",
    )
    assert (await stack.embeddings.process_pending()).embedded == 6
    for mode in ("text", "vector", "hybrid"):
        hits = await notes.corpus.search(owner_id="acme", query="kettle", mode=mode)
        assert units(notes, hits)[0] == "kettle"
    await run(
        stack,
        "UPDATE notebook.notes SET content = 'rocket' WHERE slug = 'kettle'",
        "UPDATE notebook.notes SET folder = 'done' WHERE slug = 'leave'",
        "DELETE FROM notebook.notes WHERE slug = 'teapot'",
    )
    # Of the old text nothing is left, and its vectors are owed; what is not embedded changes none.
    (left,) = await notes.corpus.search(owner_id="acme", query="kettle", mode="vector")
    assert left.content == "leave"
    assert (await stack.embeddings.process_pending()).embedded == 2
    await stack.embeddings.cut_over("new")
    (first, second) = await notes.corpus.search(owner_id="acme", query="rocket", mode="vector")
    assert [(hit.slug, hit.content) for hit in (first, second)] == [("kettle", "rocket"), ("leave", "leave")]


def kill(server: EmbeddedServer) -> None:
    """Kill the server and its backends, as a loss of power would."""
    postmaster = psutil.Process(int((server.data_dir / "postmaster.pid").read_text().splitlines()[0]))
    for process in [postmaster, *postmaster.children(recursive=True)]:
        os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs([postmaster], timeout=10)


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    server = start(tmp_path_factory.mktemp("crash") / "data", announce=False)
    yield server
    server.release()


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
