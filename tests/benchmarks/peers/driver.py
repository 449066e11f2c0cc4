"""What the scripts of the peers share. It runs in their environments: numpy, asyncpg and the standard library alone.

Commands come as lines of JSON, answers go as lines of JSON:
    {"do": "ingest", "count": n}                                   -> {"seconds": s, "chunks": n}
    {"do": "load", "owners": n}                                    -> {"seconds": s}
    {"do": "search", "mode": m, "concurrency": c, "owners": n, "turn": t, "turns": n}
        -> {"times": [...], "span": s, "found": [[...], ...]} for every n-th query from the t-th on
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import asyncpg
import numpy as np

LIMIT = 10
WRITERS = 8


class Material:
    """The corpus and the queries, with their vectors; `owners` as a function of the passage's place."""

    def __init__(self, folder: Path) -> None:
        self.texts: list[str] = _lines(folder / "corpus.jsonl")
        self.queries: list[str] = _lines(folder / "queries.jsonl")
        self.vectors = np.load(folder / "corpus.npy", mmap_mode="r")
        self._of_query = dict(zip(self.queries, np.load(folder / "queries.npy"), strict=True))
        self._places = {text: place for place, text in enumerate(self.texts)}

    def owner(self, place: int, owners: int) -> str:
        """As llmstack's corpus is dealt."""
        return "owner-small" if owners > 1 and place % 1000 == 999 else f"owner-{place % owners}"

    def vector(self, text: str) -> list[float]:
        """The vector of a query, a passage, or of what a peer's chunker made of one."""
        if (found := self._of_query.get(text)) is None:
            place = self._places.get(text)
            found = self.vectors[len(text) % len(self.texts) if place is None else place]
        values: list[float] = np.asarray(found, np.float32).tolist()
        return values


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class Contender(Protocol):
    """One peer."""

    @property
    def modes(self) -> Sequence[str]:
        """What it can do."""

    async def ingest(self, count: int) -> int:
        """Add the first passages as the peer's users do, into tables of their own; return how many chunks came."""

    async def load(self, owners: int) -> None:
        """Have the whole corpus in the peer's tables with the peer's indexes, dealt out to the owners."""

    async def search(self, query: str, *, mode: str, owner: str) -> list[int]:
        """The places of the passages found, best first."""


def key(place: int) -> uuid.UUID:
    """The id under which a passage is loaded."""
    return uuid.UUID(int=place + 1)


def place_of(identifier: object) -> int:
    """The passage of an id."""
    return uuid.UUID(str(identifier)).int - 1


async def fresh_database(url: str, name: str) -> str:
    """Make a database anew; return its URL."""
    connection = await asyncpg.connect(url)
    await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    await connection.execute(f'CREATE DATABASE "{name}"')
    await connection.close()
    parts = urlsplit(url)
    # Not by geturl(), which drops the slashes before an empty host.
    return f"{parts.scheme}://{parts.netloc}/{name}?{parts.query}"


async def writing(add: Callable[[int], Awaitable[int]], count: int) -> int:
    """Several writers at once; return the sum of what each call gives."""
    places = iter(range(count))

    async def write() -> int:
        return sum([await add(place) for place in places])

    return sum(await asyncio.gather(*(write() for _ in range(WRITERS))))


async def _searched(contender: Contender, material: Material, command: dict[str, Any]) -> dict[str, Any]:
    times: dict[int, float] = {}
    found: dict[int, list[int]] = {}
    asked = list(enumerate(material.queries))[command["turn"] :: command["turns"]]
    waiting = iter(asked)

    async def worker() -> None:
        for number, query in waiting:
            owner = f"owner-{number % command['owners']}"
            started = time.perf_counter()
            places = await contender.search(query, mode=command["mode"], owner=owner)
            times[number] = time.perf_counter() - started
            found[number] = places

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(command["concurrency"])))
    span = time.perf_counter() - started
    numbers = [number for number, _ in asked]
    return {
        "times": [times[number] for number in numbers],
        "span": span,
        "found": [found[number] for number in numbers],
    }


async def _answer(contender: Contender, material: Material, command: dict[str, Any]) -> dict[str, Any]:
    started = time.perf_counter()
    if command["do"] == "ingest":
        chunks = await contender.ingest(command["count"])
        return {"chunks": chunks, "seconds": time.perf_counter() - started}
    if command["do"] == "load":
        await contender.load(command["owners"])
        return {"seconds": time.perf_counter() - started}
    return await _searched(contender, material, command)


async def _serve(make: Callable[[str, Material], Awaitable[Contender]], url: str, folder: Path, answers: Any) -> None:
    material = Material(folder)
    contender = await make(url, material)
    print(json.dumps({"modes": list(contender.modes)}), file=answers, flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        answer = await _answer(contender, material, json.loads(line))
        print(json.dumps(answer), file=answers, flush=True)


def serve(make: Callable[[str, Material], Awaitable[Contender]]) -> None:
    """Answer commands until there are no more; arguments are the server's URL and the folder of the material."""
    url, folder = sys.argv[1:]
    # A peer may write to standard output.
    answers, sys.stdout = sys.stdout, sys.stderr
    asyncio.run(_serve(make, url, Path(folder), answers))
