"""Further words belong to one text: whoever writes another has none, and is searched as PostgreSQL reads it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from corpus_support import create_notes
from notes import NOTES, Note
from sqlalchemy import func, insert, literal, select, text, update

from llmstack import LLMStack
from llmstack.db import Database
from llmstack.retrieval import CorpusService


@pytest_asyncio.fixture
async def stack(llmstack_database: Database) -> AsyncIterator[LLMStack]:
    await create_notes(llmstack_database.service())
    async with LLMStack(engine=llmstack_database.engine) as opened:
        yield opened


async def found(notes: CorpusService[Any, Any], query: str) -> list[str]:
    return sorted(hit.slug for hit in await notes.search(owner_id="acme", query=query, mode="text"))


async def execute(stack: LLMStack, statement: Any, given: Any = None) -> None:
    async with stack.service.session() as session:
        await session.execute(statement, given)
        await session.commit()


BY_HAND = text(
    "INSERT INTO notebook.notes (id, owner_id, slug, content) VALUES (gen_random_uuid(), 'acme', :slug, :content)"
)


async def test_insert_statements_and_the_orm_store_further_words(stack: LLMStack) -> None:
    notes = stack.corpus(NOTES)
    async with stack.service.session() as session:
        session.add(Note(owner_id="acme", slug="orm", content="Open login.example.net"))
        rows = [{"owner_id": "acme", "slug": slug, "content": f"{slug}.example.net"} for slug in ("one", "two")]
        await session.execute(insert(Note), rows)
        await session.execute(insert(Note).values(owner_id="acme", slug="core", content="See example.org"))
        copied = select(func.gen_random_uuid(), *map(literal, ("acme", "copied", "copy.example.net")))
        await session.execute(insert(Note).from_select(["id", "owner_id", "slug", "content"], copied))
        await session.commit()
    assert await found(notes, "example") == ["core", "one", "orm", "two"]
    # An expression is no text that could be read here.
    assert await notes.reanalyse() == 1
    assert await found(notes, "example") == ["copied", "core", "one", "orm", "two"]


async def test_a_row_by_another_hand_is_searched_as_postgresql_reads_it_until_it_is_read_anew(stack: LLMStack) -> None:
    notes = stack.corpus(NOTES)
    await execute(stack, BY_HAND, {"slug": "hand", "content": "Opened login.example.net twice"})
    assert await found(notes, "open") == ["hand"]
    assert await found(notes, "login.example.net") == ["hand"]
    assert await found(notes, "example") == []
    assert await notes.reanalyse() == 1
    assert await found(notes, "example") == ["hand"]
    assert await notes.reanalyse() == 0


async def test_words_of_another_text_do_not_count(stack: LLMStack) -> None:
    notes = stack.corpus(NOTES)
    async with stack.service.session() as session:
        note = Note(owner_id="acme", slug="n", content="Open login.example.net")
        session.add(note)
        await session.commit()
        # The ORM reads what it writes; a statement knows nothing of the row.
        note.content = "Open status.example.org"
        await session.commit()
        assert await found(notes, "example") == await found(notes, "status") == ["n"]
        assert await found(notes, "login") == []
        await session.execute(update(Note).values(content="Open mail.sample.net"))
        await session.commit()
    assert await found(notes, "status") == await found(notes, "sample") == []
    assert await notes.reanalyse() == 1
    assert await found(notes, "sample") == ["n"]


async def test_an_orm_update_of_another_column_leaves_the_words(stack: LLMStack) -> None:
    notes = stack.corpus(NOTES)
    async with stack.service.session() as session:
        note = Note(owner_id="acme", slug="n", content="Open login.example.net")
        session.add(note)
        await session.commit()
        note.folder = "other"
        await session.commit()
        assert await found(notes, "example") == ["n"]
        note.context = "ntp.conf"
        await session.commit()
    assert await found(notes, "example") == await found(notes, "ntp") == ["n"]


async def test_what_triggers_make_nobody_writes_by_hand(stack: LLMStack) -> None:
    notes = stack.corpus(NOTES)
    await execute(stack, BY_HAND, {"slug": "n", "content": "kettle"})
    await execute(stack, text("UPDATE notebook.notes SET search_vector = 'teapot:1', lexical = NULL"))
    assert await found(notes, "kettle") == ["n"]
    assert await found(notes, "teapot") == []


async def test_rows_of_any_hand_are_weighed_by_their_corpus(stack: LLMStack) -> None:
    notes = stack.corpus(NOTES)
    await execute(stack, BY_HAND, {"slug": "n", "content": "kettle"})
    await notes.reweigh(k1=0.9, b=0.4, average_length=7.0)
    await execute(stack, BY_HAND, {"slug": "m", "content": "kettle"})
    async with stack.service.session() as session:
        rows = await session.execute(select(Note.bm25_k1, Note.bm25_b, Note.bm25_average_length).distinct())
        assert len(rows.all()) == 1


async def test_a_hidden_row_has_nothing_to_search_and_gets_it_back(stack: LLMStack) -> None:
    notes = stack.corpus(NOTES)
    await execute(stack, BY_HAND, {"slug": "n", "content": "kettle"})
    await execute(stack, text("UPDATE notebook.notes SET deleted_at = now()"))
    async with stack.service.session() as session:
        assert (await session.execute(select(Note.search_vector, Note.lexical))).one() == (None, None)
    await execute(stack, text("UPDATE notebook.notes SET deleted_at = NULL"))
    assert await found(notes, "kettle") == ["n"]
