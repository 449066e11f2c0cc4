"""Two services on one pool: nothing of one is ever seen through the other."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import pytest
from sqlalchemy import ForeignKey, MetaData, func, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from llmstack.conversations.models import Message, Thread, ThreadSummary
from llmstack.db import (
    CorpusStatistics,
    Database,
    LoggedSearch,
    SearchFeedback,
    StoredCalibration,
    TermStatistics,
    migrate,
)
from llmstack.db.schemas import SCHEMA_TOKEN, schema_function, schema_of
from llmstack.documents.models import Chunk, Document
from llmstack.errors import IsolationError
from llmstack.testing import assert_schema_isolation


class HostBase(DeclarativeBase):
    """A host without schemas."""


class Author(HostBase):
    __tablename__ = "authors"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    books: Mapped[list[Book]] = relationship(back_populates="author")


class Book(HostBase):
    __tablename__ = "books"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int] = mapped_column(ForeignKey("authors.id"))
    author: Mapped[Author] = relationship(back_populates="books")


class TokenBase(DeclarativeBase):
    """A host with a token schema of its own."""

    metadata = MetaData(schema="tenant")


class Invoice(TokenBase):
    __tablename__ = "invoices"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    number: Mapped[str]


class SharedBase(DeclarativeBase):
    """A host that forgot: its tables are in one fixed schema whatever the service."""

    metadata = MetaData(schema="public")


class Ledger(SharedBase):
    __tablename__ = "ledgers"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


def statistics(corpus: str = "chunks") -> CorpusStatistics:
    return CorpusStatistics(corpus=corpus, row_count=1, average_length=1.0, sampled_share=1.0)


def make_row(model: type[Any]) -> list[Any]:
    if model is CorpusStatistics:
        return [statistics(uuid.uuid4().hex)]
    if model is TermStatistics:
        corpus = uuid.uuid4().hex
        return [statistics(corpus), TermStatistics(corpus=corpus, lexeme="a", document_count=1)]
    if model is StoredCalibration:
        return [StoredCalibration(corpus="chunks", before={}, after={}, evidence={})]
    if model in (LoggedSearch, SearchFeedback):
        search = LoggedSearch(
            id=uuid.uuid4(),
            corpus="chunks",
            owner_id="acme",
            query="q",
            mode="text",
            hit_limit=1,
            hits=[],
            elapsed_ms=1.0,
        )
        grade = SearchFeedback(search_id=search.id, row_id=uuid.uuid4(), owner_id="acme", unit="1", grade=1.0)
        return [search, grade] if model is SearchFeedback else [search]
    digest = hashlib.sha256(uuid.uuid4().bytes).digest()
    if model in (Thread, Message, ThreadSummary):
        return [*make_conversation(digest)[: (Thread, Message, ThreadSummary).index(model) + 1]]
    document = Document(
        owner_id="acme",
        id_at_origin=digest.hex(),
        name="n",
        document_type="text",
        language="english",
        content_hash=digest,
        content_bytes=1,
        chunking={},
    )
    if model is Document:
        return [document]
    chunk = Chunk(
        owner_id="acme",
        position=0,
        content="a",
        content_hash=digest,
        token_count=1,
        start_offset=0,
        end_offset=1,
    )
    chunk.document = document
    return [document, chunk]


def make_conversation(digest: bytes) -> list[Any]:
    thread = Thread(owner_id="acme", id_at_origin=digest.hex(), last_seq=1, message_count=1)
    message = Message(owner_id="acme", seq=1, role="user", content="a", content_hash=digest, thread=thread)
    summary = ThreadSummary(owner_id="acme", first_seq=1, last_seq=1, token_count=1, content="a", thread=thread)
    return [thread, message, summary]


def make_book(model: type[Any]) -> list[Any]:
    author = Author(name="A")
    return [author, Book(title="B", author=author)] if model is Book else [author]


async def test_our_models_pass_the_leak_suite(llmstack_database: Database) -> None:
    models = (
        CorpusStatistics, TermStatistics, LoggedSearch, SearchFeedback, StoredCalibration, Document, Chunk,
        Thread, Message, ThreadSummary,
    )  # fmt: skip
    await assert_schema_isolation(llmstack_database, *models, make_row=make_row)


async def test_a_hosts_models_without_a_schema_pass_the_leak_suite(llmstack_database: Database) -> None:
    await assert_schema_isolation(llmstack_database, Author, Book, make_row=make_book, token=None)


async def test_a_hosts_models_in_their_own_token_pass_without_a_row_maker(
    llmstack_database: Database,
) -> None:
    await assert_schema_isolation(llmstack_database, Invoice, token="tenant")


async def test_the_leak_suite_leaves_no_schema_behind(llmstack_database: Database) -> None:
    await assert_schema_isolation(llmstack_database, Invoice, token="tenant")
    async with llmstack_database.engine.connect() as connection:
        found = await connection.scalars(text("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'Leak%'"))
        assert list(found) == []


async def test_the_leak_suite_names_the_model_the_operation_and_both_schemas(
    llmstack_database: Database,
) -> None:
    async with llmstack_database.engine.begin() as connection:
        await connection.run_sync(SharedBase.metadata.create_all)
    with pytest.raises(AssertionError, match=r"^Ledger: ORM select leaks between 'Leak A \w+' and 'Leak B \w+'"):
        await assert_schema_isolation(llmstack_database, Ledger)


async def test_a_required_reference_asks_for_a_row_maker(llmstack_database: Database) -> None:
    with pytest.raises(TypeError, match=r"Book\.author_id .* make_row"):
        await assert_schema_isolation(llmstack_database, Book, token=None)


async def two_services(database: Database) -> tuple[Any, Any]:
    await migrate.upgrade(database.engine, schema="Support")
    return database.service(), database.service(schema="Support")


async def test_a_statement_with_another_map_is_refused(llmstack_database: Database) -> None:
    ours, _ = await two_services(llmstack_database)
    async with ours.session() as session:
        await session.scalars(select(CorpusStatistics))
        with pytest.raises(IsolationError, match="already works in schema 'llmstack' and was asked for 'Support'"):
            await session.scalars(
                select(CorpusStatistics),
                execution_options={"schema_translate_map": {SCHEMA_TOKEN: "Support"}},
            )


async def test_a_connection_with_another_map_is_refused(llmstack_database: Database) -> None:
    ours, theirs = await two_services(llmstack_database)
    async with ours.session() as session:
        await session.scalars(select(CorpusStatistics))
        with pytest.raises(IsolationError, match="'Support'"):
            await session.scalars(select(CorpusStatistics), bind_arguments={"bind": theirs.engine.sync_engine})


async def test_a_second_map_is_refused_across_transactions_of_one_session(
    llmstack_database: Database,
) -> None:
    ours, theirs = await two_services(llmstack_database)
    async with ours.session() as session:
        session.add(statistics())
        await session.commit()
        session.sync_session.bind = theirs.engine.sync_engine
        with pytest.raises(IsolationError):
            await session.scalars(select(CorpusStatistics))


async def test_a_map_as_connection_option_is_refused_in_a_used_session(llmstack_database: Database) -> None:
    ours, _ = await two_services(llmstack_database)
    async with ours.session() as session:
        await session.scalars(select(CorpusStatistics))
        await session.commit()
        with pytest.raises(IsolationError):
            await session.connection(execution_options={"schema_translate_map": {SCHEMA_TOKEN: "Support"}})


async def test_an_options_map_set_before_anything_else_is_refused_if_it_is_not_the_services(
    llmstack_database: Database,
) -> None:
    ours, _ = await two_services(llmstack_database)
    async with ours.session() as session:
        with pytest.raises(IsolationError):
            await session.scalars(
                select(CorpusStatistics),
                execution_options={"schema_translate_map": {SCHEMA_TOKEN: "Support"}},
            )


async def test_a_sessions_core_statements_are_guarded_too(llmstack_database: Database) -> None:
    ours, _ = await two_services(llmstack_database)
    async with ours.session() as session:
        with pytest.raises(IsolationError):
            await session.execute(
                CorpusStatistics.__table__.select(),
                execution_options={"schema_translate_map": {SCHEMA_TOKEN: "Support"}},
            )


async def test_the_same_key_in_two_schemas_is_two_rows(llmstack_database: Database) -> None:
    ours, theirs = await two_services(llmstack_database)
    for service, count in ((ours, 1), (theirs, 2)):
        async with service.session() as session, session.begin():
            row = statistics()
            row.row_count = count
            session.add(row)
    counts = []
    for service in (ours, theirs):
        async with service.session() as session:
            counts.append((await session.get_one(CorpusStatistics, "chunks")).row_count)
    assert counts == [1, 2]


async def test_without_a_map_the_models_work_in_the_default_schema(llmstack_database: Database) -> None:
    async with AsyncSession(llmstack_database.engine) as session:
        assert await session.scalar(select(func.count()).select_from(CorpusStatistics)) == 0
        assert await session.run_sync(schema_of) == "llmstack"


async def test_our_functions_follow_the_service(llmstack_database: Database) -> None:
    _, theirs = await two_services(llmstack_database)
    async with llmstack_database.engine.begin() as connection:
        await connection.execute(text("DROP SCHEMA llmstack CASCADE"))
    async with theirs.session() as session:
        assert await session.scalar(select(schema_function("lexeme_dimension", "word"))) > 0
    async with AsyncSession(llmstack_database.engine) as session:
        with pytest.raises(SQLAlchemyError, match="llmstack"):
            await session.scalar(select(schema_function("lexeme_dimension", "word")))


async def test_services_of_one_schema_are_one_object_and_share_the_pool(llmstack_database: Database) -> None:
    support = llmstack_database.service(schema="support")
    assert support is llmstack_database.service("support")
    assert support is not llmstack_database.service()
    assert support.engine.sync_engine.pool is llmstack_database.engine.sync_engine.pool


async def test_a_flush_through_a_second_map_is_refused(llmstack_database: Database) -> None:
    await migrate.upgrade(llmstack_database.engine, schema="support")
    binds: Any = {
        CorpusStatistics: llmstack_database.service("support").engine,
        TermStatistics: llmstack_database.engine,
    }
    async with AsyncSession(binds=binds) as session:
        session.add(statistics("a"))
        await session.flush()
        session.add(TermStatistics(corpus="a", lexeme="a", document_count=1))
        with pytest.raises(IsolationError, match="support"):
            await session.flush()
