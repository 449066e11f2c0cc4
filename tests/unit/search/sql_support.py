"""Statements as the text that PostgreSQL gets."""

from __future__ import annotations

import re
from typing import Any

from pgvector.sqlalchemy import HALFVEC
from sqlalchemy import cast
from sqlalchemy.dialects import postgresql

from llmstack.documents.models import Chunk, ChunkEmbedding
from llmstack.search import VectorSource, hybrid

SOURCE = VectorSource(
    id=ChunkEmbedding.row_id,
    owner_id=ChunkEmbedding.owner_id,
    embedding=cast(ChunkEmbedding.embedding, HALFVEC(3)),
    where=(ChunkEmbedding.space_id == 1,),
)
VECTOR = [1.0, 0.0, 0.5]
BOTH: dict[str, Any] = {"query": "tax law", "vector": VECTOR, "source": SOURCE}


def compiled(statement: Any, **keywords: Any) -> Any:
    """The statement for PostgreSQL, with its parameters."""
    return statement.compile(dialect=postgresql.dialect(paramstyle="named"), **keywords)  # type: ignore[no-untyped-call]


def sql_of(statement: Any) -> str:
    """The statement on one line."""
    return " ".join(str(compiled(statement)).split())


def search_sql(**arguments: Any) -> str:
    """A search of the chunks, on one line."""
    return sql_of(searched(**arguments))


def searched(**arguments: Any) -> Any:
    """A search of one owner's chunks."""
    return hybrid(Chunk, corpus="documents", owner_id="acme", **arguments)


def cte(sql: str, name: str) -> str:
    """The body of a common table expression."""
    found = re.search(rf"\b{name} AS (MATERIALIZED )?\(", sql)
    assert found is not None, f"no {name} in {sql}"
    depth, start = 1, found.end()
    for place in range(start, len(sql)):
        depth += {"(": 1, ")": -1}.get(sql[place], 0)
        if depth == 0:
            return sql[start:place].strip()
    raise AssertionError(name)
