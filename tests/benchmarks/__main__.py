"""Quality, speed and ingest, measured side by side on a server of its own."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from llmstack.db import embedded

from . import ingest, quality, report, speed
from .corpora import Generator

PARTS = ("quality", "speed", "ingest")
QUERIES = 200


def main() -> None:
    """Measure what was asked for on a server of its own, print one table a part, write JSON."""
    parser = argparse.ArgumentParser(prog="nox -s bench --", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"any of {', '.join(PARTS)}; all by default")
    parser.add_argument("--chunks", default="10000,100000", help="sizes of the synthetic corpora")
    parser.add_argument("--owners", default="1,50", help="numbers of owners that share a corpus")
    parser.add_argument(
        "--collections", type=Path, default=Path("../shared/data/ir"), help="folder of judged collections"
    )
    parser.add_argument("--json", type=Path, default=Path("benchmark.json"), help="where the figures go")
    parser.add_argument("--url", help="a server to use instead of one of its own")
    chosen = parser.parse_args()
    if unknown := set(chosen.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; known are {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory(prefix="llmstack-bench-", ignore_cleanup_errors=True) as folder:
        server = None if chosen.url else embedded.start(Path(folder) / "data", announce=False)
        try:
            results = asyncio.run(_run(chosen, server.url if server else chosen.url))
        finally:
            if server is not None:
                server.release()
    chosen.json.write_text(json.dumps(results, indent=1))
    sys.stdout.write(f"\nwritten to {chosen.json}\n")


async def _run(chosen: argparse.Namespace, url: str) -> dict[str, Any]:
    parts = chosen.parts or PARTS
    results: dict[str, Any] = {"about": report.about()}
    if "quality" in parts:
        results["quality"] = await _quality(url, chosen.collections)
    if "speed" in parts or "ingest" in parts:
        results.update(await _synthetic(url, chosen, parts))
    return results


async def _quality(url: str, folder: Path) -> list[dict[str, Any]]:
    found = quality.collections(folder)
    if not found:
        sys.stdout.write(f"quality: skipped, there are no collections in {folder}\n")
    rows = [row for collection in found for row in await quality.measure(url, collection)]
    report.show("quality", rows)
    return rows


async def _synthetic(url: str, chosen: argparse.Namespace, parts: Any) -> dict[str, Any]:
    generator = Generator()
    queries = generator.queries(QUERIES)
    speeds, ingests = [], []
    for chunks in map(int, chosen.chunks.split(",")):
        loaded = await speed.load(url, schema=f"speed_{chunks}", passages=chunks, generator=generator)
        ingests.append({"who": "llmstack add_many", **loaded})
        if "ingest" in parts:
            floor = await ingest.bare_copy(url, schema=f"copy_{chunks}", passages=chunks, generator=generator)
            ratio = loaded["chunks_per_second"] / floor["chunks_per_second"]
            ingests.append({"who": "bare asyncpg COPY", **floor})
            ingests[-2]["of_the_floor"] = ratio
        report.show(f"ingest, {chunks} chunks", ingests[-2:])
        if "speed" in parts:
            for owners in map(int, chosen.owners.split(",")):
                speeds += await _speed(url, chunks, owners, queries, generator)
    return {"ingest": ingests, "speed": speeds}


async def _speed(url: str, chunks: int, owners: int, queries: Any, generator: Generator) -> list[dict[str, Any]]:
    schema = f"speed_{chunks}"
    if owners > 1:
        source, schema = schema, f"{schema}_{owners}"
        await speed.spread(url, source=source, schema=schema, owners=owners, generator=generator)
    rows = await speed.measure(url, schema=schema, owners=owners, queries=queries, generator=generator)
    rows = [{"chunks": chunks, **row} for row in rows]
    report.show(f"speed, {chunks} chunks, {owners} owners", rows)
    return rows


if __name__ == "__main__":
    main()
