"""Conversations: appends beside the same INSERTs by bare asyncpg, histories and lists as the tables grow.

Bare asyncpg does what an append does with messages that were prepared beforehand: it locks the thread, inserts the rows
into the same table with the same indexes and triggers, and counts them. SQLAlchemy Core sends the same statements in a
transaction of its engine. All take turns on one server.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import asyncpg
import numpy as np
from sqlalchemy import text
from uuid_utils.compat import uuid7

from llmstack import LLMStack
from llmstack.conversations import MessageInput
from llmstack.search import stored_words

from .corpora import Generator
from .measures import quantiles
from .support import OWNER, settings

SCHEMA = "conversations"
TURNS, APPENDS = 8, 150
"""Turns of each contender, and appends of one turn, by all of its writers together."""
OURS, FLOOR = "llmstack append", "bare asyncpg"
WORDS = 25
PER_THREAD, PER_USER = 20, 20
TEMPLATES = 500
PROBES = 200
LAST, PAGE = 50, 20

Append = Callable[[str, Sequence[str]], Awaitable[None]]

_LOCK = f"SELECT id, last_seq FROM {SCHEMA}.threads WHERE owner_id = $1 AND id_at_origin = $2 FOR NO KEY UPDATE"
_INSERT = f"""
INSERT INTO {SCHEMA}.messages (
    id, owner_id, thread_id, seq, role, content, context, further_words, language, content_hash, metadata, created_at
) VALUES ($1, $2, $3, $4, 'user', $5, $6, $7, 'english', $8, '{{}}', now())
"""
_COUNT = f"""
UPDATE {SCHEMA}.threads
SET last_seq = last_seq + $2, message_count = message_count + $2, last_message_at = now(), updated_at = now()
WHERE id = $1
"""


def messages(generator: Generator, count: int) -> list[str]:
    """Texts of a few words."""
    return [" ".join(passage.text.split()[:WORDS]) for passage in generator.passages(count)]


async def appends(url: str, generator: Generator) -> list[dict[str, Any]]:
    """Appends a second, of one message and of ten, with one and eight writers, to one thread and to many."""
    texts = messages(generator, APPENDS)
    async with LLMStack.open(url, schema=SCHEMA, embedder="none", settings=settings()) as stack:
        pool = await asyncpg.create_pool(url, min_size=8, max_size=8)
        before = texts[-1]
        contenders = {OURS: _ours(stack), FLOOR: _bare(pool, before), "SQLAlchemy Core": _core(stack, before)}
        try:
            return [
                row
                for size in (1, 10)
                for writers in (1, 8)
                for threads in (1, 64)
                for row in await _in_turns(stack, contenders, texts, writers=writers, threads=threads, size=size)
            ]
        finally:
            await pool.close()


async def _in_turns(
    stack: LLMStack, contenders: Mapping[str, Append], texts: Sequence[str], *, writers: int, threads: int, size: int
) -> list[dict[str, Any]]:
    took: dict[str, list[float]] = {who: [] for who in contenders}
    names = {who: [f"{who} {size} {writers} {threads} {number}" for number in range(threads)] for who in contenders}
    for name in (one for of_each in names.values() for one in of_each):
        first = [MessageInput(role="user", content="first")]
        await stack.conversations.append(owner_id=OWNER, thread=name, messages=first)
    batches = [texts[start : start + size] for start in range(0, len(texts), size)]
    for turn in range(TURNS):
        for who, append in list(contenders.items())[:: 1 if turn % 2 else -1]:
            took[who].append(await _timed(append, names[who], batches, writers))
    about = {"messages": size, "writers": writers, "threads": threads}
    rows = []
    for who in contenders:
        ratios = [floor / mine for mine, floor in zip(took[who], took[FLOOR], strict=True)]
        rate = len(batches) * TURNS / sum(took[who])
        rows.append({"who": who, **about, "appends_per_second": rate, "of_the_floor": float(np.median(ratios))})
    return rows


async def _timed(append: Append, threads: Sequence[str], batches: Sequence[Sequence[str]], writers: int) -> float:
    async def write(number: int) -> None:
        for place in range(number, len(batches), writers):
            await append(threads[place % len(threads)], batches[place])

    started = time.perf_counter()
    await asyncio.gather(*(write(number) for number in range(writers)))
    return time.perf_counter() - started


def _ours(stack: LLMStack) -> Append:
    async def append(thread: str, contents: Sequence[str]) -> None:
        given = [MessageInput(role="user", content=content) for content in contents]
        await stack.conversations.append(owner_id=OWNER, thread=thread, messages=given)

    return append


def _rows(key: Any, last: int, before: str, contents: Sequence[str]) -> list[tuple[Any, ...]]:
    """Rows as an append writes them, each with the turn before it."""
    return [
        (uuid7(), OWNER, key, last + place, content, context, stored_words(context, content),
         hashlib.sha256(content.encode()).digest())
        for place, (context, content) in enumerate(zip([before, *contents], contents, strict=False), 1)
    ]  # fmt: skip


def _bare(pool: Any, before: str) -> Append:
    async def append(thread: str, contents: Sequence[str]) -> None:
        async with pool.acquire() as connection, connection.transaction():
            key, last = await connection.fetchrow(_LOCK, OWNER, thread)
            rows = _rows(key, last, before, contents)
            await (connection.execute(_INSERT, *rows[0]) if len(rows) == 1 else connection.executemany(_INSERT, rows))
            await connection.execute(_COUNT, key, len(rows))

    return append


def _core(stack: LLMStack, before: str) -> Append:
    engine = stack.database.engine

    async def append(thread: str, contents: Sequence[str]) -> None:
        async with engine.begin() as connection:
            found: Any = (await connection.exec_driver_sql(_LOCK, (OWNER, thread))).one()
            key, last = found
            rows = _rows(key, last, before, contents)
            await connection.exec_driver_sql(_INSERT, rows if len(rows) > 1 else rows[0])
            await connection.exec_driver_sql(_COUNT, (key, len(rows)))

    return append


async def reads(url: str, generator: Generator, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Histories and lists at each size; users have as many threads, and threads as many messages, at all of them."""
    rows: list[dict[str, Any]] = []
    async with LLMStack.open(url, schema=SCHEMA, embedder="none", settings=settings()) as stack:
        await _templates(stack, generator)
        loaded = 0
        for size in sizes:
            await _grow(stack, loaded // PER_THREAD, size // PER_THREAD)
            loaded = size
            rows += [{"messages": size, **row} for row in await _probe(stack, size)]
    for row in rows:
        smallest = next(one for one in rows if one["what"] == row["what"])
        row["of_the_smallest"] = row["p50"] / smallest["p50"]
    return rows


async def _templates(stack: LLMStack, generator: Generator) -> None:
    """Messages that are copied: to read their words a million times would take longer than all else."""
    given = [MessageInput(role="user", content=content) for content in messages(generator, TEMPLATES)]
    await stack.conversations.append(owner_id="templates", thread="templates", messages=given)


async def _grow(stack: LLMStack, first: int, end: int) -> None:
    """Add threads of a user each, and their messages with what is searched of them."""
    schema = stack.service.schema
    load = f"""
        ALTER TABLE {schema}.messages DISABLE TRIGGER USER;
        INSERT INTO {schema}.threads (id, owner_id, id_at_origin, user_id, last_seq, message_count, last_message_at)
        SELECT gen_random_uuid(), '{OWNER}', 'grown ' || n, 'user ' || n / {PER_USER}, {PER_THREAD}, {PER_THREAD},
               '2026-01-01'::timestamptz + n * interval '1 second'
        FROM generate_series({first}, {end - 1}) AS n;
        INSERT INTO {schema}.messages (
            id, owner_id, thread_id, seq, role, content, context, further_words, content_hash, created_at,
            search_vector, lexical
        )
        SELECT gen_random_uuid(), t.owner_id, t.id, s, 'user', m.content, m.context, m.further_words, m.content_hash,
               t.last_message_at, m.search_vector, m.lexical
        FROM generate_series({first}, {end - 1}) AS n
        JOIN {schema}.threads t ON t.owner_id = '{OWNER}' AND t.id_at_origin = 'grown ' || n
        CROSS JOIN generate_series(1, {PER_THREAD}) AS s
        JOIN {schema}.messages m ON m.owner_id = 'templates' AND m.seq = (n * {PER_THREAD} + s) % {TEMPLATES} + 1;
        ALTER TABLE {schema}.messages ENABLE TRIGGER USER;
    """
    async with stack.service.engine.begin() as connection:
        for statement in load.split(";\n"):
            if statement.strip():
                await connection.execute(text(statement))
    async with stack.service.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text("VACUUM ANALYZE"))


async def _probe(stack: LLMStack, size: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(size)
    threads = size // PER_THREAD
    chosen = [int(one) for one in rng.integers(threads, size=PROBES)]
    conversations = stack.conversations

    async def history(number: int) -> None:
        found = await conversations.history(owner_id=OWNER, thread=f"grown {number}", last=LAST)
        assert len(found) == PER_THREAD

    async def listed(number: int) -> None:
        page = await conversations.list_threads(owner_id=OWNER, user_id=f"user {number // PER_USER}", limit=PAGE)
        assert page.total == PER_USER

    async def all_listed(number: int) -> None:
        page = await conversations.list_threads(owner_id=OWNER, limit=PAGE)
        assert page.total >= threads

    kinds = {f"history, {PER_THREAD} messages": history, f"list of a user, {PER_USER} threads": listed}
    kinds["list of an owner, all threads counted"] = all_listed
    return [{"what": name, **await _quantiles(call, chosen)} for name, call in kinds.items()]


async def _quantiles(call: Callable[[int], Awaitable[None]], chosen: Sequence[int]) -> dict[str, float]:
    for number in chosen[:20]:
        await call(number)
    seconds = []
    for number in chosen:
        started = time.perf_counter()
        await call(number)
        seconds.append(time.perf_counter() - started)
    return quantiles(seconds)
