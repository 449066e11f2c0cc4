"""Start each peer beside llmstack and measure both in turns."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llmstack import LLMStack

from .. import ingest, speed
from ..corpora import Computed, Corpus, Generator, Passage
from ..measures import quantiles
from ..support import owner_of, places_of, recall, settings
from .environments import HERE, PEERS, Peer, make, variables

SAMPLE = 2_000
CONCURRENCIES = (1, 8)
TURNS = 10
Rows = list[dict[str, Any]]


class Failed(Exception):
    """A peer ended before its answer."""


class Remote:
    """A peer in its process."""

    def __init__(self, process: asyncio.subprocess.Process, errors: Path) -> None:
        self._process = process
        self._errors = errors

    async def ask(self, **command: Any) -> Any:
        """Send a command; its answer."""
        assert self._process.stdin is not None
        # Where it has ended already, the answer tells.
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            await self._process.stdin.drain()
        return await self.answer()

    async def answer(self) -> Any:
        """The next line."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            said = self._errors.read_text().strip().splitlines()
            raise Failed(said[-1] if said else "it ended without a word")
        return json.loads(line)


@contextlib.asynccontextmanager
async def _started(peer: Peer, environments: Path, url: str, material: Path) -> AsyncIterator[Remote]:
    errors = material / f"{peer.name}.log"
    with errors.open("w") as log:
        process = await asyncio.create_subprocess_exec(
            *peer.command(environments), url, str(material), stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=log, cwd=HERE, limit=1 << 26, env={**os.environ, **variables()},
        )  # fmt: skip
    try:
        yield Remote(process, errors)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        with contextlib.suppress(TimeoutError, ProcessLookupError):
            await asyncio.wait_for(process.wait(), 10)
        if process.returncode is None:
            process.kill()
            await process.wait()


async def measure(
    url: str, *, folder: Path, chunks: int, owners: Sequence[int], queries: Sequence[Passage], generator: Generator
) -> AsyncIterator[tuple[str, Rows]]:
    """A table for each number of owners, and one of ingest; a peer that cannot be had is skipped with a word."""
    present = [peer for peer in PEERS if _is_present(peer, folder)]
    if not present:
        return
    corpus = Corpus(generator, chunks)
    with tempfile.TemporaryDirectory(prefix="llmstack-peers-") as place:
        material = Path(place)
        _write(material, corpus, queries, generator)
        schemas = {count: await _loaded(url, corpus, count, generator) for count in owners}
        yield (
            f"ingest by their own means, {SAMPLE} documents",
            [
                await _added(url, corpus, generator),
                *[row for peer in present for row in await _ingested(peer, folder, url, material)],
            ],
        )
        for peer in present:
            with _telling(peer):
                async with _started(peer, folder, url, material) as remote:
                    modes = (await remote.answer())["modes"]
                    for count in owners:
                        await remote.ask(do="load", owners=count)
                        rows = await _side_by_side(
                            url, peer, remote, modes, schemas[count], count, queries, generator, corpus
                        )
                        yield f"{peer.name}, {chunks} chunks, {count} owners", rows


def _is_present(peer: Peer, folder: Path) -> bool:
    if (trouble := make(peer, folder)) is not None:
        sys.stdout.write(f"peers: {peer.name} skipped, it cannot be installed: {trouble}\n")
    return trouble is None


@contextlib.contextmanager
def _telling(peer: Peer) -> Any:
    try:
        yield
    except Failed as error:
        sys.stdout.write(f"peers: {peer.name} failed: {error}\n")


def _write(folder: Path, corpus: Corpus, queries: Sequence[Passage], generator: Generator) -> None:
    (folder / "corpus.jsonl").write_text("".join(f"{json.dumps(text)}\n" for text in corpus.texts))
    (folder / "queries.jsonl").write_text("".join(f"{json.dumps(query.text)}\n" for query in queries))
    np.save(folder / "corpus.npy", corpus.vectors)
    np.save(folder / "queries.npy", np.array([generator.vector(query.text) for query in queries]))


async def _loaded(url: str, corpus: Corpus, owners: int, generator: Generator) -> str:
    """The schema of llmstack with the corpus: of the part on speed, or loaded by COPY."""
    schema = f"speed_{len(corpus)}" + (f"_{owners}" if owners > 1 else "")
    if await _is_filled(url, schema, generator):
        return schema
    if owners == 1:
        await ingest.copy(url, schema=schema, corpus=corpus, generator=generator)
    else:
        source = await _loaded(url, corpus, 1, generator)
        await speed.spread(url, source=source, schema=schema, owners=owners, generator=generator)
    return schema


async def _is_filled(url: str, schema: str, generator: Generator) -> bool:
    async with LLMStack.open(url, schema=schema, embedder=Computed(generator), settings=settings()) as stack:
        return await stack.documents.find(owner_id="owner-0", id_at_origin="0") is not None


async def _added(url: str, corpus: Corpus, generator: Generator) -> dict[str, Any]:
    sample = corpus.first(SAMPLE)
    row = await ingest.add_many(url, schema="speed_sample", corpus=sample, generator=generator)
    return {**row, "documents_per_second": row["chunks_per_second"]}


async def _ingested(peer: Peer, environments: Path, url: str, material: Path) -> Rows:
    with _telling(peer):
        async with _started(peer, environments, url, material) as remote:
            await remote.answer()
            done = await remote.ask(do="ingest", count=SAMPLE)
        return [{"who": peer.name, "chunks": done["chunks"], "seconds": done["seconds"],
                 "chunks_per_second": done["chunks"] / done["seconds"],
                 "documents_per_second": SAMPLE / done["seconds"]}]  # fmt: skip
    return []


@dataclass
class _Answers:
    """What one of two contenders took and found, query by query."""

    times: list[float] = field(default_factory=list)
    found: list[Any] = field(default_factory=list)
    span: float = 0.0

    def row(self, who: str, labels: dict[str, Any], rows: Sequence[int]) -> dict[str, Any]:
        return {"who": who, **labels, **quantiles(self.times), "qps": len(self.times) / self.span,
                "rows": float(np.mean(rows))}  # fmt: skip


async def _side_by_side(
    url: str, peer: Peer, remote: Remote, modes: Sequence[str], schema: str, owners: int, queries: Sequence[Passage],
    generator: Generator, corpus: Corpus,
) -> Rows:  # fmt: skip
    rows: Rows = []
    embedder = Computed(generator, queries=queries)
    async with LLMStack.open(url, schema=schema, embedder=embedder, settings=settings()) as stack:
        for mode in (mode for mode in speed.MODES if mode in modes):
            for concurrency in CONCURRENCIES:
                labels = {"chunks": len(corpus), "owners": owners, "mode": mode, "concurrency": concurrency}
                ours, theirs = await _in_turns(speed.ours(stack, mode, owners), remote, labels, queries)
                row = ours.row("llmstack", labels, ours.found)
                rows += [row, theirs.row(peer.name, labels, [len(found) for found in theirs.found])]
                rows[-1] |= {
                    "llmstack_p50_times_better": rows[-1]["p50"] / row["p50"],
                    "llmstack_qps_times": row["qps"] / rows[-1]["qps"],
                }
                if mode == "vector":
                    rows[-1]["recall@10"] = _recall(theirs, owners, queries, generator, corpus)
    return rows


async def _in_turns(
    search: speed.Search, remote: Remote, labels: dict[str, Any], queries: Sequence[Passage]
) -> tuple[_Answers, _Answers]:
    """Every n-th query in each turn, first the one and then the other, after a turn that does not count."""
    ours, theirs = _Answers(), _Answers()
    wanted = {"do": "search", "mode": labels["mode"], "concurrency": labels["concurrency"], "owners": labels["owners"]}
    await remote.ask(**wanted, turn=0, turns=1)
    await speed.drain(search, queries, labels["concurrency"], [], [])
    for turn in range(TURNS):
        share = queries[turn::TURNS]
        ours.span += await speed.drain(search, share, labels["concurrency"], ours.times, ours.found)
        answer = await remote.ask(**wanted, turn=turn, turns=TURNS)
        theirs.span += answer["span"]
        theirs.times += answer["times"]
        theirs.found += answer["found"]
    return ours, theirs


def _recall(answers: _Answers, owners: int, queries: Sequence[Passage], generator: Generator, corpus: Corpus) -> float:
    asked = [query for turn in range(TURNS) for query in queries[turn::TURNS]]
    return float(np.mean([
        recall(corpus, generator.vector(query.text), places_of(owner_of(query, owners), owners, len(corpus)), found)
        for query, found in zip(asked, answers.found, strict=True)
    ]))  # fmt: skip
