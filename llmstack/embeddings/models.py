"""Embedding spaces, and the columns that any embedded table shares."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from pgvector.sqlalchemy import HALFVEC, VECTOR
from sqlalchemy import (
    CheckConstraint,
    Connection,
    DateTime,
    ForeignKeyConstraint,
    Identity,
    Index,
    SmallInteger,
    Table,
    Text,
    event,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from ..db.base import Base, Timestamped, after_create
from ..db.schemas import qualified, quote

DISTANCES = ("cosine", "inner_product", "l2")
INDEX_METHODS = ("hnsw", "ivfflat", "none")
QUANTIZATIONS = ("binary",)
STATES = ("active", "shadow", "retired")
STORAGES = ("halfvec", "vector")


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    allowed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({allowed})", name=column)


class EmbeddingSpace(Timestamped, Base):
    """A model and its dimensions: vectors are comparable inside one space alone.

    `served_until` is when another space became the default in its stead; the latest is the way back.
    """

    __tablename__ = "embedding_spaces"
    __table_args__ = (
        _one_of("distance", DISTANCES),
        _one_of("storage", STORAGES),
        _one_of("index_method", INDEX_METHODS),
        _one_of("state", STATES),
        _one_of("quantization", QUANTIZATIONS),
        CheckConstraint("dimensions BETWEEN 1 AND 16000", name="dimensions"),
        CheckConstraint("NOT is_default OR state = 'active'", name="default_is_active"),
        Index("uq_embedding_spaces_default", "is_default", unique=True, postgresql_where=text("is_default")),
    )

    id: Mapped[int] = mapped_column(SmallInteger, Identity(always=True), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    provider: Mapped[str]
    model: Mapped[str]
    dimensions: Mapped[int]
    distance: Mapped[str] = mapped_column(server_default="cosine")
    storage: Mapped[str] = mapped_column(server_default="halfvec")
    index_method: Mapped[str] = mapped_column(server_default="hnsw")
    index_parameters: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    state: Mapped[str] = mapped_column(server_default="active")
    is_default: Mapped[bool] = mapped_column(server_default=text("false"))
    quantization: Mapped[str | None]
    served_until: Mapped[dt.datetime | None]


class EmbeddingMixin:
    """One vector of one row in one space; exactly one of the two storages is filled.

    `searchable` repeats whether its row is ranked, so that the vector leg needs no join.
    """

    owner_id: Mapped[str] = mapped_column(Text, primary_key=True)
    row_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    space_id: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    embedding: Mapped[Any | None] = mapped_column(HALFVEC())
    embedding_full: Mapped[Any | None] = mapped_column(VECTOR())
    searchable: Mapped[bool] = mapped_column(server_default=text("true"))


@event.listens_for(EmbeddingMixin, "instrument_class", propagate=True)
def _leave_unanalyzed(mapper: Any, _class: type[Any]) -> None:
    # Nothing reads the statistics of vectors, and they are large.
    for column in ("embedding", "embedding_full"):
        after_create(mapper.local_table, f"ALTER TABLE %(fullname)s ALTER COLUMN {column} SET STATISTICS 0")
    event.listen(mapper.local_table, "after_create", _make_partitions)


def _make_partitions(table: Table, connection: Connection, **_: Any) -> None:
    schema, count = connection.schema_for_object(table), table.info.get("partitions", 0)
    for number in range(count):
        part, whole = (
            quote(name) if schema is None else qualified(schema, name)
            for name in (f"{table.name}_p{number:02d}", table.name)
        )
        connection.exec_driver_sql(
            f"CREATE TABLE {part} PARTITION OF {whole} FOR VALUES WITH (MODULUS {count}, REMAINDER {number})"
        )


class EmbeddingJobMixin:
    """A row whose vector is still owed; it goes when the vector is stored."""

    owner_id: Mapped[str] = mapped_column(Text, primary_key=True)
    row_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    space_id: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    # Typed here, for a host's base may take a datetime for one without a time zone.
    leased_until: Mapped[dt.datetime | None] = mapped_column(DateTime(timezone=True))
    last_error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


def vector_table(rows: type[Any], *, partitions: int = 1) -> tuple[Any, ...]:
    """`__table_args__` of a table of vectors: its keys to the rows and to the spaces.

    Hash partitions by owner keep large tenants out of one another's graphs; `create_all` makes them, too.
    """
    keys = (
        _key_to(rows),
        ForeignKeyConstraint(["space_id"], [EmbeddingSpace.id]),
        CheckConstraint("num_nonnulls(embedding, embedding_full) = 1", name="one_storage"),
    )
    if partitions == 1:
        return keys
    return (*keys, {"postgresql_partition_by": "HASH (owner_id)", "info": {"partitions": partitions}})


def job_table(rows: type[Any]) -> tuple[Any, ...]:
    """`__table_args__` of a table of jobs: its keys to the rows and to the spaces, and the order of the queue."""
    return (
        _key_to(rows),
        ForeignKeyConstraint(["space_id"], [EmbeddingSpace.id]),
        Index(None, "space_id", "attempts", "leased_until"),
    )


def _key_to(rows: type[Any]) -> ForeignKeyConstraint:
    columns = rows.__table__.c
    return ForeignKeyConstraint(["owner_id", "row_id"], [columns.owner_id, columns.id], ondelete="CASCADE")
