"""How vectors are written and compared."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import aliased

from llmstack.documents.models import ChunkEmbedding
from llmstack.embeddings import Space, column_of
from llmstack.embeddings.vectors import vector_text


def _space(storage: str) -> Space:
    return Space(id=3, name="m", dimensions=256, distance="cosine", storage=storage, index_method="hnsw")


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
def test_the_text_of_a_vector_is_exact_to_four_byte_floats(vector: list[float]) -> None:
    text = vector_text(vector)
    assert (text[0], text[-1]) == ("[", "]")
    read = [struct.unpack("f", struct.pack("f", float(value)))[0] for value in text[1:-1].split(",")]
    assert read == vector


@pytest.mark.parametrize(
    ("storage", "sql"),
    [
        ("halfvec", "CAST(e.embedding AS HALFVEC(256))"),
        ("vector", "CAST(e.embedding_full AS VECTOR(256))"),
    ],
)
def test_the_column_of_a_space_has_its_storage_and_dimensions(storage: str, sql: str) -> None:
    column = column_of(_space(storage), aliased(ChunkEmbedding, name="e"))
    assert str(column.compile(dialect=postgresql.dialect())) == sql  # type: ignore[no-untyped-call]
