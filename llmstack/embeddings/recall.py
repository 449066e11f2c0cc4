"""How many of the nearest vectors a space's index finds, measured on the vectors that are there."""

from __future__ import annotations

import dataclasses
import re
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import (
    Executable,
    Select,
    Text,
    bindparam,
    cast,
    func,
    select,
    tablesample,
    text,
)
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.database import Service
from ..db.explain import Explain
from ..db.schemas import qualified
from ..errors import ValidationError
from ..search.hybrid import SearchOptions
from ..search.vectors import QUERY_VECTOR, distance_to, similarity, vector_arm
from .index import index_name
from .tables import EmbeddedTable, core_table
from .vectors import Searched, column_of, source_of

_MOST_SAMPLES, _MOST_NEIGHBOURS = 10_000, 100
# Whole pages are sampled, so rows of many more than are needed are taken, and few of each kept.
_SPREAD, _WIDER, _ROUNDS = 20, 10, 3
# The same distance comes out of an index and of a scan with another rounding.
_TOLERANCE = 1e-6

# Before the first ANALYZE there is no estimate, and whoever asks has few rows.
_ROWS = text("""
SELECT greatest(sum(reltuples), 1) FROM pg_partition_tree(CAST(:table AS regclass)) JOIN pg_class ON oid = relid
WHERE isleaf AND reltuples >= 0
""")


@dataclasses.dataclass(frozen=True)
class Recall:
    """What share of the `k` nearest vectors of their owner the index arm found, over `sample` stored vectors.

    Neighbours as near as the k-th count as found. `by_index` is the share of the searches whose plan used the space's
    index; the others were exact, because the owner has few rows or there is no valid index.
    """

    sample: int
    k: int
    mean: float
    lowest: float
    owners: int
    by_index: float

    @classmethod
    def of_all(cls, found: Sequence[Recall]) -> Recall:
        """What was measured on several tables, as one."""
        sample = sum(one.sample for one in found)

        def mean(values: Iterable[float]) -> float:
            return sum(value * one.sample for value, one in zip(values, found, strict=True)) / sample

        return cls(
            sample=sample,
            k=found[0].k,
            mean=mean(one.mean for one in found) if sample else 1.0,
            lowest=min(one.lowest for one in found),
            owners=sum(one.owners for one in found),
            by_index=mean(one.by_index for one in found) if sample else 0.0,
        )


@dataclasses.dataclass(frozen=True)
class _Sampled:
    owner_id: str
    id: uuid.UUID
    vector: list[float]


async def measure_recall(
    service: Service,
    table: EmbeddedTable,
    space: Searched,
    *,
    sample: int = 100,
    k: int = 10,
    options: SearchOptions | None = None,
) -> Recall:
    """Search stored vectors within their owners, by the index and exactly, and compare; nothing is written.

    A vector is never its own neighbour. `options` are those of the search; its `exact_rows` do not count.
    """
    _check("sample", sample, _MOST_SAMPLES)
    _check("k", k, _MOST_NEIGHBOURS)
    options, schema = options or SearchOptions(), await table.place(service)
    shares: list[float] = []
    planned: dict[str, bool] = {}
    by_index = 0
    async with service.single_statements() as session:
        sampled = await _sample(session, schema, table, space, wanted=sample)
        for one in sampled:
            search = _Search(space, table, one, k=k, options=options)
            if (share := await search.share_found(session)) is not None:
                shares.append(share)
                # An owner's searches are planned alike.
                if one.owner_id not in planned:
                    planned[one.owner_id] = await search.reads_index(session)
                by_index += search.path == "index" and planned[one.owner_id]
    return Recall(
        sample=len(shares),
        k=k,
        mean=sum(shares) / len(shares) if shares else 1.0,
        lowest=min(shares, default=1.0),
        owners=len(planned),
        by_index=by_index / len(shares) if shares else 0.0,
    )


def _check(field: str, value: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ValidationError(field, f"it must be a whole number from 1 to {most}, not {value!r:.60}")


async def _sample(
    session: AsyncSession, schema: str, table: EmbeddedTable, space: Searched, *, wanted: int
) -> list[_Sampled]:
    """Rows of pages taken at random, of more pages where too few are the space's."""
    there = await session.scalar(_ROWS, {"table": qualified(schema, core_table(table.embeddings).name)})
    percent = min(100.0, 100.0 * _SPREAD * wanted / (there or 1.0))
    rows: list[_Sampled] = []
    for _ in range(_ROUNDS):
        found = await session.execute(_sampled(table, space, percent=percent, wanted=wanted))
        rows = [_Sampled(*row) for row in found]
        if len(rows) >= wanted or percent >= 100.0:
            break
        percent = min(100.0, _WIDER * percent)
    return rows


def _sampled(table: EmbeddedTable, space: Searched, *, percent: float, wanted: int) -> Select[Any]:
    some = tablesample(core_table(table.embeddings), func.system(percent), name="some")
    vector = column_of(space, some.c)
    kept = (
        select(some.c.owner_id, some.c.row_id, vector.label("vector"))
        .where(some.c.space_id == space.id, some.c.searchable)
        .order_by(func.random())
        .limit(wanted)
        .subquery()
    )
    return select(kept.c.owner_id, kept.c.row_id, cast(kept.c.vector, QUERY_VECTOR))


class _Search:
    """The search of one stored vector among those of its owner."""

    def __init__(
        self, space: Searched, table: EmbeddedTable, sampled: _Sampled, *, k: int, options: SearchOptions
    ) -> None:
        self._source = source_of(space, table.embeddings)
        self._index = index_name(core_table(table.embeddings).name, space.id)
        self._id = sampled.id
        self._owner = bindparam("owner_id", sampled.owner_id, Text, unique=True)
        self._vector = bindparam("vector", sampled.vector, QUERY_VECTOR, unique=True)
        self._k = k
        self.path = ""
        arm, path = vector_arm(
            self._source,
            self._vector,
            owner=self._owner,
            joined=None,
            where=(),
            # One more than the neighbours, which is the vector itself.
            candidates=max(options.candidates, k + 1),
            exact_rows=0,
            ef_search=options.ef_search,
        )
        self._by_index = select(arm.c.id, arm.c.score, path.label("path")).order_by(arm.c.score.desc())

    async def share_found(self, session: AsyncSession) -> float | None:
        """The share of the nearest neighbours that the index arm returned; None where the owner has no other vector."""
        there, last = (await session.execute(self._exact())).one()
        if not there:
            return None
        rows = (await session.execute(self._by_index)).all()
        self.path = rows[0].path
        scores = [row.score for row in rows if row.id != self._id][: self._k]
        least = last - _TOLERANCE * max(1.0, abs(last))
        found = sum(1 for score in scores if score >= least)
        return found / int(there)

    async def reads_index(self, session: AsyncSession) -> bool:
        """Whether the plan of the search has the space's index for the index arm."""
        plan = "\n".join(await session.scalars(Explain(self._by_index)))
        return re.search(rf'using "?{re.escape(self._index)}(_new|_old)?(_p\d+)?"? ', plan) is not None

    def _exact(self) -> Executable:
        """(number of neighbours up to k, score of the last of them)."""
        source = self._source
        score = similarity(distance_to(source, self._vector) + 0.0, source.distance).label("score")
        nearest = (
            select(score)
            .where(source.owner_id == self._owner, *source.scope, *source.where, source.id != self._id)
            .order_by(score.desc())
            .limit(self._k)
            .subquery()
        )
        return select(func.count(), func.min(nearest.c.score))
