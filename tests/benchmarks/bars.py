"""What must be reached, beside what was measured in this run; for information."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Rows = list[dict[str, Any]]
GIVEN, LOCAL = "given vectors", "local embedder"
SIZE, SMALL_SIZE = 100_000, 10_000


@dataclass(frozen=True)
class Bar:
    """A measure, its limit, and where its value is found in the results."""

    measure: str
    limit: float
    value: Callable[[dict[str, Rows]], float | None]
    at_least: bool = True

    def row(self, results: dict[str, Rows]) -> dict[str, Any] | None:
        """The line of the table; None where it was not measured."""
        if (value := self.value(results)) is None:
            return None
        passed = value >= self.limit if self.at_least else value <= self.limit
        sign = ">=" if self.at_least else "<="
        return {"measure": self.measure, "bar": f"{sign} {self.limit:g}", "measured": value,
                "result": "pass" if passed else "MISS"}  # fmt: skip


def of(results: dict[str, Any]) -> Rows:
    """Every bar that this run has measured."""
    rows = (bar.row(results) for bar in [*BARS, *_hybrids(results)])
    return [row for row in rows if row is not None]


def _first(rows: Rows | None, key: str, **wanted: Any) -> float | None:
    found = (row for row in rows or () if all(row.get(name) == value for name, value in wanted.items()))
    value = next((row.get(key) for row in found), None)
    return None if value is None else float(value)


def _ndcg(collection: str, run: str) -> Callable[[dict[str, Rows]], float | None]:
    return lambda results: _first(results.get("quality"), "ndcg@10", collection=collection, run=run)


def _of(table: str, key: str, **wanted: Any) -> Callable[[dict[str, Rows]], float | None]:
    return lambda results: _first(results.get(table), key, **wanted)


def _always(value: float) -> Callable[[dict[str, Rows]], float | None]:
    return lambda results: value


def _hybrid(**wanted: Any) -> dict[str, Any]:
    return {"who": "llmstack", "mode": "hybrid", "concurrency": 1, **wanted}


def _hybrids(results: dict[str, Rows]) -> Iterator[Bar]:
    """Hybrid against the better of its legs, for each collection and embedder."""
    for name in dict.fromkeys(row["collection"] for row in results.get("quality", ())):
        for label in (GIVEN, LOCAL):
            hybrid = _ndcg(name, f"hybrid, {label}")(results)
            legs = [_ndcg(name, f"{leg}, {label}")(results) for leg in ("text", "vector")]
            if hybrid is not None and None not in legs:
                lead = hybrid - max(leg for leg in legs if leg is not None)
                yield Bar(f"{name}: hybrid less the better leg, {label}", -0.01, _always(lead))


def _against(peer: str, owners: int, least: float) -> list[Bar]:
    wanted = {"who": peer, "mode": "hybrid", "owners": owners, "chunks": SIZE}
    return [
        Bar(f"hybrid p50, times better than {peer}, {owners} owners", least,
            _of("peers", "llmstack_p50_times_better", concurrency=1, **wanted)),
        Bar(f"hybrid queries per second, times those of {peer}, {owners} owners, 8 at once", least,
            _of("peers", "llmstack_qps_times", concurrency=8, **wanted)),
    ]  # fmt: skip


BARS = [
    Bar("scifact text nDCG@10", 0.69, _ndcg("scifact", f"text, {GIVEN}")),
    Bar("scifact vector nDCG@10", 0.64, _ndcg("scifact", f"vector, {GIVEN}")),
    Bar("scifact hybrid nDCG@10", 0.73, _ndcg("scifact", f"hybrid, {GIVEN}")),
    Bar("cacm text nDCG@10", 0.50, _ndcg("cacm", f"text, {GIVEN}")),
    Bar("cacm hybrid nDCG@10", 0.56, _ndcg("cacm", f"hybrid, {GIVEN}")),
    *(
        Bar(f"hybrid p50 of the same SQL by bare asyncpg, {owners} owners", 1.25,
            _of("speed", "of_the_floor", **_hybrid(chunks=SIZE, owners=owners)), at_least=False)
        for owners in (1, 50)
    ),
    *_against("llmemory", 1, 2.0),
    *_against("llmemory", 50, 3.0),
    Bar("growth of hybrid p50 from 10,000 to 100,000 chunks, one owner", 2.5,
        _of("growth", "of_the_smallest", mode="hybrid", owners=1, chunks=SIZE), at_least=False),
    *(
        Bar(f"{label} of the vector leg, {scope}", limit, _of("narrow", key, scope=scope))
        for scope in ("one owner of 50, 2 %", "a small owner, 0.1 %", "a metadata filter, 1 %")
        for label, key, limit in (("recall@10", "recall@10", 0.99), ("full pages", "full_pages", 1.0))
    ),
    Bar("round trips of one search", 2.0, _of("speed", "round_trips", **_hybrid(chunks=SIZE, owners=1)),
        at_least=False),
    *(
        Bar(f"add_many in terms of bare COPY, {chunks:,} chunks", 0.8,
            _of("ingest", "of_the_floor", who="llmstack add_many", chunks=chunks))
        for chunks in (SMALL_SIZE, SIZE)
    ),
    *(
        Bar(f"appends of {count} in terms of bare asyncpg, {writers} writers, {threads} threads", 0.7,
            _of("appends", "of_the_floor", who="llmstack append", messages=count, writers=writers, threads=threads))
        for count in (1, 10)
        for writers in (1, 8) for threads in (1, 64)
    ),
    *(
        Bar(f"growth of p50 from 10,000 to 1,000,000 messages, {what}", 1.5,
            _of("conversations", "of_the_smallest", what=what, messages=1_000_000), at_least=False)
        for what in ("history, 20 messages", "list of a user, 20 threads")
    ),
    Bar("memory added while ingesting 100,000 chunks, MB", 200.0,
        _of("ingest", "memory_added_mb", who="llmstack add_many", chunks=SIZE), at_least=False),
]  # fmt: skip
