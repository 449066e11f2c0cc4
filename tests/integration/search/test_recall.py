"""Exact, index and guard: whichever path a search takes, the page is full and right."""

from __future__ import annotations

import random
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from search_support import CORPUS, Passage, add_passages, add_space
from sqlalchemy import Text, cast, event, select, text
from wire_support import counting_round_trips

from llmstack.db import Database, Service
from llmstack.db.models import CorpusStatistics, TermStatistics
from llmstack.db.schemas import schema_function
from llmstack.documents import DOCUMENTS
from llmstack.documents.embedding import EMBEDDED
from llmstack.documents.models import Chunk
from llmstack.embeddings import CallableEmbedder, EmbeddingService, Space
from llmstack.search import SearchOptions, hybrid
from llmstack.settings import Settings
from llmstack.testing import servers

DIMENSIONS, ROWS, STRANGERS = 8, 400, 1200
_random = random.Random(11)
VECTORS = [[round(_random.uniform(-1, 1), 3) for _ in range(DIMENSIONS)] for _ in range(ROWS)]
TARGET = VECTORS[0]
NEAR = [[part + _random.uniform(-0.3, 0.3) for part in TARGET] for _ in range(STRANGERS)]
# So few rows could as well be sorted.
BY_INDEX = {"enable_sort": "off", "enable_seqscan": "off", "enable_bitmapscan": "off"}


Built = tuple[Space, list[uuid.UUID]]


class World:
    """An owner among strangers, most of whom are nearer to the target, behind one index."""

    def __init__(self, service: Service, space: Space, ids: list[uuid.UUID]) -> None:
        self.service, self.space, self.ids = service, space, ids

    def nearest(self, rows: list[int], limit: int) -> list[uuid.UUID]:
        """The exact answer among these rows of the owner."""
        stored = np.array([VECTORS[row] for row in rows], dtype=np.float16).astype(float)
        target = np.array(TARGET, dtype=np.float16).astype(float)
        cosine = stored @ target / np.linalg.norm(stored, axis=1) / np.linalg.norm(target)
        return [self.ids[rows[place]] for place in np.argsort(-cosine)[:limit]]

    async def search(
        self,
        *,
        exact_rows: int,
        candidates: int = 50,
        owner_id: str = "acme",
        knobs: Mapping[str, object] = MappingProxyType({}),
        **arguments: Any,
    ) -> Any:
        options = SearchOptions(exact_rows=exact_rows, candidates=candidates)
        statement = hybrid(
            Chunk,
            corpus=CORPUS,
            owner_id=owner_id,
            vector=TARGET,
            source=DOCUMENTS.source(self.space),
            languages=("simple",),
            options=options,
            **arguments,
        )
        async with self.service.single_statements() as session:
            for name, value in knobs.items():
                await session.execute(text(f"SET {name} = {value}"))
            try:
                return (await session.execute(statement)).all()
            finally:
                if knobs:
                    await session.execute(text("RESET ALL"))


async def _build(url: str, name: str) -> Built:
    async with servers.open_database(url, name) as database:
        service = database.service()
        embedder = CallableEmbedder(lambda texts: [TARGET] * len(texts), name="test", dimensions=DIMENSIONS)
        embeddings = EmbeddingService(service, [EMBEDDED], embedder, Settings())
        space = await embeddings.space()
        owners = await _owners_of_one_partition(service)
        strangers = [
            Passage("tax", owner_id=owners[number % len(owners)], vector=vector) for number, vector in enumerate(NEAR)
        ]
        await add_passages(service, strangers, space=space)
        ids = await add_passages(service, [Passage("tax law", vector=v) for v in VECTORS], space=space)
        await embeddings.build_index()
        async with service.session() as session:
            await session.execute(text("ANALYZE"))
            await session.commit()
        return space, ids


@pytest.fixture(scope="module")
def built(llmstack_server_url: str, llmstack_template: str) -> Iterator[tuple[str, Built]]:
    """A database with the vectors, made once; tests add to it and change nothing."""
    name, found = servers.unique_name(), []

    async def build() -> None:
        await servers.create_copy(llmstack_server_url, name, template=llmstack_template)
        found.append(await _build(llmstack_server_url, name))

    try:
        servers.run_apart(build())
        yield name, found[0]
    finally:
        servers.run_apart(servers.drop(llmstack_server_url, name))


@pytest.fixture
async def world(llmstack_server_url: str, built: tuple[str, Built]) -> AsyncIterator[World]:
    name, (space, ids) = built
    async with servers.open_database(llmstack_server_url, name) as database:
        yield World(database.service(), space, ids)


async def _owners_of_one_partition(service: Service) -> list[str]:
    """Owners whose vectors lie in the same partition, and so in the same graph, as acme's."""
    statement = text(
        "SELECT name FROM (SELECT 'stranger ' || n AS name FROM generate_series(1, 400) AS n) AS names "
        "WHERE satisfies_hash_partition('llmstack.chunk_embeddings'::regclass, 16, "
        "(SELECT r FROM generate_series(0, 15) AS r WHERE "
        "satisfies_hash_partition('llmstack.chunk_embeddings'::regclass, 16, r, 'acme'::text)), name) LIMIT 5"
    )
    async with service.session() as session:
        return list((await session.execute(statement)).scalars())


def paths(rows: Any) -> set[str]:
    return {row.vector_path for row in rows}


async def test_an_owner_with_few_rows_is_compared_exactly(world: World) -> None:
    rows = await world.search(exact_rows=ROWS)
    assert paths(rows) == {"exact"}
    assert [row.id for row in rows] == world.nearest(list(range(ROWS)), 10)


async def test_an_owner_with_many_rows_goes_by_the_index_and_gets_a_full_right_page(world: World) -> None:
    rows = await world.search(exact_rows=ROWS - 1, candidates=100, knobs=BY_INDEX)
    assert paths(rows) == {"index"}
    assert [row.id for row in rows] == world.nearest(list(range(ROWS)), 10)


async def test_the_index_hands_over_as_many_rows_as_are_asked_for(world: World) -> None:
    # More than hnsw.ef_search is by default, and than the graph shows before the strangers are left out.
    rows = await world.search(exact_rows=ROWS - 1, limit=150, candidates=150, knobs=BY_INDEX)
    assert paths(rows) == {"index"}
    exact = world.nearest(list(range(ROWS)), 150)
    assert len(rows) == 150
    assert len({row.id for row in rows} & set(exact)) >= 148


async def test_a_limit_above_the_candidates_and_above_the_rows_returns_all_rows(world: World) -> None:
    rows = await world.search(exact_rows=0, limit=1000, candidates=1)
    assert paths(rows) == {"exact"}
    assert [row.id for row in rows] == world.nearest(list(range(ROWS)), ROWS)


async def test_candidates_beyond_the_breadth_of_any_index_scan_are_answered(world: World) -> None:
    rows = await world.search(exact_rows=0, limit=5, candidates=5000)
    assert [row.id for row in rows] == world.nearest(list(range(ROWS)), 5)


@pytest.mark.parametrize(("exact_rows", "path"), [(1000, "exact"), (55, "index")])
async def test_a_filter_is_obeyed_on_every_path(world: World, exact_rows: int, path: str) -> None:
    kept = list(range(0, ROWS, 4))
    where = [Chunk.position % 4 == 0]
    rows = await world.search(exact_rows=exact_rows, where=where, knobs=BY_INDEX)
    assert paths(rows) == {path}
    assert [row.id for row in rows] == world.nearest(kept, 10)


async def test_a_short_index_scan_is_replaced_by_an_exact_one(world: World) -> None:
    # The scan gives up after a few tuples, before it has met enough of the owner's rows.
    knobs = {**BY_INDEX, "hnsw.max_scan_tuples": 1}
    rows = await world.search(exact_rows=51, where=[Chunk.position % 7 == 0], knobs=knobs)
    assert paths(rows) == {"guard"}
    assert [row.id for row in rows] == world.nearest(list(range(0, ROWS, 7)), 10)


@pytest.mark.parametrize("rows_there", [0, 1, 9])
async def test_an_owner_with_few_rows_among_many_gets_all_of_them(world: World, rows_there: int) -> None:
    passages = [Passage("small", owner_id=f"small {rows_there}", vector=v) for v in VECTORS[:rows_there]]
    if passages:
        await add_passages(world.service, passages, space=world.space)
    rows = await world.search(exact_rows=0, owner_id=f"small {rows_there}", query="small tax")
    assert len(rows) == rows_there


@pytest.mark.parametrize(("rows_there", "path"), [(5, "guard"), (60, "index")])
async def test_statistics_that_still_count_rows_long_gone_cost_time_and_no_row(
    world: World, rows_there: int, path: str
) -> None:
    owner, vectors = f"shrunk {rows_there}", VECTORS[:rows_there]
    passages = [Passage("shrunk", owner_id=owner, vector=v) for v in vectors]
    ids = await add_passages(world.service, passages, space=world.space)
    async with world.service.session() as session:
        corpus = CorpusStatistics(corpus=CORPUS, row_count=1_000_000, average_length=1.0, sampled_share=1.0)
        await session.merge(corpus)
        lexeme = await session.scalar(select(schema_function("owner_lexeme", cast(owner, Text))))
        session.add(TermStatistics(corpus=CORPUS, lexeme=lexeme, document_count=1_000_000))
        await session.commit()
    rows = await world.search(exact_rows=1000, owner_id=owner, knobs=BY_INDEX)
    assert paths(rows) == {path}
    assert [row.id for row in rows] == World(world.service, world.space, ids).nearest(list(range(rows_there)), 10)


async def test_a_space_without_an_index_costs_time_and_no_row(world: World) -> None:
    bare = await add_space(world.service, dimensions=DIMENSIONS)
    vectors = VECTORS[:90]
    ids = await add_passages(world.service, [Passage("bare", owner_id="bare", vector=v) for v in vectors], space=bare)
    there = World(world.service, bare, ids)
    rows = await there.search(exact_rows=0, owner_id="bare")
    assert paths(rows) == {"index"}
    assert [row.id for row in rows] == there.nearest(list(range(90)), 10)


@contextmanager
def statements_of(service: Service) -> Iterator[list[str]]:
    """What is sent to the driver."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    engine = service.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note)


async def test_a_search_is_one_statement(world: World) -> None:
    for exact_rows in (1000, 60):
        with statements_of(world.service) as sent:
            rows = await world.search(exact_rows=exact_rows, query="tax -unheard", where=[Chunk.position > 3])
        assert len(rows) == 10
        assert len(sent) == 1


async def test_a_search_is_one_round_trip(world: World) -> None:
    url = world.service.database.engine.url
    async with counting_round_trips(url) as (through, counted), Database(through) as database:
        there = World(database.service(), world.space, world.ids)
        for _ in range(2):
            await there.search(exact_rows=60, query="tax")
        counted.clear()
        rows = await there.search(exact_rows=60, query="tax")
    assert len(rows) == 10
    assert counted["S"] + counted["Q"] == 1


async def test_the_settings_of_a_search_end_with_its_transaction(world: World) -> None:
    names = (
        "hnsw.ef_search", "hnsw.iterative_scan", "ivfflat.probes", "ivfflat.iterative_scan", "ivfflat.max_probes"
    )  # fmt: skip
    options = SearchOptions(exact_rows=0, candidates=50, ef_search=333)
    statement = hybrid(
        Chunk,
        corpus=CORPUS,
        owner_id="acme",
        vector=TARGET,
        source=DOCUMENTS.source(world.space),
        options=options,
    )
    read = text("SELECT " + ", ".join(f"current_setting('{name}')" for name in names))
    async with world.service.single_statements() as session:
        # The settings exist once the extension's library is loaded.
        await session.execute(text("SELECT '[1]'::vector"))
        before = (await session.execute(read)).one()
        rows = (await session.execute(statement)).all()
        assert paths(rows) == {"index"}
        assert (await session.execute(read)).one() == before
    async with world.service.session() as session:
        await session.execute(statement)
        assert (await session.execute(read)).one() == ("333", "strict_order", "20", "relaxed_order", "100")
        await session.rollback()
        assert (await session.execute(read)).one() == before
