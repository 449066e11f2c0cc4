"""What a host's revision makes by our helpers is what its models declare."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from migration_support import catalog, execute
from sqlalchemy import Connection, MetaData, UniqueConstraint, column
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase

from llmstack.db import ddl, migrate
from llmstack.db.autogenerate import include_object
from llmstack.db.base import NAMES, Identified
from llmstack.embeddings import EmbeddingJobMixin, EmbeddingMixin, job_table, vector_table
from llmstack.errors import ValidationError
from llmstack.search import SearchableMixin, search_index


def models(schema: str, *, partitions: int, hides: bool) -> MetaData:
    class HostBase(DeclarativeBase):
        metadata = MetaData(schema=schema, naming_convention=NAMES)

    class Note(Identified, SearchableMixin, HostBase):
        __tablename__ = "notes"
        __table_args__ = (UniqueConstraint("owner_id", "id"), search_index("notes"))
        __searchable__ = column("language") != sa.text("'simple'") if hides else None

    class NoteEmbedding(EmbeddingMixin, HostBase):
        __tablename__ = "note_embeddings"
        __table_args__ = vector_table(Note, partitions=partitions)

    class NoteJob(EmbeddingJobMixin, HostBase):
        __tablename__ = "note_jobs"
        __table_args__ = job_table(Note)

    return HostBase.metadata


def revision(schema: str, *, partitions: int, hides: bool) -> None:
    """As a host writes it."""
    from alembic import op

    searched = ddl.searchable_columns(version=2)
    op.create_table(
        "notes",
        sa.Column("id", sa.Uuid(), nullable=False),
        *searched,
        sa.PrimaryKeyConstraint("id", name="pk_notes"),
        sa.UniqueConstraint("owner_id", "id", name="uq_notes_owner_id_id"),
        schema=schema,
    )
    searchable = "NEW.language <> 'simple'" if hides else None
    ddl.finish_searchable_table("notes", schema=schema, searchable=searchable, version=2)
    ddl.create_embedding_tables(
        "notes",
        vectors="note_embeddings",
        jobs="note_jobs",
        partitions=partitions,
        schema=schema,
    )


def undone(schema: str) -> None:
    from alembic import op

    ddl.drop_embedding_tables(vectors="note_embeddings", jobs="note_jobs", schema=schema)
    op.drop_table("notes", schema=schema)


async def run(engine: AsyncEngine, step: Any, *arguments: Any, **named: Any) -> None:
    def work(connection: Connection) -> None:
        with Operations.context(MigrationContext.configure(connection)):
            step(*arguments, **named)

    async with engine.begin() as connection:
        await connection.run_sync(work)


async def differences(engine: AsyncEngine, metadata: MetaData) -> list[Any]:
    def work(connection: Connection) -> list[Any]:
        options = {
            "include_schemas": True,
            "include_name": lambda name, kind, _parents: kind != "schema" or name == metadata.schema,
            "include_object": include_object,
            "compare_type": True,
        }
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    async with engine.connect() as connection:
        return await connection.run_sync(work)


@pytest.mark.parametrize(("partitions", "hides"), [(1, False), (4, True)])
async def test_a_hosts_revision_makes_what_its_models_declare(
    engine: AsyncEngine, partitions: int, hides: bool
) -> None:
    await migrate.upgrade(engine, schema="llmstack", target="embeddings@head")
    await execute(engine, "CREATE SCHEMA made", "CREATE SCHEMA declared")
    given: dict[str, Any] = {"partitions": partitions, "hides": hides}
    declared = models("declared", **given)
    async with engine.begin() as connection:
        await connection.run_sync(declared.create_all)
    await run(engine, revision, "made", **given)
    expected, found = await catalog(engine, "declared"), await catalog(engine, "made")
    for kind, rows in expected.items():
        assert found[kind] == rows, kind
    assert await differences(engine, models("made", **given)) == []
    await run(engine, undone, "made")
    assert (await catalog(engine, "made"))["columns"] == []
    await run(engine, revision, "made", **given)
    assert await catalog(engine, "made") == found


async def jobs(engine: AsyncEngine) -> list[tuple[str, int, bool]]:
    """(content, attempts, is leased) of each job."""
    statement = sa.text(
        "SELECT n.content, j.attempts, j.leased_until IS NOT NULL FROM shop.note_jobs j "
        "JOIN shop.notes n ON n.id = j.row_id ORDER BY n.content, j.space_id"
    )
    async with engine.connect() as connection:
        return [tuple(row) for row in await connection.execute(statement)]


async def vectors(engine: AsyncEngine) -> list[tuple[str, bool]]:
    statement = sa.text(
        "SELECT n.content, e.searchable FROM shop.note_embeddings e JOIN shop.notes n ON n.id = e.row_id "
        "ORDER BY n.content"
    )
    async with engine.connect() as connection:
        return [tuple(row) for row in await connection.execute(statement)]


async def test_triggers_keep_vectors_in_step_with_rows_that_any_tool_writes(engine: AsyncEngine) -> None:
    await migrate.upgrade(engine, schema="llmstack", target="embeddings@head")
    await execute(
        engine,
        "CREATE SCHEMA shop",
        "INSERT INTO llmstack.embedding_spaces (name, provider, model, dimensions, state) "
        "VALUES ('one', '', '', 2, 'active'), ('gone', '', '', 2, 'retired')",
    )
    await run(engine, revision, "shop", partitions=1, hides=True)
    await run(engine, ddl.keep_in_step, "notes", vectors="note_embeddings", jobs="note_jobs", schema="shop")
    note = "INSERT INTO shop.notes (id, owner_id, content, language) SELECT gen_random_uuid(), 'acme', {0}"
    await execute(engine, note.format("unnest(ARRAY['a', 'b']), 'english'"), note.format("'c', 'simple'"))
    assert await jobs(engine) == [("a", 0, False), ("b", 0, False)]
    # A worker embeds `a`, and holds `b`.
    stored = "INSERT INTO shop.note_embeddings SELECT owner_id, row_id, space_id, '[1,2]' FROM shop.note_jobs"
    await execute(
        engine,
        f"{stored} j WHERE EXISTS (SELECT FROM shop.notes n WHERE n.id = j.row_id AND content = 'a')",
        "DELETE FROM shop.note_jobs j USING shop.notes n WHERE n.id = j.row_id AND content = 'a'",
        "UPDATE shop.note_jobs SET attempts = 3, leased_until = now() + interval '1 hour'",
    )
    # What is not embedded may change, and nothing is owed for it.
    await execute(engine, "UPDATE shop.notes SET language = 'german' WHERE language <> 'simple'")
    assert await jobs(engine) == [("b", 3, True)]
    assert await vectors(engine) == [("a", True)]
    await execute(engine, "UPDATE shop.notes SET content = content || '2' WHERE language <> 'simple'")
    assert await jobs(engine) == [("a2", 0, False), ("b2", 0, False)]
    assert await vectors(engine) == []
    await execute(engine, stored, "DELETE FROM shop.note_jobs")
    await execute(engine, "UPDATE shop.notes SET language = 'simple' WHERE content = 'a2'")
    assert await vectors(engine) == [("a2", False), ("b2", True)]
    # Shown, `a2` has its vector still, and `c` never had one; `b2` is hidden and edited at once.
    await execute(engine, "UPDATE shop.notes SET language = 'german'")
    assert await vectors(engine) == [("a2", True), ("b2", True)]
    assert await jobs(engine) == [("c", 0, False)]
    await execute(engine, "UPDATE shop.notes SET language = 'simple', content = 'b3' WHERE content = 'b2'")
    assert await vectors(engine) == [("a2", True)]
    assert await jobs(engine) == [("c", 0, False)]
    await execute(engine, "DELETE FROM shop.notes")
    assert await vectors(engine) == []
    assert await jobs(engine) == []
    await run(engine, ddl.stop_keeping_in_step, "notes", schema="shop")
    await execute(engine, note.format("'d', 'english'"))
    assert await jobs(engine) == []


async def test_a_version_that_there_is_not_makes_nothing(engine: AsyncEngine) -> None:
    await migrate.upgrade(engine, schema="llmstack", target="embeddings@head")
    for step, given, newest in (
        (ddl.searchable_columns, {"version": 3}, 2),
        (ddl.finish_searchable_table, {"table": "notes", "version": 0}, 2),
        (ddl.alter_searchable_table, {"table": "notes", "to": 1}, 2),
        (ddl.create_embedding_tables, {"rows": "notes", "vectors": "v", "jobs": "j", "version": 2}, 1),
    ):
        with pytest.raises(ValidationError, match=f"there is no version . of these tables; {newest} is the newest"):
            await run(engine, step, **given)


def old_revision(schema: str, *, hides: bool) -> None:
    from alembic import op

    searched = ddl.searchable_columns(searchable="language <> 'simple'" if hides else None)
    op.create_table(
        "notes",
        sa.Column("id", sa.Uuid(), nullable=False),
        *searched,
        sa.PrimaryKeyConstraint("id", name="pk_notes"),
        sa.UniqueConstraint("owner_id", "id", name="uq_notes_owner_id_id"),
        schema=schema,
    )
    ddl.finish_searchable_table("notes", schema=schema)
    ddl.create_embedding_tables("notes", vectors="note_embeddings", jobs="note_jobs", schema=schema)


STORED = "SELECT xmin::text, ctid::text, search_vector::text, lexical::text FROM made.notes ORDER BY content"


@pytest.mark.parametrize("hides", [False, True])
async def test_a_table_of_version_1_becomes_one_of_version_2_and_no_row_is_written(
    engine: AsyncEngine, hides: bool
) -> None:
    await migrate.upgrade(engine, schema="llmstack", target="embeddings@head")
    await execute(engine, "CREATE SCHEMA made", "CREATE SCHEMA declared")
    await run(engine, old_revision, "made", hides=hides)
    row = "INSERT INTO made.notes (id, owner_id, language, content) VALUES (gen_random_uuid(), 'acme', {})"
    await execute(engine, row.format("'english', 'kettles'"), row.format("'simple', 'teapots'"))
    async with engine.connect() as connection:
        before = [tuple(one) for one in await connection.execute(sa.text(STORED))]
    searchable = "NEW.language <> 'simple'" if hides else None
    await run(engine, ddl.alter_searchable_table, "notes", schema="made", searchable=searchable)
    async with engine.connect() as connection:
        assert [tuple(one) for one in await connection.execute(sa.text(STORED))] == before
    assert [one[2] is None for one in before] == [False, hides]
    declared = models("declared", partitions=1, hides=hides)
    async with engine.begin() as connection:
        await connection.run_sync(declared.create_all)
    expected, found = await catalog(engine, "declared"), await catalog(engine, "made")
    for kind, rows in expected.items():
        assert found[kind] == rows, kind
    await execute(engine, row.format("'english', 'mugs'"), row.format("'simple', 'pans'"))
    async with engine.connect() as connection:
        after = [one[2] is None for one in await connection.execute(sa.text(STORED))]
    assert after == [False, False, hides, hides]
