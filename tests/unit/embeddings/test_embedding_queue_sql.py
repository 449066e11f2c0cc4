"""Statements of the queue whose shape keeps them quick on large tables."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy.dialects import postgresql

from llmstack.documents.embedding import EMBEDDED
from llmstack.embeddings import Space
from llmstack.embeddings.queue import enqueue, forget_vectors, owe

SPACE = Space(id=3, name="m", dimensions=8, distance="cosine", storage="halfvec", index_method="hnsw")


def _sql(statement: Any) -> str:
    dialect: Any = postgresql.dialect
    return " ".join(str(statement.compile(dialect=dialect())).split())


def test_what_a_row_has_is_looked_up_for_each_row_and_never_joined() -> None:
    for statement in (
        enqueue(EMBEDDED, SPACE, owner_id=None, after=None, limit=10),
        owe(EMBEDDED, [uuid.uuid4()]),
    ):
        parts = _sql(statement).split("NOT (EXISTS (")[1:]
        assert parts
        assert all("OFFSET" in part.partition("))")[0] for part in parts)


def test_rows_that_were_just_written_are_not_looked_up_at_all() -> None:
    assert "EXISTS" not in _sql(owe(EMBEDDED, [uuid.uuid4()], are_new=True))


def test_vectors_are_forgotten_along_the_key_from_where_the_last_page_ended() -> None:
    sql = _sql(forget_vectors(EMBEDDED, SPACE, after=("acme", uuid.uuid4()), limit=10))
    assert "(chunk_embeddings.owner_id, chunk_embeddings.row_id) > (" in sql.replace("llmstack.", "")
    assert "ORDER BY chunk_embeddings.owner_id, chunk_embeddings.row_id LIMIT" in sql.replace("llmstack.", "")
