"""What the index of one space is: its expression, operators, parameters, and the memory that building it takes."""

from __future__ import annotations

import dataclasses
import math

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from ..db.schemas import quote
from ..errors import ConfigurationError
from .models import EmbeddingSpace
from .parameters import complete, fault_of_parameters
from .vectors import INDEXABLE

_OPERATORS = {"cosine": "cosine_ops", "inner_product": "ip_ops", "l2": "l2_ops"}
_ROWS_IN_A_LIST, _MANY_ROWS = 1000, 1_000_000
_SAMPLES_OF_A_LIST, _LEAST_SAMPLES = 50, 10_000
_LEAST_MEMORY, _MOST_MEMORY = 16 << 20, 2 << 30
# PostgreSQL takes memory in blocks of up to this size.
_BLOCK = 8 << 20

_EXTENSION_SCHEMA = text("""
SELECT nspname FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'vector'
""")
# What the server was given may be more than what is needed; PostgreSQL reserves all of it when workers share the build.
_MEMORY = text("""
SELECT set_config('maintenance_work_mem', greatest(
    CAST(:needed AS bigint), (SELECT setting::bigint * 1024 FROM pg_settings WHERE name = 'maintenance_work_mem')
) / 1024 || 'kB', false)
""")


@dataclasses.dataclass(frozen=True)
class IndexDefinition:
    """An index of a space as SQL; `extension` is the quoted schema of the types and operators."""

    space: EmbeddingSpace
    extension: str

    @classmethod
    async def read(cls, connection: AsyncConnection, space: EmbeddingSpace) -> IndexDefinition:
        """The definition, with the extension where this database has it."""
        return cls(space, quote(await connection.scalar(_EXTENSION_SCHEMA) or "public"))

    @property
    def signature(self) -> str:
        """What two indexes must have in common to be parts of one; kept as the comment of each."""
        return f"{self._method_and_column} {self._with(self._parameters())}WHERE {self._predicate}"

    def on(self, target: str, *, rows: int | None = None) -> str:
        """What follows ON in CREATE INDEX for a quoted table; without `rows` lists that are not given are left out."""
        return f"{target} {self._method_and_column} {self._with(self._parameters(rows))}WHERE {self._predicate}"

    def count(self, target: str) -> str:
        """The statement that counts the rows to index in a quoted table."""
        return f"SELECT count(*) FROM {target} WHERE {self._predicate}"

    async def take_memory(self, connection: AsyncConnection, *, rows: int) -> None:
        """Give the session the memory in which the index can be built at once, up to 2 GB."""
        needed = min(max(self._bytes(rows), _LEAST_MEMORY), _MOST_MEMORY)
        await connection.execute(_MEMORY, {"needed": needed})

    @property
    def _predicate(self) -> str:
        return f"space_id = {int(self.space.id)}"

    @property
    def _method_and_column(self) -> str:
        space, dimensions = self.space, int(self.space.dimensions)
        column = "embedding" if space.storage == "halfvec" else "embedding_full"
        indexed, operators = f"{column}::{self.extension}.{space.storage}({dimensions})", _OPERATORS[space.distance]
        if space.quantization is None:
            return f"USING {space.index_method} (({indexed}) {self.extension}.{space.storage}_{operators})"
        bits = f"{self.extension}.binary_quantize({indexed})::bit({dimensions})"
        return f"USING {space.index_method} (({bits}) {self.extension}.bit_hamming_ops)"

    def _parameters(self, rows: int | None = None) -> dict[str, int]:
        method, given = self.space.index_method, self.space.index_parameters
        values = {name: int(value) for name, value in complete(method, given).items()}
        if method == "ivfflat" and rows is not None:
            values.setdefault("lists", lists_for(rows))
        return values

    @staticmethod
    def _with(parameters: dict[str, int]) -> str:
        listed = ", ".join(f"{name} = {value}" for name, value in parameters.items())
        return f"WITH ({listed}) " if listed else ""

    def _bytes(self, rows: int) -> int:
        space, parameters = self.space, self._parameters(rows)
        if space.index_method == "ivfflat":
            return _lists_bytes(parameters["lists"], vector=self._vector_bytes)
        return _graph_bytes(rows, m=parameters["m"], vector=self._vector_bytes)

    @property
    def _vector_bytes(self) -> int:
        dimensions = int(self.space.dimensions)
        if self.space.quantization is not None:
            return dimensions // 8 + 9
        return dimensions * (2 if self.space.storage == "halfvec" else 4) + 8


def lists_for(rows: int) -> int:
    """The lists of an IVFFlat index over so many rows, as pgvector recommends them."""
    return max(1, rows // _ROWS_IN_A_LIST if rows <= _MANY_ROWS else math.isqrt(rows))


def _graph_bytes(rows: int, *, m: int, vector: int) -> int:
    """An HNSW graph in memory: each row's vector, its 2 m links of 16 bytes, and what else a node is.

    Measured with pgvector 0.8: 974, 1,226 and 1,738 bytes a row at m = 8, 16 and 32 with vectors of 520 bytes.
    """
    return rows * (vector + 32 * m + 200) * 11 // 10 + _BLOCK


def _lists_bytes(lists: int, *, vector: int) -> int:
    """What pgvector's k-means holds: the sampled vectors, three sets of centres, and distances between them."""
    samples = max(lists * _SAMPLES_OF_A_LIST, _LEAST_SAMPLES)
    return (samples + 3 * lists) * vector + 4 * lists * (samples + lists) + (1 << 20)


def check_indexable(space: EmbeddingSpace) -> None:
    """Refuse what pgvector cannot index, and parameters that the index method does not have."""
    most = INDEXABLE["bit" if space.quantization else space.storage]
    if space.dimensions > most:
        raise ConfigurationError(
            f"embedding space {space.name!r} has {space.dimensions} dimensions; pgvector indexes "
            f"{space.storage} up to {most}, so this space is searched exactly; "
            "ask the model for fewer dimensions to index it"
        )
    if space.index_method == "none":
        raise ConfigurationError(f"embedding space {space.name!r} has index_method 'none': it is searched exactly")
    if fault := fault_of_parameters(space.index_method, space.index_parameters):
        raise ConfigurationError(f"embedding space {space.name!r}: {fault}")
