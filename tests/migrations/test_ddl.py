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
        __searchable__ = column("content") != sa.text("'hidden'") if hides else None

    class NoteEmbedding(EmbeddingMixin, HostBase):
        __tablename__ = "note_embeddings"
        __table_args__ = vector_table(Note, partitions=partitions)

    class NoteJob(EmbeddingJobMixin, HostBase):
        __tablename__ = "note_jobs"
        __table_args__ = job_table(Note)

    return HostBase.metadata


def revision(schema: str, *, partitions: int, hides: bool, version: int = 1) -> None:
    """As a host writes it."""
    from alembic import op

    searched = ddl.searchable_columns(searchable="content <> 'hidden'" if hides else None, version=version)
    op.create_table(
        "notes",
        sa.Column("id", sa.Uuid(), nullable=False),
        *searched,
        sa.PrimaryKeyConstraint("id", name="pk_notes"),
        sa.UniqueConstraint("owner_id", "id", name="uq_notes_owner_id_id"),
        schema=schema,
    )
    ddl.finish_searchable_table("notes", schema=schema, version=version)
    ddl.create_embedding_tables(
        "notes",
        vectors="note_embeddings",
        jobs="note_jobs",
        partitions=partitions,
        schema=schema,
        version=version,
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


async def test_a_version_that_there_is_not_makes_nothing(engine: AsyncEngine) -> None:
    await migrate.upgrade(engine, schema="llmstack", target="embeddings@head")
    with pytest.raises(ValidationError, match="there is no version 2 of these tables; 1 is the newest"):
        await run(engine, revision, "llmstack", partitions=1, hides=False, version=2)
