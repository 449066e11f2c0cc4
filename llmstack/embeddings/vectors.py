"""Vectors on their way into PostgreSQL, and the column in which a space's vectors are compared."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Protocol

from pgvector.sqlalchemy import HALFVEC, VECTOR
from sqlalchemy import ColumnElement, SmallInteger, cast, literal_column

from ..search.vectors import VectorSource, binary

LARGEST_HALF = 65504.0
_SMALLEST_HALF = 2.0**-25
LARGEST = {"halfvec": LARGEST_HALF, "vector": 3.4e38}
_VANISHES = {"halfvec": _SMALLEST_HALF, "vector": 0.0}
INDEXABLE = {"halfvec": 4000, "vector": 2000, "bit": 64_000}
"""The most dimensions that an HNSW or IVFFlat index of pgvector takes; `bit` is what binary quantization makes."""


class Stored(Protocol):
    """What of a space decides how its vectors are stored."""

    @property
    def dimensions(self) -> int: ...

    @property
    def storage(self) -> str: ...


class Searched(Stored, Protocol):
    """What of a space decides how its vectors are searched."""

    @property
    def id(self) -> int: ...

    @property
    def distance(self) -> str: ...

    @property
    def quantization(self) -> str | None: ...


@functools.cache
def _text_format(dimensions: int) -> str:
    # Nine digits carry any 4-byte float; formatting all at once takes a third of the time of `str`.
    return "[" + ",".join(["%.9g"] * dimensions) + "]"


def vector_text(vector: Sequence[float]) -> str:
    """The vector as pgvector reads it, exact to 4-byte floats."""
    return _text_format(len(vector)) % tuple(vector)


def vector_type(space: Stored) -> HALFVEC | VECTOR:
    """The type of a space's vectors, with their dimensions."""
    return HALFVEC(space.dimensions) if space.storage == "halfvec" else VECTOR(space.dimensions)


def column_of(space: Stored, model: Any) -> ColumnElement[Any]:
    """The expression by which a space's vectors are compared; `model` has `EmbeddingMixin`, or is an alias of such."""
    column = model.embedding if space.storage == "halfvec" else model.embedding_full
    return cast(column, vector_type(space))


def source_of(space: Searched, model: Any) -> VectorSource:
    """A space's vectors as the search takes them, by the expression that its index is made with."""
    columns, compared = model.__table__.c, column_of(space, model)
    return VectorSource(
        id=columns.row_id,
        owner_id=columns.owner_id,
        embedding=compared,
        distance=space.distance,
        # A literal, so that even a generic plan sees which partial index it may use.
        scope=(columns.space_id == literal_column(str(int(space.id)), SmallInteger()),),
        where=(columns.searchable,),
        bits=binary(compared, space.dimensions) if space.quantization == "binary" else None,
    )


def as_vectors(given: Any) -> list[list[float]]:
    """Lists of floats from lists, tuples, arrays or tensors; TypeError or ValueError for anything else."""
    rows = given.tolist() if hasattr(given, "tolist") else list(given)
    return [[float(value) for value in (row.tolist() if hasattr(row, "tolist") else row)] for row in rows]


def fault_of(vector: Sequence[float], *, dimensions: int, storage: str) -> str | None:
    """What makes a vector useless in this storage, or None."""
    if len(vector) != dimensions:
        return f"has {len(vector)} dimensions instead of {dimensions}"
    if not all(map(math.isfinite, vector)):
        return "holds NaN or infinite values"
    largest = max(map(abs, vector))
    if largest > LARGEST[storage]:
        return f"holds a value beyond the range of {storage} ({LARGEST[storage]:g})"
    if largest <= _VANISHES[storage]:
        return "is zero, and a zero vector has no direction to compare"
    return None
