"""Quality, stages, speed, ingest, peers, quantization and conversations, side by side on a server of its own."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from llmstack.db import embedded

from . import bars, calibration, conversations, dialogues, ingest, quality, quantization, report, speed, stages
from .corpora import Corpus, Generator, Passage
from .peers import run as peers

QUERIES = 200
NARROW_QUERIES = 100
MOST_ADDED = 200_000
"""A larger corpus is loaded by COPY: add_many would take hours."""
PEER_CHUNKS = 100_000
_REMAINS = """
SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'public') ORDER BY 1
"""

Rows = list[dict[str, Any]]


@dataclass
class Bench:
    """One run: what was asked for, the server, the generator, and the figures so far."""

    url: str
    sizes: list[int]
    owners: list[int]
    messages: list[int]
    parts: set[str]
    collections: Path
    peers: Path
    generator: Generator = field(default_factory=Generator)
    queries: list[Passage] = field(init=False)
    results: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.queries = self.generator.queries(QUERIES)

    def show(self, name: str, title: str, rows: Rows) -> None:
        """Print rows, and keep them under the name for JSON and for the bars."""
        self.results.setdefault(name, []).extend(rows)
        report.show(title, rows)


async def _quality(bench: Bench) -> None:
    found = quality.collections(bench.collections)
    if not found:
        sys.stdout.write(f"quality: skipped, there are no collections in {bench.collections}\n")
    for collection in found:
        bench.show("quality", f"quality, {collection.name}", await quality.measure(bench.url, collection))


async def _stages(bench: Bench) -> None:
    """On what the quality part has loaded."""
    if "quality" not in bench.results:
        await _quality(bench)
    for collection in quality.collections(bench.collections):
        bench.show("stages", f"stages, {collection.name}", await stages.measure(bench.url, collection))


async def _calibration(bench: Bench) -> None:
    for collection in quality.collections(bench.collections):
        bench.show("calibration", f"calibration, {collection.name}", await calibration.measure(bench.url, collection))


async def _quantization(bench: Bench) -> None:
    bench.show("quantization", "binary quantization", await quantization.measure(bench.url))


async def _synthetic(bench: Bench) -> None:
    """Ingest and speed share the load of each size."""
    for chunks in bench.sizes:
        corpus = Corpus(bench.generator, chunks)
        await _load(bench, corpus)
        if "speed" in bench.parts:
            for owners in bench.owners:
                await _speed(bench, corpus, owners)
        if "speed" in bench.parts and chunks == bench.sizes[-1] and max(bench.owners) > 1:
            most = max(bench.owners)
            rows = await speed.narrow(
                bench.url, schema=f"speed_{chunks}", spread_schema=f"speed_{chunks}_{most}", owners=most,
                queries=bench.queries[:NARROW_QUERIES], generator=bench.generator, corpus=corpus,
            )  # fmt: skip
            bench.show("narrow", f"few rows match, vector leg, {chunks} chunks", rows)
    if "speed" in bench.parts:
        bench.show("growth", "growth of p50, one at a time", speed.growth(bench.results["speed"]))


async def _load(bench: Bench, corpus: Corpus) -> None:
    given: dict[str, Any] = {"schema": f"speed_{len(corpus)}", "corpus": corpus, "generator": bench.generator}
    if len(corpus) > MOST_ADDED:
        rows = [await ingest.copy(bench.url, **given)]
    elif "ingest" in bench.parts:
        rows = await ingest.in_turns(bench.url, **given)
    else:
        rows = [await ingest.add_many(bench.url, **given)]
    bench.show("ingest", f"ingest, {len(corpus)} chunks", rows)
    if "ingest" in bench.parts:
        parts = await ingest.functions(bench.url, schema=given["schema"], corpus=corpus)
        bench.show("functions", "reading the text of a row", parts)


async def _speed(bench: Bench, corpus: Corpus, owners: int) -> None:
    chunks = len(corpus)
    schema = f"speed_{chunks}"
    if owners > 1:
        source, schema = schema, f"{schema}_{owners}"
        await speed.spread(bench.url, source=source, schema=schema, owners=owners, generator=bench.generator)
    rows = await speed.measure(
        bench.url, schema=schema, owners=owners, queries=bench.queries, generator=bench.generator, corpus=corpus
    )
    bench.show("speed", f"speed, {chunks} chunks, {owners} owners", [{"chunks": chunks, **row} for row in rows])


async def _peers(bench: Bench) -> None:
    chunks = max((size for size in bench.sizes if size <= PEER_CHUNKS), default=PEER_CHUNKS)
    async for title, rows in peers.measure(
        bench.url, folder=bench.peers, chunks=chunks, owners=bench.owners, queries=bench.queries,
        generator=bench.generator,
    ):  # fmt: skip
        bench.show("peers", title, rows)


async def _conversations(bench: Bench) -> None:
    """Writing and reading first: what they measure is the size of the tables."""
    bench.show("appends", "appends", await conversations.appends(bench.url, bench.generator))
    rows = await conversations.reads(bench.url, bench.generator, bench.messages)
    bench.show("conversations", "histories and lists", rows)
    found = dialogues.dialogues(bench.collections)
    if not found:
        sys.stdout.write(f"dialogues: skipped, no collection in {bench.collections} names conversations (conv)\n")
    for collection in found:
        bench.show("dialogues", f"dialogues, {collection.name}", await dialogues.measure(bench.url, collection))


Part = Callable[[Bench], Awaitable[None]]
PARTS: dict[str, Part] = {
    "quality": _quality,
    "stages": _stages,
    "calibration": _calibration,
    "speed": _synthetic,
    "ingest": _synthetic,
    "peers": _peers,
    "quantization": _quantization,
    "conversations": _conversations,
}
"""What can be asked for, in the order of running; a new part is a line here. Parts of one function run once."""


def parser() -> argparse.ArgumentParser:
    """What can be asked for on the command line."""
    found = argparse.ArgumentParser(prog="nox -s bench --", description=__doc__)
    found.add_argument("parts", nargs="*", help=f"any of {', '.join(PARTS)}; all by default")
    found.add_argument("--chunks", default="10000,100000", help="sizes of the synthetic corpora")
    found.add_argument("--owners", default="1,50", help="numbers of owners that share a corpus")
    found.add_argument("--messages", default="10000,1000000", help="sizes of the tables of conversations")
    found.add_argument(
        "--collections", type=Path, default=Path("../shared/data/ir"), help="folder of judged collections"
    )
    found.add_argument(
        "--peers", type=Path, default=Path(".nox/peers"), help="folder of the peers' environments; made where absent"
    )
    found.add_argument("--json", type=Path, default=Path("benchmark.json"), help="where the figures go")
    found.add_argument("--url", help="an empty database to use instead of a server of its own")
    return found


def main() -> None:
    """Measure what was asked for on a server of its own, print one table a part, write JSON."""
    chosen = parser().parse_args()
    chosen.peers = chosen.peers.absolute()
    if unknown := set(chosen.parts) - set(PARTS):
        parser().error(f"unknown part {', '.join(sorted(unknown))}; known are {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory(prefix="llmstack-bench-", ignore_cleanup_errors=True) as folder:
        server = None if chosen.url else embedded.start(Path(folder) / "data", announce=False)
        try:
            results = asyncio.run(_run(chosen, server.url if server else chosen.url))
        finally:
            if server is not None:
                server.release()
    chosen.json.write_text(json.dumps(results, indent=1))
    sys.stdout.write(f"\nwritten to {chosen.json}\n")


async def _refuse_remains(url: str) -> None:
    """What an earlier run has left would be measured instead of loaded."""
    connection = await asyncpg.connect(url)
    try:
        found = await connection.fetch(_REMAINS)
    finally:
        await connection.close()
    if found:
        sys.exit(f"--url wants an empty database; this one has the schemas {', '.join(name for (name,) in found)}")


async def _run(chosen: argparse.Namespace, url: str) -> dict[str, Any]:
    await _refuse_remains(url)
    bench = Bench(
        url=url,
        sizes=sorted(map(int, chosen.chunks.split(","))),
        owners=sorted(map(int, chosen.owners.split(","))),
        messages=sorted(map(int, chosen.messages.split(","))),
        parts=set(chosen.parts or PARTS),
        collections=chosen.collections,
        peers=chosen.peers,
    )
    bench.results["about"] = report.about()
    for part in dict.fromkeys(function for name, function in PARTS.items() if name in bench.parts):
        await part(bench)
    bench.show("bars", "bars", bars.of(bench.results))
    return bench.results


if __name__ == "__main__":
    main()
