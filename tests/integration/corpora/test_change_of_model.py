"""A change of model over our documents and a host's notes, and notes that other tools write."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from corpus_support import Documents, Notes, World, create_notes, embedders, new_of, units
from document_support import Words
from notes import NOTES, Note
from sqlalchemy import Connection, func, insert, text, update

from llmstack import LLMStack
from llmstack.db import Database, ddl
from llmstack.errors import Conflict


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
