"""A host's own model, in its own tables and sessions, searched like ours."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pgvector.sqlalchemy import VECTOR
from sqlalchemy import ForeignKey, Index, MetaData, bindparam, column, insert, select, text, union_all
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from llmstack.db import Database, TermStatistics, migrate
from llmstack.db.schemas import translate_map
from llmstack.search import (
    SearchableMixin,
    SearchOptions,
    VectorSource,
    hybrid,
    refresh_statistics,
    search_index,
)


class Plain(DeclarativeBase):
    """A host whose tables are where search_path says."""


class InShop(DeclarativeBase):
    """A host whose tables have a schema of their own."""

    metadata = MetaData(schema="shop")


def models_of(base: Any) -> tuple[Any, Any]:
    """An author, and notes that are searched."""

    class Author(base):  # type: ignore[misc]
        __tablename__ = "authors"

        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    class Note(SearchableMixin, base):  # type: ignore[misc]
        __tablename__ = "notes"
        __table_args__ = (
            search_index("notes"),
            Index(
                "ix_notes_embedding",
                "embedding",
                postgresql_using="hnsw",
                postgresql_ops={"embedding": "vector_cosine_ops"},
            ),
        )
        __searchable__ = column("is_draft").is_(False)

        id: Mapped[int] = mapped_column(primary_key=True)
        author_id: Mapped[int] = mapped_column(ForeignKey(Author.id))
        is_draft: Mapped[bool] = mapped_column(default=False)
        embedding: Mapped[Any | None] = mapped_column(VECTOR(3))
        author: Mapped[Author] = relationship()

    return Author, Note


HOSTS: dict[str, tuple[Any, Any, Any]] = {base.__name__: (base, *models_of(base)) for base in (Plain, InShop)}
NOTES = [
    ("acme", 1, "parental leave is granted", False, [1.0, 0.1, 0.0]),
    ("acme", 2, "leave requests", False, [0.6, 0.6, 0.0]),
    ("acme", 1, "travel costs", False, [0.0, 1.0, 0.0]),
    ("acme", 2, "parental leave, a draft", True, [1.0, 0.0, 0.0]),
    ("other", 2, "parental leave of others", False, [1.0, 0.0, 0.0]),
]
TARGET = [1.0, 0.0, 0.0]


class Host:
    """The host's engine, its models, and where llmstack's functions and statistics are."""

    def __init__(self, engine: AsyncEngine, base: Any, author: Any, note: Any, schema: str) -> None:
        self.engine, self.base, self.author, self.note, self.schema = engine, base, author, note, schema

    def session(self) -> AsyncSession:
        return AsyncSession(self.engine, expire_on_commit=False)

    def ranked(self, **arguments: Any) -> Any:
        """A search of the notes by words and vectors."""
        note = self.note
        source = VectorSource(id=note.id, owner_id=note.owner_id, embedding=note.embedding)
        given: dict[str, Any] = {"query": "parental leave", "vector": TARGET, "source": source} | arguments
        return hybrid(note, corpus="notes", owner_id="acme", **given)

    async def fill(self) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(text("CREATE SCHEMA IF NOT EXISTS shop"))
            await connection.run_sync(self.base.metadata.create_all)
        keys = ("owner_id", "author_id", "content", "is_draft", "embedding")
        async with self.session() as session, session.begin():
            await session.execute(insert(self.author), [{"id": 1, "name": "Ada"}, {"id": 2, "name": "Bob"}])
            await session.execute(
                insert(self.note),
                [{"id": number} | dict(zip(keys, row, strict=True)) for number, row in enumerate(NOTES, 1)],
            )


@pytest.fixture(params=[("Plain", "llmstack"), ("InShop", "Support 2")], ids=str)
async def host(request: pytest.FixtureRequest, llmstack_database: Database) -> AsyncIterator[Host]:
    """A host with an engine of its own, once with our default schema and once with a mapped one."""
    name, schema = request.param
    await migrate.upgrade(llmstack_database.engine, schema=schema)
    engine = create_async_engine(llmstack_database.engine.url)
    mapped = schema != "llmstack"
    view = engine.execution_options(schema_translate_map=translate_map(schema)) if mapped else engine
    host = Host(view, *HOSTS[name], schema)
    await host.fill()
    yield host
    await engine.dispose()


async def test_create_all_makes_the_search_columns_and_triggers_of_the_hosts_own_table(host: Host) -> None:
    schema = host.note.__table__.schema or "public"
    made = text(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = :schema AND table_name = 'notes' "
        "AND column_name IN ('search_vector', 'lexical', 'further_words') ORDER BY 1"
    )
    called = text(
        "SELECT p.pronamespace::regnamespace::text, p.proname FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid "
        "WHERE t.tgrelid = CAST(:table AS regclass) AND NOT t.tgisinternal"
    )
    async with host.session() as session:
        assert list(await session.scalars(made, {"schema": schema})) == ["further_words", "lexical", "search_vector"]
        functions = {tuple(row) for row in await session.execute(called, {"table": f"{schema}.notes"})}
    ours = f'"{host.schema}"' if " " in host.schema else host.schema
    assert functions == {(ours, "make_searchable"), (ours, "make_unsearchable")}


async def test_a_search_joins_with_the_hosts_tables_in_its_own_session(host: Host) -> None:
    hit = host.ranked().subquery("hit")
    statement = (
        select(host.note, host.author.name, hit.c.score)
        .join(hit, hit.c.id == host.note.id)
        .join(host.author)
        .order_by(hit.c.score.desc(), hit.c.id)
    )
    async with host.session() as session:
        rows = (await session.execute(statement)).all()
        found = [(note.content, name) for note, name, _ in rows]
    assert found == [(NOTES[0][2], "Ada"), (NOTES[1][2], "Bob"), (NOTES[2][2], "Ada")]
    assert isinstance(rows[0][0], host.note)


async def test_rows_written_in_the_open_transaction_are_found_in_it(host: Host) -> None:
    async with host.session() as session:
        session.add(host.note(id=9, owner_id="acme", author_id=1, content="sabbatical", embedding=[0.0, 0.0, 1.0]))
        await session.flush()
        rows = (await session.execute(host.ranked(query="sabbatical"))).all()
        assert any(row.text_rank == 1 for row in rows)
        await session.rollback()
        rows = (await session.execute(host.ranked(query="sabbatical"))).all()
        assert all(row.text_rank is None for row in rows)


async def test_drafts_and_strangers_are_found_in_no_mode_and_on_no_path(host: Host) -> None:
    modes: list[dict[str, Any]] = [{"vector": None, "source": None}, {"query": None}, {}]
    async with host.session() as session:
        for arguments, exact_rows, limit in itertools.product(modes, (0, 1000), (1, 10)):
            options = SearchOptions(exact_rows=exact_rows, candidates=1)
            rows = (await session.execute(host.ranked(**arguments, options=options, limit=limit))).all()
            assert {row.id for row in rows} <= {1, 2, 3}
            assert rows[0].id == 1


async def test_two_searches_in_one_statement_find_what_each_finds_alone(host: Host) -> None:
    one, other = host.ranked(), host.ranked(query="travel costs", vector=None, source=None, name="travel")
    both = union_all(*(select(found.c.id, found.c.score) for found in (one.subquery("one"), other.subquery("other"))))
    async with host.session() as session:
        alone = [(row.id, row.score) for each in (one, other) for row in await session.execute(each)]
        together = [(row.id, row.score) for row in await session.execute(both)]
    assert sorted(together) == sorted(alone)
    assert len(together) == 4


async def test_conditions_may_use_the_hosts_tables(host: Host) -> None:
    bobs = select(host.author.id).where(host.author.name == "Bob")
    async with host.session() as session:
        rows = (await session.execute(host.ranked(where=[host.note.author_id.in_(bobs)]))).all()
    assert [row.id for row in rows] == [2]


async def test_statistics_are_read_from_the_hosts_table_into_the_service_schema(host: Host) -> None:
    async with host.session() as session, session.begin():
        found = await refresh_statistics(session, model=host.note, corpus="notes")
        stored = {row.lexeme: row.document_count for row in await session.execute(
            select(TermStatistics.lexeme, TermStatistics.document_count))}  # fmt: skip
    assert found is not None
    assert found.row_count == 4
    assert stored["leav"] == 3
    assert stored["parent"] == 2


async def test_a_hosts_own_parameters_do_not_meet_those_of_the_search(host: Host) -> None:
    hit = host.ranked().subquery("hit")
    own: tuple[Any, ...] = (
        bindparam("owner_id", "other"),
        bindparam("vector", 3),
        bindparam("words", "travel costs"),
    )
    statement = (
        select(hit.c.id)
        .join(host.note, host.note.id == hit.c.id)
        .where(own[0] != host.note.owner_id, host.note.id == own[1], host.note.content == own[2])
    )
    async with host.session() as session:
        assert (await session.scalars(statement)).all() == [3]


async def test_a_search_stays_right_when_the_server_keeps_its_plan(host: Host) -> None:
    async with host.session() as session:
        for number in range(12):
            owner = "acme" if number % 2 else "other"
            source = VectorSource(id=host.note.id, owner_id=host.note.owner_id, embedding=host.note.embedding)
            statement = hybrid(host.note, corpus="notes", owner_id=owner, query="leave", vector=TARGET, source=source)
            ids = {row.id for row in await session.execute(statement)}
            assert ids == ({1, 2, 3} if owner == "acme" else {5})


def test_the_mixin_leaves_the_hosts_key_and_names_alone() -> None:
    for _, _, note in HOSTS.values():
        assert note.__table__.primary_key.columns.keys() == ["id"]
        assert note.__table__.name == "notes"
