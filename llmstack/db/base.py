"""The declarative base that every llmstack model shares."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import DDL, DateTime, MetaData, Text, event, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from uuid_utils.compat import uuid7

from .schemas import SCHEMA_TOKEN

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Base of all llmstack models; their schema is a token that each service maps."""

    metadata = MetaData(schema=SCHEMA_TOKEN, naming_convention=NAMES)
    # What the server fills in comes back with the write: an async session cannot load it later.
    __mapper_args__ = {"eager_defaults": True}  # noqa: RUF012 - declared so by SQLAlchemy
    type_annotation_map = {  # noqa: RUF012 - declared so by SQLAlchemy
        str: Text,
        dt.datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
    }


class Identified:
    """A time-ordered uuid (version 7), made in Python so that rows can refer to one another before they exist."""

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid7)


def after_create(table: Any, *statements: str) -> None:
    """Run these on a table that `create_all` makes; `%(fullname)s` is its name. Revisions do so by themselves."""
    for statement in statements:
        event.listen(table, "after_create", DDL(statement))  # type: ignore[no-untyped-call]


class Timestamped:
    """When the row was written first and last, by the clock of the server's transaction."""

    created_at: Mapped[dt.datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[dt.datetime] = mapped_column(server_default=func.now(), onupdate=func.now())
