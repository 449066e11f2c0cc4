"""Speed: latency, throughput, recall and round trips of a search, and the same SQL sent by bare asyncpg."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import numpy as np
from sqlalchemy import event, text

from llmstack import LLMStack
from llmstack.documents import DocumentFilter
from llmstack.retrieval.hits import Mode
from llmstack.settings import Settings

from .corpora import Computed, Corpus, Generator, Passage
from .ingest import finish
from .measures import quantiles
from .support import LIMIT, SMALL_OWNER, Places, dealt, metadata_of, owner_of, places_of, recall, settings
from .wire import counting

MODES: tuple[Mode, ...] = ("hybrid", "vector", "text")
FLOOR = "same SQL, bare asyncpg"
RECALL_QUERIES = 100
Search = Callable[[Passage], Awaitable[int]]
Sent = list[tuple[str, Any]]


async def spread(url: str, *, source: str, schema: str, owners: int, generator: Generator) -> None:
    """Copy a corpus into another schema with its documents dealt out to many owners."""
    async with LLMStack.open(url, schema=schema, embedder=Computed(generator), settings=settings()) as stack:
        await stack.embeddings.space()
        async with stack.service.engine.begin() as connection:
            for statement in _copies(dealt(owners)):
                await connection.execute(text(statement.format(new=f'"{schema}"', old=f'"{source}"')))
        await stack.embeddings.build_index()
        await finish(stack)


def _copies(owner: str) -> tuple[str, ...]:
    return (
        "INSERT INTO {new}.documents (id, owner_id, id_at_origin, name, document_type, language, content_hash, "
        f"content_bytes, chunking, metadata) SELECT id, {owner}, id_at_origin, name, document_type, language, "
        "content_hash, content_bytes, chunking, metadata FROM {old}.documents",
        "INSERT INTO {new}.chunks (id, owner_id, document_id, position, content, context, token_count, start_offset, "
        "end_offset, content_hash) SELECT c.id, d.owner_id, c.document_id, c.position, c.content, c.context, "
        "c.token_count, c.start_offset, c.end_offset, c.content_hash FROM {old}.chunks c JOIN {new}.documents d "
        "ON d.id = c.document_id",
        "INSERT INTO {new}.chunk_embeddings (owner_id, row_id, space_id, embedding) SELECT c.owner_id, e.row_id, "
        "e.space_id, e.embedding FROM {old}.chunk_embeddings e JOIN {new}.chunks c ON c.id = e.row_id",
    )


async def measure(
    url: str, *, schema: str, owners: int, queries: Sequence[Passage], generator: Generator, corpus: Corpus
) -> list[dict[str, Any]]:
    """Latency and throughput of llmstack and of its floor, at concurrency 1 and 8."""
    embedder = Computed(generator, queries=queries)
    rows = []
    async with LLMStack.open(url, schema=schema, embedder=embedder, settings=settings()) as stack:
        pool = await asyncpg.create_pool(url, min_size=8, max_size=8, server_settings=_floor_settings())
        try:
            for mode in MODES:
                search = ours(stack, mode, owners)
                await search(queries[0])
                sent = {query.number: await _sent_by(stack, search, query) for query in queries}
                contenders = {"llmstack": search}
                if mode == "hybrid":
                    contenders[FLOOR] = _floor(pool, sent)
                labels = {"mode": mode, "owners": owners, "statements": _mean([len(each) for each in sent.values()])}
                rows += await one_at_a_time(contenders, queries, labels=labels)
                rows += await at_once(contenders, queries, concurrency=8, labels=labels)
        finally:
            await pool.close()
        share = await _recall(stack, queries[:RECALL_QUERIES], owners, generator, corpus)
    trips = await round_trips(url, schema=schema, queries=queries[:20], embedder=embedder)
    for row in rows:
        if row["who"] == "llmstack":
            row |= {"recall@10": share if row["mode"] == "vector" else None, "round_trips": trips}
    return rows


def ours(stack: LLMStack, mode: Mode, owners: int) -> Search:
    """A search as an application makes it."""

    async def search(query: Passage) -> int:
        hits = await stack.documents.search(owner_id=owner_of(query, owners), query=query.text, mode=mode, limit=LIMIT)
        return len(hits)

    return search


async def _sent_by(stack: LLMStack, search: Search, query: Passage) -> Sent:
    with sending(stack) as sent:
        await search(query)
    return sent


@contextlib.contextmanager
def sending(stack: LLMStack) -> Iterator[Sent]:
    """The statements that the stack sends meanwhile, with their values."""
    sent: Sent = []

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_rest: Any) -> None:
        sent.append((statement, values))

    engine = stack.service.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note)


def _floor_settings() -> dict[str, str]:
    return {"jit": "off", "plan_cache_mode": "force_custom_plan"}


def _floor(pool: Any, sent: dict[int, Sent]) -> Search:
    """The very statements that the stack sent, with asyncpg alone around them."""

    async def search(query: Passage) -> int:
        rows = 0
        async with pool.acquire() as connection:
            for statement, values in sent[query.number]:
                rows = len(await connection.fetch(statement, *values))
        return rows

    return search


async def one_at_a_time(
    contenders: dict[str, Search], queries: Sequence[Passage], *, labels: dict[str, Any]
) -> list[dict[str, Any]]:
    """All contenders answer a query one after another, in changing order, so that the machine's moods hit all alike.

    `of_the_floor` is the median over the queries of the first one's time in terms of the others'.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    found: dict[str, list[int]] = {name: [] for name in contenders}
    for search in contenders.values():
        await drain(search, queries, 1, [], [])
    order = list(contenders)
    for turn, query in enumerate(queries):
        for name in order if turn % 2 else order[::-1]:
            await drain(contenders[name], [query], 1, times[name], found[name])
    first = np.array(times[order[0]])
    return [
        {
            "who": name, **labels, "concurrency": 1, **quantiles(times[name]), "qps": len(queries) / sum(times[name]),
            "rows": _mean(found[name]),
            "of_the_floor": None if name != order[0] or len(order) == 1 else
            float(np.median(first / np.array(times[order[1]]))),
        }
        for name in order
    ]  # fmt: skip


async def at_once(
    contenders: dict[str, Search], queries: Sequence[Passage], *, concurrency: int, labels: dict[str, Any]
) -> list[dict[str, Any]]:
    """Each contender answers all queries with several at a time; in turns of a quarter."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    spans: dict[str, float] = dict.fromkeys(contenders, 0.0)
    found: dict[str, list[int]] = {name: [] for name in contenders}
    for search in contenders.values():
        await drain(search, queries, concurrency, [], [])
    for turn in range(4):
        for name, search in contenders.items():
            spans[name] += await drain(search, queries[turn::4], concurrency, times[name], found[name])
    order = list(contenders)
    return [
        {
            "who": name, **labels, "concurrency": concurrency, **quantiles(times[name]),
            "qps": len(times[name]) / spans[name], "rows": _mean(found[name]),
            "of_the_floor": None if name != order[0] or len(order) == 1 else
            float(np.median(times[name]) / np.median(times[order[1]])),
        }
        for name in order
    ]  # fmt: skip


async def drain(
    search: Search, queries: Sequence[Passage], concurrency: int, times: list[float], found: list[int]
) -> float:
    """Answer the queries, several at a time; times and rows go to the lists, the seconds for all are returned."""
    waiting = iter(queries)

    async def worker() -> None:
        for query in waiting:
            started = time.perf_counter()
            rows = await search(query)
            times.append(time.perf_counter() - started)
            found.append(rows)

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return time.perf_counter() - began


async def _recall(
    stack: LLMStack, queries: Sequence[Passage], owners: int, generator: Generator, corpus: Corpus
) -> float:
    shares = []
    for query in queries:
        owner = owner_of(query, owners)
        places = places_of(owner, owners, len(corpus))
        hits = await stack.documents.search(owner_id=owner, query=query.text, mode="vector", limit=LIMIT)
        found = [int(hit.id_at_origin) for hit in hits]
        shares.append(recall(corpus, generator.vector(query.text), places, found))
    return _mean(shares)


async def narrow(
    url: str, *, schema: str, spread_schema: str, owners: int, queries: Sequence[Passage], generator: Generator,
    corpus: Corpus,
) -> list[dict[str, Any]]:  # fmt: skip
    """The vector leg where few rows match: owners with a small share of the corpus, and a filter that few rows pass."""
    count = len(corpus)
    hundredth = np.array([place for place in range(count) if metadata_of(place)["hundredth"] == 7])
    scopes: list[tuple[str, str, str, dict[str, Any] | None, Places]] = [
        ("one owner of 50, 2 %", spread_schema, "owner-1", None, places_of("owner-1", owners, count)),
        ("a small owner, 0.1 %", spread_schema, SMALL_OWNER, None, places_of(SMALL_OWNER, owners, count)),
        ("a metadata filter, 1 %", schema, "owner-0", {"hundredth": 7}, hundredth),
    ]
    rows = []
    for scope, where, owner, metadata, places in scopes:
        embedder = Computed(generator, queries=queries)
        async with LLMStack.open(url, schema=where, embedder=embedder, settings=settings()) as stack:
            measured = [await _narrow(stack, owner, metadata, query) for query in queries]
        shares = [
            recall(corpus, generator.vector(query.text), places, found)
            for query, (_, found) in zip(queries, measured, strict=True)
        ]
        rows.append({
            "chunks": count, "scope": scope, "matching": len(places), "recall@10": _mean(shares),
            "rows": _mean([len(found) for _, found in measured]),
            "full_pages": _mean([len(found) == min(LIMIT, len(places)) for _, found in measured]),
            **quantiles([took for took, _ in measured]),
        })  # fmt: skip
    return rows


async def _narrow(
    stack: LLMStack, owner: str, metadata: dict[str, Any] | None, query: Passage
) -> tuple[float, list[int]]:
    started = time.perf_counter()
    hits = await stack.documents.search(
        owner_id=owner, query=query.text, mode="vector", limit=LIMIT, where=DocumentFilter(metadata=metadata)
    )
    return time.perf_counter() - started, [int(hit.id_at_origin) for hit in hits]


def growth(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """p50 at each size in terms of the smallest, of one search at a time."""
    alone = [row for row in rows if row["who"] == "llmstack" and row["concurrency"] == 1]
    least = {(row["mode"], row["owners"]): row for row in reversed(alone)}
    return [
        {
            "mode": row["mode"], "owners": row["owners"], "chunks": row["chunks"], "p50": row["p50"],
            "of_the_smallest": row["p50"] / least[row["mode"], row["owners"]]["p50"],
        }
        for row in sorted(alone, key=lambda row: (row["owners"], row["mode"], row["chunks"]))
    ]  # fmt: skip


async def round_trips(url: str, *, schema: str, queries: Sequence[Passage], embedder: Computed) -> float | None:
    """Round trips of one warm hybrid search, counted on the wire; None where the server has no unix socket."""
    host = parse_qs(urlsplit(url).query).get("host", [""])[0]
    if not host.startswith("/"):
        return None
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


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
