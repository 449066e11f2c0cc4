"""Ingest: add_many beside its floor, a bare asyncpg COPY of the same rows into identical tables with identical indexes.

Texts and vectors are made beforehand. The two take turns, a part of the corpus each, on one server and with their
indexes in place, so that the machine's moods and the growing indexes hit both alike; the ratio is the median of the
parts'.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import ctypes.util
import gc
import hashlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import numpy as np
import psutil
from pgvector import HalfVector
from pgvector.asyncpg import register_vector
from sqlalchemy import text
from uuid_utils.compat import uuid7

from llmstack import LLMStack
from llmstack.documents import DocumentInput
from llmstack.providers.tokens import count_tokens
from llmstack.search import stored_words

from .corpora import Computed, Corpus, Generator
from .support import OWNER, metadata_of, settings

PARTS, PART = 20, 2_500
"""Turns of each contender, unless that makes parts smaller than this many passages."""
BATCH = 2_000
BUSY = """
SELECT EXISTS (SELECT FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND state <> 'idle' AND pid <> pg_backend_pid())
"""

Load = Callable[[range], Awaitable[None]]


@dataclass
class Memory:
    """The resident size of this process above what it was at first, sampled while something runs."""

    started: float = 0.0
    peak: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Sample every hundredth of a second."""
        process = psutil.Process()
        if not self.started:
            _give_back()
            self.started = process.memory_info().rss
        self._stop.clear()
        watcher = threading.Thread(target=self._watch, args=(process,))
        watcher.start()
        try:
            yield
        finally:
            self._stop.set()
            watcher.join()

    def _watch(self, process: psutil.Process) -> None:
        while not self._stop.wait(0.01):
            self.peak = max(self.peak, process.memory_info().rss)

    @property
    def added(self) -> float:
        """Megabytes."""
        return (self.peak - self.started) / 1e6


def _give_back() -> None:
    """Free what earlier work left behind in the heap; it would hide what comes."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(ctypes.util.find_library("c")).malloc_trim(0)


async def add_many(url: str, *, schema: str, corpus: Corpus, generator: Generator) -> dict[str, Any]:
    """Ingest a corpus in one go into a schema with its index in place."""
    memory = Memory()
    async with _stack(url, schema, corpus, generator) as stack:
        await _make_ready(stack)
        with memory.watching():
            took = await _timed(_adding(stack, corpus), range(len(corpus)))
        await finish(stack)
    return _row("llmstack add_many", len(corpus), took, memory_added_mb=memory.added)


async def in_turns(url: str, *, schema: str, corpus: Corpus, generator: Generator) -> list[dict[str, Any]]:
    """Both contenders, part by part; what add_many loaded stays in the schema, what COPY did goes."""
    memory, ours, floor = Memory(), [], []
    turns = min(PARTS, max(1, len(corpus) // PART))
    async with _stack(url, schema, corpus, generator) as stack, _stack(url, f"{schema}_copy", None, generator) as bare:
        space = (await stack.embeddings.space()).id
        await _make_ready(stack)
        await _make_ready(bare)
        connection = await asyncpg.connect(url)
        try:
            await register_vector(connection)
            adding, copying = _adding(stack, corpus), _copying(connection, bare.service.schema, space, corpus)
            for turn, part in enumerate(np.array_split(np.arange(len(corpus)), turns)):
                places = range(int(part[0]), int(part[-1]) + 1)
                contenders = [("ours", adding), ("floor", copying)]
                for who, load in contenders if turn % 2 else contenders[::-1]:
                    await connection.execute("CHECKPOINT")
                    if who == "ours":
                        with memory.watching():
                            ours.append(await _timed(load, places))
                    else:
                        floor.append(await _timed(load, places))
        finally:
            await connection.close()
        await finish(stack)
        async with bare.service.engine.begin() as dropping:
            await dropping.execute(text(f'DROP SCHEMA "{bare.service.schema}" CASCADE'))
    ratios = [float(theirs / mine) for mine, theirs in zip(ours, floor, strict=True)]
    return [
        _row("llmstack add_many", len(corpus), sum(ours), memory_added_mb=memory.added,
             of_the_floor=float(np.median(ratios)), by_part=(min(ratios), max(ratios))),
        _row("bare asyncpg COPY", len(corpus), sum(floor)),
    ]  # fmt: skip


_FUNCTIONS = {
    "analyser, in Python": None,
    "search_document": "search_document(owner_id, language, context, content)",
    "bm25_weights": "bm25_weights(search_vector, bm25_k1, bm25_b, bm25_average_length, bm25_context_weight)",
}
_TURNS = 9


async def functions(url: str, *, schema: str, corpus: Corpus) -> list[dict[str, Any]]:
    """What reading the text of a row costs, in microseconds: the quickest of some runs over a thousand rows."""
    texts = corpus.texts[:1_000]
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f'SET search_path TO "{schema}", public')
        best = dict.fromkeys(_FUNCTIONS, float("inf"))
        for _ in range(_TURNS):
            for name, call in _FUNCTIONS.items():
                started = time.perf_counter()
                if call is None:
                    for one in texts:
                        stored_words("", one)
                else:
                    rows = f"(SELECT * FROM chunks WHERE level = 0 LIMIT {len(texts)})"
                    await connection.fetchval(f"SELECT count({call}) FROM {rows} AS c")
                best[name] = min(best[name], (time.perf_counter() - started) / len(texts) * 1e6)
    finally:
        await connection.close()
    return [{"part": name, "us_per_row": found} for name, found in best.items()]


async def copy(url: str, *, schema: str, corpus: Corpus, generator: Generator) -> dict[str, Any]:
    """Load a corpus that is too large for add_many in one sitting: COPY, and the vector index afterwards."""
    async with _stack(url, schema, None, generator) as stack:
        space = (await stack.embeddings.space()).id
        connection = await asyncpg.connect(url)
        try:
            await register_vector(connection)
            started = time.perf_counter()
            await _copying(connection, stack.service.schema, space, corpus)(range(len(corpus)))
        finally:
            await connection.close()
        await stack.embeddings.build_index()
        took = time.perf_counter() - started
        await finish(stack)
    return _row("COPY, then the vector index", len(corpus), took)


def _row(who: str, chunks: int, seconds: float, **more: Any) -> dict[str, Any]:
    return {"who": who, "chunks": chunks, "seconds": seconds, "chunks_per_second": chunks / seconds, **more}


def _stack(
    url: str, schema: str, corpus: Corpus | None, generator: Generator
) -> contextlib.AbstractAsyncContextManager[LLMStack]:
    return LLMStack.open(url, schema=schema, embedder=Computed(generator, corpus), settings=settings())


async def _make_ready(stack: LLMStack) -> None:
    await stack.embeddings.space()
    await stack.embeddings.build_index()
    # Loads the encoding, once per process.
    count_tokens("a few words")
    async with stack.service.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text("VACUUM"))


async def finish(stack: LLMStack) -> None:
    """As after a load: statistics of terms and of the planner."""
    await stack.documents.settle()
    await stack.documents.refresh_statistics()
    async with stack.service.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text("VACUUM ANALYZE"))


async def _timed(load: Load, places: range) -> float:
    started = time.perf_counter()
    await load(places)
    return time.perf_counter() - started


def _adding(stack: LLMStack, corpus: Corpus) -> Load:
    async def load(places: range) -> None:
        async for added in stack.documents.add_many(_input(place, corpus) for place in places):
            assert added.error is None, added.error
            assert added.embeddings_created == 1
        await _quiet(stack)

    return load


async def _quiet(stack: LLMStack) -> None:
    """Wait for the refresh of statistics that add_many has started: it belongs to its time, not to the next one's."""
    async with stack.service.single_statements() as session:
        while await session.scalar(text(BUSY)):  # noqa: ASYNC110 - the server sets no event
            await asyncio.sleep(0.01)


def _input(place: int, corpus: Corpus) -> DocumentInput:
    return DocumentInput(owner_id=OWNER, id_at_origin=str(place), document_name=str(place), content=corpus.texts[place],
                         document_type="text", chunking="none", metadata=metadata_of(place))  # fmt: skip


def _copying(connection: Any, schema: str, space: int, corpus: Corpus) -> Load:
    async def load(places: range) -> None:
        for start in range(places.start, places.stop, BATCH):
            async with connection.transaction():
                await _copy(connection, schema, space, corpus, range(start, min(start + BATCH, places.stop)))

    return load


async def _copy(connection: Any, schema: str, space: int, corpus: Corpus, places: range) -> None:
    rows = [
        (uuid7(), uuid7(), hashlib.sha256(content.encode()).digest(), str(place), content, place)
        for place in places
        for content in (corpus.texts[place],)
    ]
    await connection.copy_records_to_table(
        "documents", schema_name=schema,
        columns=["id", "owner_id", "id_at_origin", "name", "document_type", "language", "content", "content_hash",
                 "content_bytes", "chunking", "metadata"],
        records=[(document, OWNER, name, name, "text", "english", content, digest, len(content),
                  '{"strategy": "none"}', f'{{"hundredth": {metadata_of(place)["hundredth"]}}}')
                 for document, _, digest, name, content, place in rows],
    )  # fmt: skip
    await connection.copy_records_to_table(
        "chunks", schema_name=schema,
        columns=["id", "owner_id", "document_id", "position", "level", "content", "context", "token_count",
                 "start_offset", "end_offset", "content_hash", "language"],
        records=[(chunk, OWNER, document, 0, 0, content, name, count_tokens(content), 0, len(content), digest,
                  "english") for document, chunk, digest, name, content, _ in rows],
    )  # fmt: skip
    await connection.copy_records_to_table(
        "chunk_embeddings", schema_name=schema, columns=["owner_id", "row_id", "space_id", "embedding"],
        records=[(OWNER, chunk, space, HalfVector(corpus.vectors[place])) for _, chunk, *_, place in rows],
    )  # fmt: skip
