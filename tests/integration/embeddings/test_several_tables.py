"""A host's notes beside our chunks: spaces serve every table of a schema, so a change of model is one of all."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from embedding_support import TABLE, Counting, add_chunks
from sqlalchemy import MetaData, UniqueConstraint, event, func, select, text, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase

from llmstack.conversations.embedding import EMBEDDED_MESSAGES, EMBEDDED_SUMMARIES
from llmstack.db import Service
from llmstack.db.base import Identified
from llmstack.embeddings import (
    CallableEmbedder,
    EmbeddedTable,
    EmbeddingJobMixin,
    EmbeddingMixin,
    EmbeddingService,
    WrittenRow,
    job_table,
    owe_elsewhere,
    store_vectors,
    vector_table,
)
from llmstack.embeddings.queue import owe
from llmstack.embeddings.vectors import source_of
from llmstack.errors import ConfigurationError, Conflict, DatabaseBehind
from llmstack.search import SearchableMixin, hybrid, search_index
from llmstack.settings import Settings

OURS = (TABLE, EMBEDDED_MESSAGES, EMBEDDED_SUMMARIES)
SCHEMAS = ["shop", None, "llmstack"]
"""A schema of the host's own, wherever search_path points, and ours."""


class Host:
    """A host's models in one schema, as create_all makes them."""

    def __init__(self, schema: str | None) -> None:
        class HostBase(DeclarativeBase):
            metadata = MetaData(schema=schema)

        class Note(Identified, SearchableMixin, HostBase):
            __tablename__ = "notes"
            __table_args__ = (UniqueConstraint("owner_id", "id"), search_index("notes"))
            __corpus__ = "notes"

        class NoteEmbedding(EmbeddingMixin, HostBase):
            __tablename__ = "note_embeddings"
            # Once as a plain table, as for most hosts, and twice in partitions.
            __table_args__ = vector_table(Note, partitions=3 if schema else 1)

        class NoteJob(EmbeddingJobMixin, HostBase):
            __tablename__ = "note_jobs"
            __table_args__ = job_table(Note)

        self.schema = schema
        self.note: Any = Note
        self.vectors: Any = NoteEmbedding
        self.jobs: Any = NoteJob
        self.metadata = HostBase.metadata
        self.table = EmbeddedTable(rows=Note, embeddings=NoteEmbedding, jobs=NoteJob, text=Note.content)

    async def create(self, service: Service) -> None:
        async with service.engine.begin() as connection:
            await connection.execute(text("CREATE SCHEMA IF NOT EXISTS shop"))
            await connection.run_sync(self.metadata.create_all)

    async def add(self, service: Service, contents: Sequence[str], *, owed: bool = True) -> list[uuid.UUID]:
        notes = [self.note(owner_id="acme", content=content) for content in contents]

        async def work(session: AsyncSession) -> None:
            session.add_all(notes)
            await session.flush()
            if owed:
                await session.execute(owe(self.table, [note.id for note in notes], are_new=True))

        await service.transaction(work)
        return [note.id for note in notes]

    def indexes(self, space: int) -> list[str]:
        """What a build of the space's index makes: one, or one on each partition."""
        whole = f"ix_note_embeddings_s{space}"
        return [f"{whole}_p{number:02d}" for number in range(3)] if self.schema else [whole]

    async def found_by_vector(self, service: Service, embeddings: EmbeddingService, query: str) -> list[uuid.UUID]:
        space, [vector] = await embeddings.embed_queries([query])
        source = source_of(space, self.vectors)
        statement = hybrid(self.note, corpus="notes", owner_id="acme", vector=vector, source=source)
        async with service.session() as session:
            return [row.id for row in await session.execute(statement)]


HOSTS = {str(schema): Host(schema) for schema in SCHEMAS}


@pytest.fixture(params=HOSTS)
async def host(request: pytest.FixtureRequest, llmstack_service: Service) -> Host:
    host = HOSTS[request.param]
    await host.create(llmstack_service)
    return host


def embedder(name: str) -> CallableEmbedder:
    return CallableEmbedder(Counting(), name=name, dimensions=8)


def known(service: Service, *tables: EmbeddedTable, **settings: Any) -> EmbeddingService:
    given = Settings(space_refresh=0.0, **settings)
    return EmbeddingService(service, tables, embedder("old"), given, [embedder("new")])


async def count_of(service: Service, model: Any) -> int:
    async with service.session() as session:
        return await session.scalar(select(func.count()).select_from(model)) or 0


async def test_a_change_of_model_is_one_of_every_table(llmstack_service: Service, host: Host) -> None:
    embeddings = known(llmstack_service, *OURS)
    embeddings.register(host.table)
    await add_chunks(llmstack_service, ["kettle", "teapot"])
    await embeddings.space()
    await host.add(llmstack_service, ["parental leave", "travel costs"])
    await embeddings.backfill()
    assert (await embeddings.process_pending()).embedded == 4
    await embeddings.add_space(embedder("new"))
    await embeddings.backfill(space="new", table="chunks")
    await embeddings.process_pending(space="new")
    await embeddings.build_index(space="new", table="chunks")
    # Every chunk has its vector, and no note: at 100 % and at 0 % half is covered.
    (fault, unindexed) = (await embeddings.verify("new")).faults
    assert fault == "notes: 2 of 2 rows have neither vector nor job: backfill queues them"
    assert unindexed == "notes: its hnsw index is absent: build_index builds it"
    with pytest.raises(Conflict, match="notes: 2 of 2 rows"):
        await embeddings.cut_over("new", least_coverage=0.5)
    assert await embeddings.backfill(space="new") == 2
    await embeddings.process_pending(space="new")
    assert await embeddings.build_index(space="new", table="notes") == host.indexes(2)
    assert (await embeddings.verify("new")).ready
    await embeddings.cut_over("new")
    assert len(await host.found_by_vector(llmstack_service, embeddings, "parental leave")) == 2
    gone = await embeddings.retire("old")
    assert (gone.vectors, gone.jobs) == (4, 0)
    assert await count_of(llmstack_service, host.vectors) == 2


async def test_vectors_at_hand_are_stored_and_the_others_owed(llmstack_service: Service, host: Host) -> None:
    embeddings = known(llmstack_service, host.table)
    space = await embeddings.space()
    await embeddings.add_space(embedder("new"), index_method="none")
    ids = await host.add(llmstack_service, ["parental leave", "travel costs", "tax law"], owed=False)

    async def work(session: AsyncSession, *rows: WrittenRow) -> tuple[set[uuid.UUID], set[uuid.UUID]]:
        done = await store_vectors(session, host.table, rows, space=space)
        await owe_elsewhere(session, host.table, rows, space=space)
        return done

    first, second, third = ids
    vector = [1.0] + [0.0] * 7
    written = [WrittenRow("acme", first, vector, True), WrittenRow("acme", second, None, True)]
    assert await llmstack_service.transaction(lambda session: work(session, *written)) == ({first}, {second})
    assert await count_of(llmstack_service, host.vectors) == 1
    # In the space that serves the one without a vector; in the other one both.
    assert await count_of(llmstack_service, host.jobs) == 3
    again = [WrittenRow("acme", id_, vector, False) for id_ in (first, second, third)]
    assert await llmstack_service.transaction(lambda session: work(session, *again)) == ({second, third}, set())
    assert await count_of(llmstack_service, host.vectors) == 3
    assert (await embeddings.pending(space="old")).waiting == 0
    assert (await embeddings.pending(space="new")).waiting == 3


async def test_statuses_are_told_by_table_and_in_all(llmstack_service: Service, host: Host) -> None:
    embeddings = known(llmstack_service, TABLE, host.table)
    await embeddings.space()
    await add_chunks(llmstack_service, ["kettle", "teapot"])
    await host.add(llmstack_service, ["leave"])
    await embeddings.process_pending()
    (status,) = await embeddings.spaces()
    assert [(one.table, one.wanted, one.covered) for one in status.tables] == [("chunks", 2, 0), ("notes", 1, 1)]
    assert (status.wanted, status.covered) == (3, 1)
    assert status.coverage == pytest.approx(1 / 3)
    (alone,) = await embeddings.spaces(table="notes")
    assert (alone.wanted, alone.coverage) == (1, 1.0)


async def test_tables_take_turns_however_many_jobs_one_has(llmstack_service: Service, host: Host) -> None:
    embeddings = known(llmstack_service, TABLE, host.table, embedding_batch_size=2, embedding_concurrency=1)
    await embeddings.space()
    await add_chunks(llmstack_service, [f"chunk {number}" for number in range(40)])
    await host.add(llmstack_service, [f"note {number}" for number in range(4)])
    await embeddings.backfill()
    assert (await embeddings.process_pending(limit=8)).embedded == 8
    assert await count_of(llmstack_service, host.vectors) == 4
    assert (await embeddings.pending(table="chunks")).waiting == 36
    assert (await embeddings.process_pending(table="notes")).embedded == 0
    assert (await embeddings.process_pending()).remaining == 0


async def test_a_table_that_nobody_registered_stands_in_the_way_of_a_change(
    llmstack_service: Service, host: Host
) -> None:
    embeddings = known(llmstack_service, *OURS)
    await embeddings.space()
    await embeddings.add_space(embedder("new"), index_method="none")
    for step in (embeddings.cut_over("new"), embeddings.retire("new")):
        with pytest.raises(Conflict, match=r"note_embeddings.*note_jobs.* belong to these spaces too"):
            await step
    await embeddings.cut_over("new", force=True)
    with pytest.raises(Conflict, match="note_embeddings"):
        await embeddings.roll_back()
    embeddings.register(host.table)
    await embeddings.roll_back()
    await embeddings.retire("new")


SETTINGS = """
SELECT attname, attstorage, coalesce(attstattarget, -1) FROM pg_attribute
WHERE attrelid IN (to_regclass(:rows), to_regclass(:vectors)) AND attname IN ('lexical', 'embedding', 'embedding_full')
ORDER BY attname
"""


async def test_create_all_stores_the_columns_as_our_own_revisions_do(llmstack_service: Service, host: Host) -> None:
    def read(rows: str, vectors: str) -> Any:
        return text(SETTINGS).bindparams(rows=rows, vectors=vectors)

    prefix = "" if host.schema is None else f"{host.schema}."
    async with llmstack_service.session() as session:
        theirs = (await session.execute(read(f"{prefix}notes", f"{prefix}note_embeddings"))).all()
        ours = (await session.execute(read("llmstack.chunks", "llmstack.chunk_embeddings"))).all()
    assert [tuple(row) for row in theirs] == [tuple(row) for row in ours]
    assert [row.attname for row in theirs if row[2] == 0] == ["embedding", "embedding_full", "lexical"]


async def test_its_index_is_built_searched_rebuilt_and_dropped_where_the_table_is(
    llmstack_service: Service, host: Host
) -> None:
    embeddings = known(llmstack_service, TABLE, host.table)
    await embeddings.space()
    await host.add(llmstack_service, ["parental leave", "travel costs"])
    await embeddings.process_pending()
    assert await embeddings.build_index(table="notes") == host.indexes(1)
    assert await embeddings.rebuild_index(table="notes") == host.indexes(1)
    assert (await embeddings.spaces(table="notes"))[0].index == "ready"
    assert (await embeddings.measure_recall(table="notes", sample=2)).mean == 1.0
    await embeddings.drop_index(table="notes")
    assert (await embeddings.spaces(table="notes"))[0].index == "absent"


async def test_a_host_in_another_service_schema_keeps_its_tables_apart(llmstack_service: Service, host: Host) -> None:
    statements: list[str] = []

    def note(connection: Any, cursor: Any, sql: str, *rest: Any) -> None:
        statements.append(sql)

    embeddings = known(llmstack_service, host.table)
    await embeddings.space()
    await host.add(llmstack_service, ["leave"])
    engine = llmstack_service.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        assert (await embeddings.process_pending()).embedded == 1
    finally:
        event.remove(engine, "before_cursor_execute", note)
    wrong = [sql for sql in statements if "llmstack.note" in sql]
    assert wrong == [] or host.schema == "llmstack"


def test_two_tables_of_one_name_are_refused_and_an_unknown_one_is_named(llmstack_service: Service) -> None:
    host = HOSTS["shop"]
    embeddings = known(llmstack_service, TABLE)
    embeddings.register(TABLE)
    assert embeddings.tables == [TABLE]
    other = EmbeddedTable(
        rows=host.note, embeddings=host.vectors, jobs=host.jobs, text=host.note.content, name="chunks"
    )
    with pytest.raises(ConfigurationError, match="two embedded tables are named 'chunks'"):
        embeddings.register(other)


async def test_a_table_that_does_not_exist_is_said_to_be_the_hosts(llmstack_service: Service) -> None:
    embeddings = known(llmstack_service, HOSTS["None"].table)
    with pytest.raises(DatabaseBehind, match="'note_embeddings' does not exist; create it by the migrations"):
        await embeddings.spaces()
    with pytest.raises(ConfigurationError, match="no embedded table is named 'unheard of'; there are 'notes'"):
        await embeddings.pending(table="unheard of")


def test_rows_that_are_searched_by_words_want_a_vector_unless_it_is_said_which() -> None:
    host = HOSTS["shop"]
    given = {"rows": host.note, "embeddings": host.vectors, "jobs": host.jobs, "text": host.note.content}
    assert str(EmbeddedTable(**given).wanted) == "shop.notes.search_vector IS NOT NULL"
    assert EmbeddedTable(**given, wanted=true()).wanted is true()
