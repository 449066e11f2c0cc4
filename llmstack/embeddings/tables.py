"""Tables whose rows are embedded: each has a table of vectors and one of jobs beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, cast

from sqlalchemy import Boolean, ColumnElement, Table, literal_column, text
from sqlalchemy.orm import InstrumentedAttribute

from ..db.database import Service
from ..db.schemas import SCHEMA_TOKEN, qualified, quote
from ..errors import ConfigurationError, Conflict, DatabaseBehind
from .models import EmbeddingJobMixin, EmbeddingMixin, EmbeddingSpace

# Partitions repeat the keys of their parents.
_KEYS_TO_SPACES = text("""
SELECT n.nspname, c.relname FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE k.contype = 'f' AND k.conparentid = 0 AND k.confrelid = to_regclass(:spaces)
""")
_PLACE = text("""
SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(:name)
""")


def core_table(model: type[Any]) -> Table:
    """The table of a mapped class."""
    return cast(Table, model.__table__)


# Stands for a condition that is known once the rows are.
_BY_WORDS: ColumnElement[bool] = literal_column("true", Boolean())


@dataclasses.dataclass(frozen=True, eq=False)
class EmbeddedTable:
    """Rows that want vectors: where they are, what of them is embedded, and where vectors and jobs go.

    `rows` is a mapped class with `id` and `owner_id`; `wanted` is true for rows that want a vector, which without it
    are those that are searched by words. `name` is what people call the table; without one it is that of the rows.
    """

    rows: type[Any]
    embeddings: type[EmbeddingMixin]
    jobs: type[EmbeddingJobMixin]
    text: ColumnElement[str] | InstrumentedAttribute[str]
    wanted: ColumnElement[bool] = _BY_WORDS
    name: str = ""

    def __post_init__(self) -> None:
        if self.wanted is _BY_WORDS:
            object.__setattr__(self, "wanted", self.rows.search_vector.is_not(None))
        if not self.name:
            object.__setattr__(self, "name", core_table(self.rows).name)

    async def place(self, service: Service) -> str:
        """The schema of the vectors: the service's for a table of ours, else its own, or where search_path finds it."""
        table = core_table(self.embeddings)
        if table.schema == SCHEMA_TOKEN:
            return service.schema
        if table.schema is not None:
            return table.schema
        found = await service.read(lambda session: session.scalar(_PLACE, {"name": quote(table.name)}))
        if found is None:
            raise DatabaseBehind(f"table {table.name!r} does not exist; create it by the migrations that it belongs to")
        return str(found)

    def __repr__(self) -> str:
        return f"EmbeddedTable({self.name!r})"


class EmbeddedTables:
    """The embedded tables of one schema by name, in the order in which they were registered."""

    def __init__(self, tables: Iterable[EmbeddedTable] = ()) -> None:
        self._tables: dict[str, EmbeddedTable] = {}
        for table in tables:
            self.add(table)

    def add(self, table: EmbeddedTable) -> None:
        """Register a table; ConfigurationError where another one has its name."""
        if self._tables.setdefault(table.name, table) is not table:
            raise ConfigurationError(f"two embedded tables are named {table.name!r}; give one of them another name=")

    def named(self, name: str | None) -> list[EmbeddedTable]:
        """The table of this name, or all; ConfigurationError for one that was not registered."""
        if name is None:
            return list(self._tables.values())
        if name not in self._tables:
            known = ", ".join(map(repr, self._tables))
            raise ConfigurationError(f"no embedded table is named {name!r}; there are {known}")
        return [self._tables[name]]

    async def refuse_unregistered(self, service: Service) -> None:
        """Conflict where a table of vectors in spaces of this schema is not among these.

        A change of model that does not know it would leave its rows without vectors in the space that serves.
        """
        placed = [(table, await table.place(service)) for table in self]
        known = {(schema, core_table(one).name) for table, schema in placed for one in (table.embeddings, table.jobs)}
        spaces = qualified(service.schema, EmbeddingSpace.__tablename__)
        rows = await service.read(lambda session: session.execute(_KEYS_TO_SPACES, {"spaces": spaces}))
        if strange := sorted(qualified(schema, name) for schema, name in rows if (schema, name) not in known):
            raise Conflict(
                f"vectors or jobs in {', '.join(strange)} belong to these spaces too, and this process does not know "
                "their rows: name their corpus in LLMSTACK_CORPORA, or give it to stack.corpus(...)"
            )

    def __iter__(self) -> Iterator[EmbeddedTable]:
        return iter(list(self._tables.values()))
