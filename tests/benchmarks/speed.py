"""Speed: latency, throughput, recall and round trips of a search, and the same SQL sent by bare asyncpg."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import psutil
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import asyncpg as dialects

from llmstack import LLMStack
from llmstack.documents import Chunk, DocumentInput
from llmstack.documents.queries import CORPUS, plain_search, vector_source
from llmstack.documents.records import Mode
from llmstack.search import SearchOptions, hybrid
from llmstack.search.vectors import vector_text
from llmstack.settings import Settings

from .corpora import Computed, Generator, Passage
from .measures import quantiles
from .wire import counting

LIMIT = 10
MODES: tuple[Mode, ...] = ("hybrid", "vector", "text")
Search = Callable[[Passage], Awaitable[int]]


def settings() -> Settings:
    """Defaults, whatever the environment says, without a limit on building indexes."""
    return Settings(statement_timeout=0)


async def load(url: str, *, schema: str, passages: int, generator: Generator) -> dict[str, Any]:
    """Ingest a corpus of one owner into a schema with its index in place; returns the rate."""
    async with LLMStack.open(url, schema=schema, embedder=Computed(generator), settings=settings()) as stack:
        await stack.embeddings.space()
        await stack.embeddings.build_index()
        before = _resident()
        started = time.perf_counter()
        async for added in stack.documents.add_many(_input(passage) for passage in generator.passages(passages)):
            assert added.error is None, added.error
        took = time.perf_counter() - started
        grown = _peak() - before
        await stack.documents.refresh_statistics()
        async with stack.service.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            await connection.execute(text("VACUUM ANALYZE"))
    return {
        "chunks": passages,
        "seconds": took,
        "chunks_per_second": passages / took,
        "memory_added_mb": grown,
    }


def _resident() -> float:
    resident: int = psutil.Process().memory_info().rss
    return resident / 1e6


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _input(passage: Passage) -> DocumentInput:
    name = str(passage.number)
    return DocumentInput(owner_id="owner-0", id_at_origin=name, document_name=name, content=passage.text,
                         document_type="text", chunking="none")  # fmt: skip


async def spread(url: str, *, source: str, schema: str, owners: int, generator: Generator) -> None:
    """Copy a corpus into another schema with its documents dealt out to many owners."""
    async with LLMStack.open(url, schema=schema, embedder=Computed(generator), settings=settings()) as stack:
        await stack.embeddings.space()
        dealt = f"'owner-' || (hashtext(id_at_origin) & 1048575) % {owners}"
        async with stack.service.engine.begin() as connection:
            for statement in _copies(dealt):
                await connection.execute(text(statement.format(new=f'"{schema}"', old=f'"{source}"')))
        await stack.embeddings.build_index()
        await stack.documents.refresh_statistics()
        async with stack.service.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            await connection.execute(text("VACUUM ANALYZE"))


def _copies(dealt: str) -> tuple[str, ...]:
    return (
        "INSERT INTO {new}.documents (id, owner_id, id_at_origin, name, document_type, language, content_hash, "
        f"content_bytes, chunking) SELECT id, {dealt}, id_at_origin, name, document_type, language, content_hash, "
        "content_bytes, chunking FROM {old}.documents",
        "INSERT INTO {new}.chunks (id, owner_id, document_id, position, content, context, token_count, start_offset, "
        "end_offset, content_hash) SELECT c.id, d.owner_id, c.document_id, c.position, c.content, c.context, "
        "c.token_count, c.start_offset, c.end_offset, c.content_hash FROM {old}.chunks c JOIN {new}.documents d "
        "ON d.id = c.document_id",
        "INSERT INTO {new}.chunk_embeddings (owner_id, chunk_id, space_id, embedding) SELECT c.owner_id, e.chunk_id, "
        "e.space_id, e.embedding FROM {old}.chunk_embeddings e JOIN {new}.chunks c ON c.id = e.chunk_id",
    )


async def measure(
    url: str, *, schema: str, owners: int, queries: Sequence[Passage], generator: Generator
) -> list[dict[str, Any]]:
    """Latency and throughput of llmstack and of its floor, at concurrency 1 and 8."""
    embedder = Computed(generator)
    rows = []
    async with LLMStack.open(url, schema=schema, embedder=embedder, settings=settings()) as stack:
        pool = await asyncpg.create_pool(url, min_size=8, max_size=8, server_settings=_floor_settings())
        try:
            for mode in MODES:
                contenders: dict[str, Search] = {"llmstack": _ours(stack, mode, owners)}
                if mode == "hybrid":
                    contenders["same SQL, bare asyncpg"] = await _floor(stack, pool, owners, generator)
                for concurrency in (1, 8):
                    rows += await compare(contenders, queries, concurrency=concurrency, labels={"mode": mode})
        finally:
            await pool.close()
        recall = await recall_of(stack, queries, owners, generator)
    trips = await round_trips(url, schema=schema, queries=queries[:20], embedder=embedder)
    for row in rows:
        row.update(owners=owners, **({"recall@10": recall, "round_trips": trips} if row["who"] == "llmstack" else {}))
    return rows


def owner_of(query: Passage, owners: int) -> str:
    """Queries go to the owners in turn."""
    return f"owner-{query.number % owners}"


def _ours(stack: LLMStack, mode: Mode, owners: int) -> Search:
    async def search(query: Passage) -> int:
        hits = await stack.documents.search(owner_id=owner_of(query, owners), query=query.text, mode=mode, limit=LIMIT)
        return len(hits)

    return search


def _floor_settings() -> dict[str, str]:
    return {"jit": "off", "plan_cache_mode": "force_custom_plan"}


async def _floor(stack: LLMStack, pool: Any, owners: int, generator: Generator) -> Search:
    """The very statement that the stack sends, with asyncpg alone around it."""
    space = await stack.embeddings.space()
    statement = plain_search(space, with_text=True, limit=LIMIT, fusion=None, options=SearchOptions())
    form: Any = statement.compile(
        dialect=dialects.dialect(),  # type: ignore[no-untyped-call]
        compile_kwargs={"render_postcompile": True},
    )
    # The statement names the default schema.
    sql = form.string.replace("llmstack.", f'"{stack.service.schema}".')

    def values(query: Passage) -> list[Any]:
        given = {
            **form.params,
            "owner_id": owner_of(query, owners),
            "words": query.text,
            "vector": vector_text(generator.vector(query.text).tolist()),
        }
        return [given[name] for name in form.positiontup]

    async def search(query: Passage) -> int:
        async with pool.acquire() as connection:
            return len(await connection.fetch(sql, *values(query)))

    return search


async def compare(
    contenders: dict[str, Search], queries: Sequence[Passage], *, concurrency: int, labels: dict[str, Any]
) -> list[dict[str, Any]]:
    """Each contender answers all queries; in turns of a quarter, so that the machine's moods hit all alike."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    spans: dict[str, float] = dict.fromkeys(contenders, 0.0)
    found: dict[str, list[int]] = {name: [] for name in contenders}
    for search in contenders.values():
        for query in queries:
            await search(query)
    for turn in range(4):
        for name, search in contenders.items():
            share = queries[turn::4]
            started = time.perf_counter()
            await _drain(search, share, concurrency, times[name], found[name])
            spans[name] += time.perf_counter() - started
    return [
        {
            "who": name, **labels, "concurrency": concurrency, **quantiles(times[name]),
            "qps": len(times[name]) / spans[name], "rows": sum(found[name]) / len(found[name]),
        }
        for name in contenders
    ]  # fmt: skip


async def _drain(
    search: Search, queries: Sequence[Passage], concurrency: int, times: list[float], found: list[int]
) -> None:
    waiting = iter(queries)

    async def worker() -> None:
        for query in waiting:
            started = time.perf_counter()
            rows = await search(query)
            times.append(time.perf_counter() - started)
            found.append(rows)

    await asyncio.gather(*(worker() for _ in range(concurrency)))


async def recall_of(stack: LLMStack, queries: Sequence[Passage], owners: int, generator: Generator) -> float:
    """recall@10 of the vector leg against an exact scan of the owner's rows."""
    space = await stack.embeddings.space()
    shares = []
    for query in queries:
        owner = owner_of(query, owners)
        vector = generator.vector(query.text).tolist()
        async with stack.service.single_statements() as session:
            answers = []
            for options in (SearchOptions(), SearchOptions(exact_rows=10**6)):
                statement = hybrid(Chunk, corpus=CORPUS, owner_id=owner, vector=vector, source=vector_source(space),
                                   limit=LIMIT, options=options)  # fmt: skip
                answers.append({row.id for row in await session.execute(statement)})
        shares.append(len(answers[0] & answers[1]) / max(len(answers[1]), 1))
    return sum(shares) / len(shares)


async def round_trips(url: str, *, schema: str, queries: Sequence[Passage], embedder: Computed) -> float:
    """Round trips of one warm hybrid search, counted on the wire."""
    host = parse_qs(urlsplit(url).query)["host"][0]
    async with counting(f"{host}/.s.PGSQL.5432") as (port, trips):
        relayed = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        only = Settings(pool_size=1, max_overflow=0, tls="disable")
        async with LLMStack(relayed, schema=schema, embedder=embedder, settings=only) as stack:
            for _ in range(2):
                await stack.documents.search(owner_id="owner-0", query=queries[0].text, mode="hybrid")
            trips.count = 0
            for query in queries:
                await stack.documents.search(owner_id="owner-0", query=query.text, mode="hybrid")
    return trips.count / len(queries)
